//! MurmurHash3, the 32-bit variant for x86, by which lexical models give words an index without a vocabulary.
//!
//! Source: Austin Appleby's public-domain `MurmurHash3_x86_32`, whose constants these are.

/// The index of a word: the absolute value of its signed 32-bit hash with seed 0, as fastembed, `mmh3` and
/// Qdrant compute it. It is at most 2^31, and among some 50,000 words two are likely to
/// share an index.
///
/// ```
/// assert_eq!(candlewick_models::lexical::word_index("hello"), 613_153_351);
/// ```
pub fn word_index(word: &str) -> u32 {
    murmur3(word.as_bytes(), 0).cast_signed().unsigned_abs()
}

fn murmur3(bytes: &[u8], seed: u32) -> u32 {
    let mut hash = seed;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        hash ^= scramble(little_endian(block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    hash ^= scramble(little_endian(blocks.remainder()));
    // The algorithm takes the length modulo 2^32.
    hash ^= bytes.len() as u32;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Of an empty remainder this is 0, and mixing 0 in changes nothing.
fn scramble(block: u32) -> u32 {
    block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

/// The number of four bytes at most, the first being the lowest.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_reference() {
        // From SMHasher's own verification and from well-known tables of this hash.
        assert_eq!(murmur3(b"", 0), 0);
        assert_eq!(murmur3(b"", 1), 0x514e_28b7);
        assert_eq!(murmur3(b"test", 0), 0xba6b_d213);
        assert_eq!(murmur3(b"Hello, world!", 0), 0xc036_3e43);
        assert_eq!(murmur3(b"The quick brown fox jumps over the lazy dog", 0x9747_b28c), 0x2fa8_26cd);
    }

    #[test]
    fn lengths_that_are_no_multiple_of_four() {
        // Computed with the Python package mmh3 5.3.1.
        for (word, index) in
            [("", 0), ("a", 1_009_084_850), ("größten", 737_673_727), ("日本語", 1_515_949_417)]
        {
            assert_eq!(word_index(word), index, "{word}");
        }
    }

    #[test]
    fn two_words_of_one_index() {
        assert_eq!(word_index("w30181"), 1_823_147_687);
        assert_eq!(word_index("w38066"), 1_823_147_687);
    }
}

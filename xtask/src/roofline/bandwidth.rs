//! How fast memory can be read: sequentially, by loops that do little but add up what they read.

use std::hint::black_box;

use super::peak::best_rate;

/// Bytes that are read between two looks at the clock, at least: a millisecond from a cache.
const BYTES_READ: usize = 64 << 20;

/// A buffer that fits a level of memory, and none above it.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: &'static str,
    /// Bytes of one thread's buffer where the level is private to a core, of all threads' where it is shared.
    pub(super) bytes: usize,
    pub(super) is_shared: bool,
}

/// A quarter of each cache, so that whatever else is in it leaves room, and four times the last one.
pub(super) fn levels() -> [Level; 3] {
    let second = cache_bytes(2).unwrap_or(1 << 20);
    let third = cache_bytes(3).unwrap_or(32 << 20);
    [
        Level { name: "L2", bytes: second / 4, is_shared: false },
        Level { name: "L3", bytes: third / 4, is_shared: true },
        Level { name: "DRAM", bytes: 4 * third, is_shared: true },
    ]
}

/// Bytes per second that all threads read together, the best of several repetitions.
pub(super) fn rate(level: &Level, threads: usize, repetitions: usize) -> f64 {
    let bytes = if level.is_shared { level.bytes / threads } else { level.bytes };
    let words = bytes / size_of::<u64>();
    let buffers: Vec<Vec<u64>> = (0..threads).map(|thread| vec![thread as u64 + 1; words]).collect();
    let passes = BYTES_READ.div_ceil(bytes);
    let work = (passes * words * size_of::<u64>()) as f64;
    best_rate(threads, repetitions, work, |thread| {
        for _ in 0..passes {
            black_box(sum(black_box(&buffers[thread])));
        }
    })
}

/// The sum of all words, modulo 2^64.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(words: &[u64]) -> u64 {
            sum_loop(words)
        }
        #[target_feature(enable = "avx2")]
        fn avx2(words: &[u64]) -> u64 {
            sum_loop(words)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature that the function is compiled for was just detected.
            return unsafe { avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature that the function is compiled for was just detected.
            return unsafe { avx2(words) };
        }
    }
    sum_loop(words)
}

/// 64 running sums, eight registers of AVX-512: additions never wait for each other.
#[inline(always)]
fn sum_loop(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<64>();
    let mut sums = [0u64; 64];
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// The size of the first processor's data cache of this level, where Linux tells.
fn cache_bytes(level: usize) -> Option<usize> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    caches.flatten().find_map(|cache| {
        let field = |name| Some(std::fs::read_to_string(cache.path().join(name)).ok()?.trim().to_owned());
        let is_wanted = field("level")?.parse() == Ok(level) && field("type")? != "Instruction";
        if is_wanted { kibibytes(&field("size")?) } else { None }
    })
}

/// "1024K" in bytes.
fn kibibytes(text: &str) -> Option<usize> {
    Some(text.strip_suffix('K')?.parse::<usize>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let words: Vec<u64> = (0..length).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let expected = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            assert_eq!(sum(&words), expected, "{length}");
            assert_eq!(sum_loop(&words), expected, "{length}");
        }
    }

    #[test]
    fn sizes_are_read_as_linux_writes_them() {
        assert_eq!(kibibytes("1024K"), Some(1 << 20));
        assert_eq!(kibibytes("32M"), None);
    }
}

//! The random numbers of NumPy's `default_rng(seed)`, bit for bit: its seeding (`SeedSequence`), its generator
//! (PCG64: O'Neill, PCG XSL-RR 128/64) and two of its distributions.
//!
//! MUVERA's projections are random, and vectors that were encoded with other projections cannot be compared; so
//! whoever has encodings made in Python needs these numbers and no others.

use super::ziggurat::{HEIGHTS, INSIDE, INVERSE_TAIL, TAIL, WIDTHS};

/// NumPy's `Generator(PCG64(seed))`.
#[derive(Clone, Debug)]
pub(super) struct NumpyRandom {
    state: u128,
    increment: u128,
    /// The upper half of a draw of which the lower half was taken.
    half: Option<u32>,
}

impl NumpyRandom {
    pub(super) fn new(seed: u64) -> Self {
        let words = seed_words::<8>(seed);
        let word = |at: usize| u128::from(words[2 * at]) | u128::from(words[2 * at + 1]) << 32;
        let (start, sequence) = (word(0) << 64 | word(1), word(2) << 64 | word(3));
        let mut random = Self { state: 0, increment: sequence << 1 | 1, half: None };
        random.step();
        random.state = random.state.wrapping_add(start);
        random.step();
        random
    }

    /// `normal()`: the standard normal distribution.
    ///
    /// The bits of about one draw in four thousand, those beyond 3.65, depend on the system's logarithm, as
    /// NumPy's do.
    pub(super) fn normal(&mut self) -> f64 {
        loop {
            let draw = self.next_u64();
            let layer = (draw & 0xff) as usize;
            let is_negative = draw >> 8 & 1 == 1;
            let distance = draw >> 9 & ((1 << 52) - 1);
            let x = distance as f64 * WIDTHS[layer];
            let signed = |x: f64| if is_negative { -x } else { x };
            if distance < INSIDE[layer] {
                return signed(x);
            }
            if layer == 0 {
                let beyond = TAIL + self.tail();
                // The sign is another bit than for all other draws.
                return if distance >> 8 & 1 == 1 { -beyond } else { beyond };
            }
            let height = (HEIGHTS[layer - 1] - HEIGHTS[layer]) * self.uniform() + HEIGHTS[layer];
            if height < (-0.5 * x * x).exp() {
                return signed(x);
            }
        }
    }

    /// How far beyond [`TAIL`] a draw of the tail is (Marsaglia, 1964).
    fn tail(&mut self) -> f64 {
        loop {
            let x = -INVERSE_TAIL * (-self.uniform()).ln_1p();
            let y = -(-self.uniform()).ln_1p();
            if y + y > x * x {
                return x;
            }
        }
    }

    /// One element of `choice([-1, 1], size=...)`: an index below 2, which NumPy draws by Lemire's method, here the
    /// uppermost bit of 32.
    pub(super) fn sign(&mut self) -> i8 {
        if self.next_u32() >> 31 == 1 { 1 } else { -1 }
    }

    /// `random()`: uniform in 0..1.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let draw = self.next_u64();
        self.half = Some((draw >> 32) as u32);
        draw as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }
}

/// `SeedSequence(seed).generate_state(N)`: a pool of four words in which every bit of the seed reaches every word
/// (after O'Neill's `seed_seq_fe`), and words that are hashed from it.
fn seed_words<const N: usize>(seed: u64) -> [u32; N] {
    let mut hash = Hash { key: 0x43b0_d7e5, multiplier: 0x931e_8875 };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(|word| hash.next(word));
    for from in 0..pool.len() {
        for to in 0..pool.len() {
            if from != to {
                let hashed = hash.next(pool[from]);
                let mixed =
                    0xca01_f9dd_u32.wrapping_mul(pool[to]).wrapping_sub(0x4973_f715_u32.wrapping_mul(hashed));
                pool[to] = mixed ^ mixed >> 16;
            }
        }
    }
    let mut hash = Hash { key: 0x8b51_f9dd, multiplier: 0x58f3_8ded };
    std::array::from_fn(|at| hash.next(pool[at % pool.len()]))
}

/// A hash of words whose key changes from one to the next.
struct Hash {
    key: u32,
    multiplier: u32,
}

impl Hash {
    fn next(&mut self, word: u32) -> u32 {
        let word = word ^ self.key;
        self.key = self.key.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.key);
        word ^ word >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// What xtask/fixtures/multi_vector.py recorded.
    #[derive(Deserialize)]
    struct Draws {
        seed: u64,
        raw: Vec<u64>,
        normals_bits: Vec<u64>,
        signs_after: Vec<i8>,
        many: usize,
        sum_of_bits: u64,
        beyond_tail: usize,
        signs_sum_after_many: i64,
    }

    #[test]
    fn draws_are_numpys() {
        for expected in crate::multi_vector::tests::fixture::<Vec<Draws>>("random.json") {
            let start = NumpyRandom::new(expected.seed);
            let mut random = start.clone();
            let raw: Vec<u64> = expected.raw.iter().map(|_| random.next_u64()).collect();
            assert_eq!(raw, expected.raw, "seed {}", expected.seed);

            let mut random = start.clone();
            let bits: Vec<u64> = expected.normals_bits.iter().map(|_| random.normal().to_bits()).collect();
            assert_eq!(bits, expected.normals_bits, "seed {}", expected.seed);
            let signs: Vec<i8> = expected.signs_after.iter().map(|_| random.sign()).collect();
            assert_eq!(signs, expected.signs_after, "seed {}", expected.seed);

            let (mut random, mut sum, mut beyond) = (start, 0u64, 0);
            for _ in 0..expected.many {
                let normal = random.normal();
                sum = sum.wrapping_add(normal.to_bits());
                beyond += usize::from(normal.abs() > TAIL);
            }
            assert_eq!((sum, beyond), (expected.sum_of_bits, expected.beyond_tail), "seed {}", expected.seed);
            let signs: i64 = (0..expected.many).map(|_| i64::from(random.sign())).sum();
            assert_eq!(signs, expected.signs_sum_after_many, "seed {}", expected.seed);
        }
    }
}

//! What the processor can do at most: arithmetic with operands in registers, reading from each level of memory.

use std::sync::Barrier;
use std::time::Instant;

use candlewick_engine::Precision;

#[cfg(target_arch = "aarch64")]
use super::aarch64 as instructions;
#[cfg(target_arch = "x86_64")]
use super::x86 as instructions;

/// Iterations of an instruction's loop that are timed together: about a millisecond, so that some repetition is
/// left alone by other programs, also on all threads at once.
const ITERATIONS: u64 = 250_000;

/// The elements that products are computed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// f32, by fused multiplication and addition.
    F32,
    /// Pairs of bf16, summed in f32.
    Bf16,
    /// Fours of int8, summed in int32.
    Int8,
}

impl Arithmetic {
    pub(super) const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8];

    pub(super) fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::Int8 => "int8",
        }
    }
}

/// An instruction that the processor has, in a loop.
pub(super) struct Unit {
    pub(super) name: &'static str,
    pub(super) arithmetic: Arithmetic,
    /// Multiplications and additions of one iteration.
    pub(super) operations: f64,
    /// Runs so many iterations and returns a number that depends on all of them. To be called only where the
    /// instruction was detected: whoever makes a unit vouches for that.
    pub(super) run: unsafe fn(u64) -> f64,
}

impl Unit {
    fn run(&self, iterations: u64) -> f64 {
        // SAFETY: units are made only by `instructions::units`, for instructions that it has just detected.
        unsafe { (self.run)(iterations) }
    }

    /// Operations per second of all threads together, the best of several repetitions.
    pub(super) fn rate(&self, threads: usize, repetitions: usize) -> f64 {
        best_rate(threads, repetitions, self.operations * ITERATIONS as f64, |_| {
            std::hint::black_box(self.run(ITERATIONS));
        })
    }
}

/// The instructions that this processor has, and Rust has intrinsics for.
pub(super) fn units() -> Vec<Unit> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        instructions::units()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

/// The fastest instruction on one thread for linear layers of this precision, or for f32, in which the engine
/// computes where there is none.
pub(super) fn fastest(precision: Precision) -> Option<Unit> {
    let wanted = match precision {
        Precision::Bf16 => Arithmetic::Bf16,
        Precision::Int8 => Arithmetic::Int8,
        // Weights in f16 are widened to f32.
        _ => Arithmetic::F32,
    };
    let fastest_of = |arithmetic| {
        let candidates = units().into_iter().filter(|unit| unit.arithmetic == arithmetic);
        let measured = candidates.map(|unit| (unit.rate(1, 20), unit));
        measured.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, unit)| unit)
    };
    fastest_of(wanted).or_else(|| fastest_of(Arithmetic::F32))
}

/// Work per second when each thread does `work`, from the start of the first to the end of the last; the best
/// of several repetitions. `run` is told which thread it is.
pub(super) fn best_rate(threads: usize, repetitions: usize, work: f64, run: impl Fn(usize) + Sync) -> f64 {
    let once = || match threads {
        1 => {
            let started = Instant::now();
            run(0);
            started.elapsed().as_secs_f64()
        }
        _ => seconds_of_threads(threads, &run),
    };
    let seconds = (0..repetitions).map(|_| once()).fold(f64::INFINITY, f64::min);
    threads as f64 * work / seconds
}

fn seconds_of_threads(threads: usize, run: &(impl Fn(usize) + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let timed = |thread| {
        barrier.wait();
        let started = Instant::now();
        run(thread);
        (started, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || timed(thread))).collect();
        let join = |worker: std::thread::ScopedJoinHandle<_>| worker.join().expect("loops do not panic");
        workers.into_iter().map(join).collect()
    });
    let first = times.iter().map(|(started, _)| *started).min().expect("there is a thread");
    let last = times.iter().map(|(_, ended)| *ended).max().expect("there is a thread");
    (last - first).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_computes_what_it_says() {
        for unit in units() {
            let chains = match unit.name {
                "fmla, NEON" => 16.0,
                _ => 12.0,
            };
            // The chains start at 0, 1, 2, ...
            let start = chains * (chains - 1.0) / 2.0;
            let expected = match unit.arithmetic {
                // Half of the way to 1 in every iteration.
                Arithmetic::F32 => (start - chains) / 8.0 + chains,
                Arithmetic::Bf16 => start + 3.0 * 2.0 * chains,
                Arithmetic::Int8 => start + 3.0 * 4.0 * chains,
            };
            assert_eq!(unit.run(3), expected, "{}", unit.name);
        }
    }

    #[test]
    fn all_threads_take_part() {
        let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
        let rate = best_rate(3, 2, 1.0, |thread| {
            seen.lock().unwrap().insert(thread);
        });
        assert!(rate > 0.0);
        assert_eq!(seen.into_inner().unwrap().len(), 3);
    }
}

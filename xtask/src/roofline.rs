//! `cargo xtask roofline`: what this machine can do at most, and how much of it the encoder uses.
//!
//! The roofline model (Williams, Waterman and Patterson, doi:10.1145/1498765.1498785): a program is bounded by
//! the arithmetic that a processor can do, or by the memory that it can read. Both are measured here instead of
//! taken from a data sheet, since clocks, virtual machines and neighbours differ. They also change from one
//! second to the next, so each job is compared with the peak right before and after it.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod bandwidth;
mod layers;
mod peak;
mod report;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candlewick_engine::{Batch, Precision, TextEncoder, ThreadPool};
use candlewick_models::LoadOptions;

use crate::compare::{machine, stats};
use crate::workload::{self, Job, ModelShape, SHAPES};
use bandwidth::Level;
use layers::{Kind, Layers, Operations};
use peak::{Arithmetic, Unit};

/// Repetitions of a peak in the table, and beside a job.
const REPETITIONS: usize = 50;
const REPETITIONS_BESIDE: usize = 20;

/// Rounds of a job, unless time is over before.
const ROUNDS: usize = 9;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Threads that run a job's batches.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    threads: Vec<usize>,
    /// Only models whose name contains this: MiniLM, base, large.
    #[arg(long, value_name = "TEXT", default_value = "")]
    model: String,
    /// Only jobs whose name contains this: 1x16, 32x128, 8x512, log-normal.
    #[arg(long, value_name = "TEXT", default_value = "")]
    job: String,
    /// Precisions of the linear layers: f32, f16, bf16, int8.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
    /// Seconds after which no further round of a job begins.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Measure the machine only, no model.
    #[arg(long, conflicts_with_all = ["model", "job", "precision", "seconds"])]
    peak_only: bool,
}

/// The machine's peaks, per second; `None` where there is no such instruction.
#[derive(Debug)]
struct Peaks {
    machine: String,
    /// Of the columns.
    threads: Vec<usize>,
    arithmetic: Vec<(Arithmetic, &'static str, Vec<Option<f64>>)>,
    bandwidth: Vec<(Level, Vec<Option<f64>>)>,
}

/// One job on one model.
#[derive(Debug)]
struct JobRow {
    shape: &'static str,
    job: &'static str,
    precision: Precision,
    threads: usize,
    tokens: usize,
    seconds: f64,
    operations: f64,
    /// Of the peak: the median of the rounds, and their range.
    share: f64,
    range: (f64, f64),
    layers: Vec<LayerRow>,
}

/// All layers of one kind in a job.
#[derive(Debug)]
struct LayerRow {
    name: &'static str,
    seconds: f64,
    operations: Option<f64>,
    /// Of the peak.
    share: Option<f64>,
}

/// Measures, and prints the tables.
///
/// # Errors
///
/// When no job is left to measure, or a model cannot be had.
pub fn main(options: &Options) -> Result<()> {
    ensure!(options.threads.iter().all(|&threads| threads > 0), "--threads must be at least 1");
    let jobs: Vec<Job> = workload::jobs().into_iter().filter(|job| job.name.contains(&options.job)).collect();
    let is_wanted = |shape: &&ModelShape| shape.name.to_lowercase().contains(&options.model.to_lowercase());
    let shapes: Vec<&ModelShape> = SHAPES.iter().filter(is_wanted).collect();
    ensure!(!jobs.is_empty(), "no job's name contains `{}`", options.job);
    ensure!(!shapes.is_empty(), "no model's name contains `{}`", options.model);
    let mut out = std::io::stdout().lock();
    report::peaks(&mut out, &measure_peaks(&options.threads))?;
    if options.peak_only {
        return Ok(());
    }
    report::job_heading(&mut out)?;
    let mut rows = Vec::new();
    let mut done = |row| {
        report::job(&mut out, &row)?;
        out.flush()?;
        rows.push(row);
        Ok(())
    };
    for shape in shapes {
        for &precision in &options.precision {
            measure_shape(shape, precision, &jobs, options, &mut done)?;
        }
    }
    report::layers(&mut out, &rows)?;
    report::legend(&mut out).context("could not write to standard output")
}

/// On one thread, on all that the process may use, and on as many as jobs get.
fn measure_peaks(threads: &[usize]) -> Peaks {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads: Vec<usize> = threads.iter().copied().chain([1, all]).collect();
    threads.sort_unstable();
    threads.dedup();
    let mut arithmetic = Vec::new();
    for kind in Arithmetic::ALL {
        let units: Vec<Unit> = peak::units().into_iter().filter(|unit| unit.arithmetic == kind).collect();
        if units.is_empty() {
            arithmetic.push((kind, "n/a", vec![None; threads.len()]));
        }
        for unit in units {
            let rates = threads.iter().map(|&threads| Some(unit.rate(threads, REPETITIONS))).collect();
            arithmetic.push((kind, unit.name, rates));
        }
    }
    let measure = |level: Level| {
        let rates = threads.iter().map(|&threads| Some(bandwidth::rate(&level, threads, REPETITIONS)));
        (rates.collect(), level)
    };
    let bandwidth = bandwidth::levels().map(measure).map(|(rates, level)| (level, rates)).into();
    Peaks { machine: machine::describe(), threads, arithmetic, bandwidth }
}

/// All jobs on one model in one precision, each handed to `done` as soon as it is measured.
fn measure_shape(
    shape: &ModelShape,
    precision: Precision,
    jobs: &[Job],
    options: &Options,
    done: &mut impl FnMut(JobRow) -> Result<()>,
) -> Result<()> {
    let peak = |precision| peak::fastest(precision).context("this processor's peak is not known");
    let attention_precision = match precision {
        Precision::Bf16 | Precision::Int8 => Precision::Bf16,
        _ => Precision::F32,
    };
    let model = shape.load(LoadOptions::new().threads(1).precision(precision))?;
    let bench = Bench {
        shape,
        precision,
        linear_peak: peak(precision)?,
        attention_peak: peak(attention_precision)?,
        encoder: model.encoder()?,
        layers: Layers::new(shape, precision)?,
    };
    for job in jobs {
        for &threads in &options.threads {
            let row = bench.measure(job, threads, options.seconds);
            done(row.with_context(|| format!("{} on the shape {} in {precision}", job.name, shape.name))?)?;
        }
    }
    Ok(())
}

/// A model on the test bench.
struct Bench<'a> {
    shape: &'a ModelShape,
    precision: Precision,
    /// The instructions whose rates are the peak.
    linear_peak: Unit,
    attention_peak: Unit,
    encoder: &'a dyn TextEncoder,
    layers: Layers,
}

/// Seconds, and operations per second around them.
struct Timing {
    seconds: f64,
    peak: Operations,
}

impl Bench<'_> {
    fn measure(&self, job: &Job, threads: usize, seconds: f64) -> Result<JobRow> {
        let (pool, batches, plan) = (ThreadPool::new(Some(threads))?, job.batches(), job.plan());
        // Weights and code are in memory before anything is timed.
        self.run(&pool, &batches)?;
        let (mut jobs, mut layers) = (Vec::new(), Kind::ALL.map(|_| Vec::new()));
        let started = Instant::now();
        while jobs.is_empty() || (jobs.len() < ROUNDS && started.elapsed().as_secs_f64() < seconds) {
            jobs.push(self.time(threads, || layers::fastest(|| self.run(&pool, &batches)))?);
            // With several threads batches run side by side, and a layer's share of the time is no share of it.
            if threads == 1 {
                for (kind, timings) in Kind::ALL.into_iter().zip(&mut layers) {
                    timings.push(self.time(1, || self.layers.seconds(kind, &plan))?);
                }
            }
        }
        let operations = Operations::of(self.shape, &job.lengths);
        let shares = shares(&jobs, operations);
        let layer = |(kind, timings): (Kind, Vec<Timing>)| LayerRow {
            name: kind.name(),
            seconds: median_seconds(&timings),
            operations: kind.part(operations).map(Operations::sum),
            share: kind.part(operations).map(|part| stats::median(&self::shares(&timings, part))),
        };
        let layers = Kind::ALL.into_iter().zip(layers).filter(|(_, timings)| !timings.is_empty());
        Ok(JobRow {
            shape: self.shape.name,
            job: job.name,
            precision: self.precision,
            threads,
            tokens: job.tokens(),
            seconds: median_seconds(&jobs),
            operations: operations.sum(),
            share: stats::median(&shares),
            range: stats::range(&shares),
            layers: layers.map(layer).collect(),
        })
    }

    fn run(&self, pool: &ThreadPool, batches: &[Batch]) -> Result<()> {
        pool.try_map(batches, |batch| self.encoder.forward(batch).map(drop))?;
        Ok(())
    }

    /// The peak is the mean of what it is before and after.
    fn time(&self, threads: usize, run: impl FnOnce() -> Result<f64>) -> Result<Timing> {
        let peak = || Operations {
            linear: self.linear_peak.rate(threads, REPETITIONS_BESIDE),
            attention: self.attention_peak.rate(threads, REPETITIONS_BESIDE),
        };
        let before = peak();
        let seconds = run()?;
        let after = peak();
        let peak = Operations {
            linear: f64::midpoint(before.linear, after.linear),
            attention: f64::midpoint(before.attention, after.attention),
        };
        Ok(Timing { seconds, peak })
    }
}

/// Of the peak, when these operations were done: the time that they need at least, over the time that they took.
fn shares(timings: &[Timing], operations: Operations) -> Vec<f64> {
    timings.iter().map(|timing| operations.seconds_at(timing.peak) / timing.seconds).collect()
}

fn median_seconds(timings: &[Timing]) -> f64 {
    stats::median(&timings.iter().map(|timing| timing.seconds).collect::<Vec<_>>())
}

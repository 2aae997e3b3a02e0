//! The encoder alone, on one thread: every model shape, several jobs. Throughput is tokens per second.
//!
//! Criterion takes ten samples at least, so jobs of many seconds are left to `cargo xtask roofline`, and the
//! larger models do what is one batch of them here.

use std::cell::LazyCell;
use std::time::Duration;

use candlewick_engine::Batch;
use candlewick_models::LoadOptions;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use xtask::workload::{Job, SHAPES, jobs};

/// Floating-point operations of one sample, at most: a second or two.
const MOST_FLOPS: f64 = 100e9;

fn encoder(criterion: &mut Criterion) {
    let mut jobs = jobs();
    jobs.push(Job { name: "1x128", lengths: vec![128] });
    jobs.push(Job { name: "1x512", lengths: vec![512] });
    let mut group = criterion.benchmark_group("encoder");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for shape in SHAPES {
        // Loaded by the first benchmark that runs, if any of this shape does.
        let model =
            LazyCell::new(|| shape.load(LoadOptions::new().threads(1)).expect("the weights can be had"));
        for job in jobs.iter().filter(|job| shape.flops(&job.lengths) < MOST_FLOPS) {
            let batches: Vec<Batch> = job.batches();
            group.throughput(Throughput::Elements(job.tokens() as u64));
            group.bench_function(format!("{} {}", shape.name, job.name), |bencher| {
                let encoder = model.encoder().expect("the weights can be read");
                bencher.iter(|| {
                    for batch in &batches {
                        encoder.forward(batch).expect("the batch is valid");
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, encoder);
criterion_main!(benches);

//! The encoder alone: one thread, MiniLM, several shapes. Throughput is tokens per second.

use std::time::Duration;

use candlewick_benches::{batch, log_normal_lengths, minilm};
use candlewick_engine::{Batch, plan};
use candlewick_models::LoadOptions;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn encoder(criterion: &mut Criterion) {
    let model = minilm().expect("the weights can be had");
    let encoder = model.encoder().expect("the weights can be read");
    let mixed = log_normal_lengths(64, 512);
    let budget = LoadOptions::DEFAULT_BATCH_TOKENS;
    let cut = |lengths: &[usize]| -> Vec<Batch> {
        let batches = plan(lengths, budget);
        let lengths = |batch: &Vec<usize>| batch.iter().map(|&index| lengths[index]).collect::<Vec<_>>();
        batches.iter().map(|indices| batch(&lengths(indices))).collect()
    };
    let mut group = criterion.benchmark_group("encoder");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let shapes =
        [("1x16", vec![16]), ("32x128", vec![128; 32]), ("8x512", vec![512; 8]), ("64 log-normal", mixed)];
    for (name, lengths) in shapes {
        let batches = cut(&lengths);
        group.throughput(Throughput::Elements(lengths.iter().sum::<usize>() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for batch in &batches {
                    encoder.forward(batch).expect("the batch is valid");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encoder);
criterion_main!(benches);

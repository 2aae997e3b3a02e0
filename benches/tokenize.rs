//! Tokenization alone: one thread, real text. Throughput is bytes per second.

use candlewick_benches::minilm;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn tokenize(criterion: &mut Criterion) {
    let model = minilm().expect("the weights can be had");
    let texts = xtask::corpus::texts(256).expect("the dependencies' sources are there");
    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    group.bench_function("256 real texts", |bencher| {
        bencher.iter(|| model.token_count(&texts).expect("every text can be tokenized"));
    });
    group.finish();
}

criterion_group!(benches, tokenize);
criterion_main!(benches);

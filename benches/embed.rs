//! Texts to embeddings, end to end, through the facade. Throughput is texts per second.

use std::time::Duration;

use candlewick::{LoadOptions, TextEmbedding};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn embed(criterion: &mut Criterion) {
    let texts = xtask::corpus::texts(128).expect("the dependencies' sources are there");
    let mut group = criterion.benchmark_group("embed");
    group.sample_size(10).measurement_time(Duration::from_secs(15));
    for threads in [1, 2] {
        let options = LoadOptions::new().threads(threads);
        let model = TextEmbedding::load_with("all-MiniLM-L6-v2", options).expect("the weights can be had");
        group.throughput(Throughput::Elements(texts.len() as u64));
        group.bench_function(format!("128 real texts, {threads} threads"), |bencher| {
            bencher.iter(|| model.embed(&texts).expect("every text can be embedded"));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one query, {threads} threads"), |bencher| {
            bencher.iter(|| model.embed(&["how do I keep a candle burning?"]).expect("it is text"));
        });
    }
    group.finish();
}

criterion_group!(benches, embed);
criterion_main!(benches);

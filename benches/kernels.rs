//! The CPU kernels, one by one, on one thread. Throughput of linear layers and attention is in floating-point
//! operations per second (criterion calls them elements), that of the others in elements of the output.

use std::time::Duration;

use candle_core::{Device, Tensor};
use candlewick_benches::matrix;
use candlewick_engine::Precision;
use candlewick_engine::kernels::{
    Activation, AttentionOptions, AttentionShape, LayerNormOp, PackedLinear, attention, attention_with,
    mean_pool,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use xtask::workload::{ModelShape, SHAPES, batch, values};

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    // Flat: the slowest of these take longer than the growing samples of the default have room for.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
}

/// MiniLM and base: the sizes in between and beyond behave alike.
fn shapes() -> &'static [ModelShape] {
    &SHAPES[..2]
}

/// Every linear layer in f32, and the largest in every precision.
fn linear(criterion: &mut Criterion) {
    let mut group = group(criterion, "linear");
    for shape in shapes() {
        let linears = shape.linears();
        let in_f32 = linears.map(|widths| (widths, Precision::F32));
        let in_others = Precision::ALL.into_iter().skip(1).map(|precision| (linears[2], precision));
        for ((width_in, width_out), precision) in in_f32.into_iter().chain(in_others) {
            let weight = values(width_in * width_out, 2);
            let linear = PackedLinear::new(&weight, values(width_out, 3), width_in, None, precision);
            let linear = linear.expect("every precision holds numbers below 1");
            for rows in [16, 512] {
                let x = matrix(rows, width_in);
                group.throughput(Throughput::Elements((2 * rows * width_in * width_out) as u64));
                group.bench_function(format!("{precision}, {rows}x{width_in}x{width_out}"), |bencher| {
                    bencher.iter(|| x.apply_op1_no_bwd(&linear).expect("the widths agree"));
                });
            }
        }
    }
    group.finish();
}

fn self_attention(criterion: &mut Criterion) {
    let mut group = group(criterion, "attention");
    for ModelShape { name, hidden_size, heads, .. } in shapes() {
        let head_dim = hidden_size / heads;
        let shape = AttentionShape { num_heads: *heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        for length in [16, 128, 512] {
            let (qkv, batch) = (matrix(length, 3 * hidden_size), batch(&[length]));
            group.throughput(Throughput::Elements((4 * length * length * hidden_size) as u64));
            for precision in [Precision::F32, Precision::Bf16] {
                let options = AttentionOptions { precision, ..AttentionOptions::default() };
                group.bench_function(format!("{name} {precision}, {length} tokens"), |bencher| {
                    bencher.iter(|| attention_with(&qkv, &batch, shape, &options).expect("the widths agree"));
                });
            }
        }
    }
    group.finish();
}

/// Attention with heads of one component: two products of almost no work, and the softmax between them.
fn softmax(criterion: &mut Criterion) {
    let mut group = group(criterion, "softmax");
    let shape = AttentionShape { num_heads: 12, head_dim: 1, scale: 1.0 };
    for length in [128, 512] {
        let (qkv, batch) = (matrix(length, 3 * shape.num_heads), batch(&[length]));
        group.throughput(Throughput::Elements((shape.num_heads * length * length) as u64));
        group.bench_function(format!("12 heads of 1, {length} tokens"), |bencher| {
            bencher.iter(|| attention(&qkv, &batch, shape).expect("the widths agree"));
        });
    }
    group.finish();
}

fn layer_norm(criterion: &mut Criterion) {
    let mut group = group(criterion, "layer norm");
    for ModelShape { hidden_size, .. } in shapes() {
        let (weight, bias) = (values(*hidden_size, 2), values(*hidden_size, 3));
        let op = LayerNormOp { weight: &weight, bias: &bias, eps: 1e-12 };
        for rows in [16, 512] {
            let (x, residual) = (matrix(rows, *hidden_size), matrix(rows, *hidden_size));
            group.throughput(Throughput::Elements((rows * hidden_size) as u64));
            group.bench_function(format!("sum of two {rows}x{hidden_size}"), |bencher| {
                bencher.iter(|| x.apply_op2_no_bwd(&residual, &op).expect("the widths agree"));
            });
        }
    }
    group.finish();
}

fn gelu(criterion: &mut Criterion) {
    let mut group = group(criterion, "gelu");
    for (name, activation) in [("erf", Activation::GeluErf), ("tanh", Activation::GeluTanh)] {
        for rows in [16, 512] {
            let x = values(rows * 1536, 1);
            group.throughput(Throughput::Elements(x.len() as u64));
            group.bench_function(format!("{name}, {rows}x1536"), |bencher| {
                // In place again and again the values would become too small to be normal, and slow: the copy
                // is timed too, and takes far less than the kernel.
                let mut y = x.clone();
                bencher.iter(|| {
                    y.copy_from_slice(&x);
                    activation.apply(&mut y);
                    y[0]
                });
            });
        }
    }
    group.finish();
}

fn pooling(criterion: &mut Criterion) {
    let mut group = group(criterion, "mean pool");
    for ModelShape { hidden_size, .. } in shapes() {
        let (states, batch) = (matrix(512, *hidden_size), batch(&[128; 4]));
        group.throughput(Throughput::Elements((512 * hidden_size) as u64));
        group.bench_function(format!("4x128x{hidden_size}"), |bencher| {
            bencher.iter(|| mean_pool(&states, &batch).expect("one row per token"));
        });
    }
    group.finish();
}

/// What Candle's tensors cost without any kernel: a floor under all of the above.
fn dispatch(criterion: &mut Criterion) {
    let mut group = group(criterion, "dispatch");
    let one = Tensor::zeros((1, 1), candle_core::DType::F32, &Device::Cpu).expect("there is memory");
    let linear = PackedLinear::new(&[1.0], vec![0.0], 1, None, Precision::F32);
    let linear = linear.expect("every precision holds 1");
    group.bench_function("linear 1x1x1", |bencher| {
        bencher.iter(|| one.apply_op1_no_bwd(&linear).expect("the widths agree"));
    });
    group.finish();
}

criterion_group!(benches, linear, self_attention, softmax, layer_norm, gelu, pooling, dispatch);
criterion_main!(benches);

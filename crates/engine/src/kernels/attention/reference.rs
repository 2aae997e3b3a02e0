//! What attention computes, in f64.

use super::{AttentionOptions, AttentionShape, PositionBias};

/// What [`attention_with`](super::attention_with) computes for one sequence, in f64: `qkv` is
/// `[seq_len, 3 * num_heads * head_dim]`. Of attended lengths, the first is meant.
pub fn attention_reference(qkv: &[f32], shape: AttentionShape, options: &AttentionOptions) -> Vec<f64> {
    let AttentionShape { num_heads, head_dim, scale } = shape;
    let hidden_size = num_heads * head_dim;
    let seq_len = qkv.len() / (3 * hidden_size);
    let mut out = vec![0.0; seq_len * hidden_size];
    for head in 0..num_heads {
        let part = |part: usize, token: usize| -> Vec<f64> {
            let start = (token * 3 + part) * hidden_size + head * head_dim;
            qkv[start..start + head_dim].iter().map(|value| f64::from(*value)).collect()
        };
        let rotated = |index: usize, token: usize| rotate(part(index, token), token, options);
        let attended = options.attended.map_or(seq_len, |attended| attended[0] as usize);
        let keys: Vec<_> = (0..attended).map(|key| rotated(1, key)).collect();
        let values: Vec<_> = (0..attended).map(|key| part(2, key)).collect();
        for token in 0..seq_len {
            let query = rotated(0, token);
            let score = |key: usize| {
                let product: f64 = query.iter().zip(&keys[key]).map(|(q, k)| q * k).sum();
                product * f64::from(scale) + bias(options, head, token, key)
            };
            let scores: Vec<f64> = (0..attended).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..head_dim {
                let weighted: f64 =
                    weights.iter().zip(&values).map(|(weight, value)| weight * value[column]).sum();
                out[token * hidden_size + head * head_dim + column] = weighted / sum;
            }
        }
    }
    out
}

fn rotate(row: Vec<f64>, position: usize, options: &AttentionOptions) -> Vec<f64> {
    let mut rotated = row.clone();
    if let Some(rotary) = options.rotary {
        let half = rotary.dim / 2;
        for i in 0..half {
            let cos = f64::from(rotary.cos[position * half + i]);
            let sin = f64::from(rotary.sin[position * half + i]);
            rotated[i] = row[i] * cos - row[i + half] * sin;
            rotated[i + half] = row[i + half] * cos + row[i] * sin;
        }
    }
    rotated
}

fn bias(options: &AttentionOptions, head: usize, query: usize, key: usize) -> f64 {
    let distance = query.abs_diff(key);
    if options.window.is_some_and(|window| distance > window) {
        return f64::NEG_INFINITY;
    }
    match options.bias {
        None => 0.0,
        Some(PositionBias::Alibi { slopes }) => -f64::from(slopes[head]) * distance as f64,
        Some(PositionBias::Relative { table, max_distance }) => {
            let far = max_distance as isize - 1;
            let index = (key as isize - query as isize).clamp(-far, far) + far;
            f64::from(table[head * (2 * max_distance - 1) + index as usize])
        }
    }
}

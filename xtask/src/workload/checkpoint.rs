//! Checkpoints of a given shape with random weights: what `DenseModel::from_folder` loads, and no more.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use safetensors::{Dtype, View};
use serde_json::json;

use super::{ModelShape, values};

/// Of BERT's vocabulary, so that the embedding table has its real size.
const VOCAB_SIZE: usize = 30_522;
const MAX_POSITIONS: usize = 512;

/// BERT's initializer range: hidden states stay in the range that trained ones have.
const WEIGHT_SCALE: f32 = 0.02;

/// The folder of a model of this shape, written unless it is there already.
pub(super) fn random(shape: &ModelShape) -> Result<PathBuf> {
    let parent = crate::root().join("target/random-weights");
    let ModelShape { layers, hidden_size, heads, intermediate_size, .. } = shape;
    let folder = parent.join(format!("bert-{layers}-{hidden_size}-{heads}-{intermediate_size}"));
    if folder.join("model.safetensors").is_file() {
        return Ok(folder);
    }
    write(shape, &folder)
        .with_context(|| format!("could not write random weights to {}", folder.display()))?;
    Ok(folder)
}

fn write(shape: &ModelShape, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let config = json!({
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": VOCAB_SIZE,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    // Nobody tokenizes with it, but a model without a tokenizer does not load.
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": { "[UNK]": 0 }, "unk_token": "[UNK]" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    // The weights come last and whole, since their presence stands for that of all files.
    let partial = folder.join(format!("model.safetensors.{}.partial", std::process::id()));
    safetensors::serialize_to_file(tensors(shape), None, &partial)?;
    std::fs::rename(&partial, folder.join("model.safetensors"))?;
    Ok(())
}

/// Whose elements are made when they are written, so that only one tensor is in memory.
struct RandomTensor {
    shape: Vec<usize>,
    seed: u64,
    /// Elements are this far from `mean` at most.
    scale: f32,
    mean: f32,
}

impl View for RandomTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let random = values(self.shape.iter().product(), self.seed);
        random.iter().flat_map(|value| (self.mean + self.scale * value).to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// All tensors of the encoder, by their names in a BERT checkpoint.
fn tensors(shape: &ModelShape) -> Vec<(String, RandomTensor)> {
    let (hidden, intermediate) = (shape.hidden_size, shape.intermediate_size);
    let mut tensors: Vec<(String, RandomTensor)> = Vec::new();
    let mut add = |name: String, shape: &[usize], mean: f32| {
        let seed = tensors.len() as u64;
        tensors.push((name, RandomTensor { shape: shape.to_vec(), seed, scale: WEIGHT_SCALE, mean }));
    };
    for (name, rows) in [("word", VOCAB_SIZE), ("position", MAX_POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0);
    }
    add("embeddings.LayerNorm.weight".into(), &[hidden], 1.0);
    add("embeddings.LayerNorm.bias".into(), &[hidden], 0.0);
    for layer in 0..shape.layers {
        for (name, width_in, width_out) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", hidden, intermediate),
            ("output.dense", intermediate, hidden),
        ] {
            add(format!("encoder.layer.{layer}.{name}.weight"), &[width_out, width_in], 0.0);
            add(format!("encoder.layer.{layer}.{name}.bias"), &[width_out], 0.0);
        }
        for name in ["attention.output", "output"] {
            add(format!("encoder.layer.{layer}.{name}.LayerNorm.weight"), &[hidden], 1.0);
            add(format!("encoder.layer.{layer}.{name}.LayerNorm.bias"), &[hidden], 0.0);
        }
    }
    tensors
}

#[cfg(test)]
mod tests {
    use candlewick_models::{DenseModel, LoadOptions};

    use super::*;

    #[test]
    fn a_random_checkpoint_loads_and_computes() {
        let shape =
            ModelShape { name: "tiny", layers: 2, hidden_size: 8, heads: 2, intermediate_size: 16, id: None };
        let folder = crate::root().join(format!("target/random-weights/test-{}", std::process::id()));
        write(&shape, &folder).unwrap();
        let model = DenseModel::from_folder(&folder, LoadOptions::new().threads(1)).unwrap();
        let states = model.encoder().unwrap().forward(&crate::workload::batch(&[3, 5])).unwrap();
        assert_eq!(states.dims(), [8, 8]);
        assert!(states.to_vec2::<f32>().unwrap().concat().iter().all(|state| state.is_finite()));
        drop(model);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

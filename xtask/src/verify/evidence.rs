//! Reading what the original implementations said: tests/fixtures/*/reference.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candlewick::{Embedding, Pooling};
use candlewick_models::{SparseEmbedding, TextRole};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The outputs of an original implementation.
#[derive(Debug)]
pub struct Reference {
    /// The fixture's folder, which is the model's folder when it holds weights.
    pub folder: PathBuf,
    /// How the outputs were made.
    pub provenance: Provenance,
    /// The inputs.
    pub texts: Vec<String>,
    /// One per text.
    pub embeddings: Vec<Embedding>,
    /// Embeddings of the texts as queries and as passages, where the model has prompts.
    pub prompted: Vec<(TextRole, Vec<Embedding>)>,
    /// Packed token ids of all texts.
    pub token_ids: Vec<u32>,
    /// Where each text's tokens end.
    pub cu_seqlens: Vec<u32>,
    /// One per token, where they were kept.
    pub hidden_states: Option<Vec<Vec<f32>>>,
}

/// How reference outputs were made: reference/provenance.json.
#[derive(Debug, Deserialize)]
pub struct Provenance {
    /// The fixture's name, or the registry's.
    pub model: String,
    /// The sha256 of a real model's weights.
    pub weights_sha256: Option<String>,
    /// The stored weights' element type.
    pub dtype: String,
    /// What the original pooled with.
    #[serde(deserialize_with = "pooling")]
    pub pooling: Pooling,
    /// Whether the original normalised.
    pub normalize: bool,
    /// Tokens of a text that the original reads.
    pub max_length: usize,
    /// How far embeddings may be off.
    pub tolerance: f64,
}

impl Reference {
    /// Whether the weights are committed beside the reference.
    pub fn has_weights(&self) -> bool {
        self.folder.join("model.safetensors").is_file()
    }

    /// Whether the folder says itself what follows the encoder.
    pub fn has_modules(&self) -> bool {
        self.folder.join("modules.json").is_file()
    }

    /// Reads `folder`/reference.
    ///
    /// # Errors
    ///
    /// When a file is missing or malformed.
    pub fn read(folder: &Path) -> Result<Self> {
        let reference = folder.join("reference");
        let path = reference.join("reference.safetensors");
        let bytes = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
        let rows_if_there = |name| tensors.names().contains(&name).then(|| rows(&tensors, name)).transpose();
        let mut prompted = Vec::new();
        for (role, name) in
            [(TextRole::Query, "query_embeddings"), (TextRole::Passage, "document_embeddings")]
        {
            prompted.extend(rows_if_there(name)?.map(|rows| (role, rows)));
        }
        let loaded = Self {
            folder: folder.to_owned(),
            provenance: read_json(&reference.join("provenance.json"))?,
            texts: read_json(&reference.join("texts.json"))?,
            embeddings: rows(&tensors, "embeddings")?,
            prompted,
            token_ids: integers(&tensors, "token_ids")?,
            cu_seqlens: integers(&tensors, "cu_seqlens")?,
            hidden_states: rows_if_there("hidden_states")?,
        };
        if loaded.texts.is_empty() || loaded.texts.len() != loaded.embeddings.len() {
            bail!("{}: {} texts, {} embeddings", path.display(), loaded.texts.len(), loaded.embeddings.len());
        }
        Ok(loaded)
    }
}

/// Reads every fixture below a folder, by name.
pub(crate) fn read_all(fixtures: &Path) -> Result<Vec<Reference>> {
    folders(fixtures)?.iter().map(|folder| Reference::read(folder)).collect()
}

/// The fixtures below a folder, by name.
///
/// # Errors
///
/// When there are none.
pub(crate) fn folders(fixtures: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(fixtures).with_context(|| format!("could not read {}", fixtures.display()))?;
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    folders.retain(|folder| folder.join("reference").is_dir());
    folders.sort();
    if folders.is_empty() {
        bail!("{} holds no fixtures", fixtures.display());
    }
    Ok(folders)
}

/// The tensors of a reference.
pub(super) struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let tensors = Self { path: path.to_owned(), bytes };
        tensors.open()?;
        Ok(tensors)
    }

    fn open(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).with_context(|| self.path.display().to_string())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.open().is_ok_and(|tensors| tensors.names().contains(&name))
    }

    pub(super) fn rows(&self, name: &str) -> Result<Vec<Vec<f32>>> {
        rows(&self.open()?, name)
    }

    pub(super) fn integers(&self, name: &str) -> Result<Vec<u32>> {
        integers(&self.open()?, name)
    }

    /// The embeddings that `indices`, `values` and `cu_nnz` are, all with `prefix` before their names.
    pub(super) fn sparse(&self, prefix: &str) -> Result<Vec<SparseEmbedding>> {
        let indices = self.integers(&format!("{prefix}indices"))?;
        let name = format!("{prefix}values");
        let tensors = self.open()?;
        let values = tensors.tensor(&name).with_context(|| name.clone())?;
        if values.dtype() != Dtype::F32 || values.shape() != [indices.len()] {
            bail!(
                "{name}: expected {} values of F32, found {:?} {:?}",
                indices.len(),
                values.dtype(),
                values.shape()
            );
        }
        let values: Vec<f32> =
            values.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        let ends = self.integers(&format!("{prefix}cu_nnz"))?;
        let embedding = |pair: &[u32]| {
            let range = pair[0] as usize..pair[1] as usize;
            SparseEmbedding { indices: indices[range.clone()].to_vec(), values: values[range].to_vec() }
        };
        Ok(ends.windows(2).map(embedding).collect())
    }
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

fn rows(tensors: &SafeTensors, name: &str) -> Result<Vec<Vec<f32>>> {
    let tensor = tensors.tensor(name).with_context(|| name.to_owned())?;
    let (Dtype::F32, [_, width]) = (tensor.dtype(), tensor.shape()) else {
        bail!("{name}: expected F32 rows, found {:?} {:?}", tensor.dtype(), tensor.shape());
    };
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    Ok(values.chunks(*width).map(<[f32]>::to_vec).collect())
}

fn integers(tensors: &SafeTensors, name: &str) -> Result<Vec<u32>> {
    let tensor = tensors.tensor(name).with_context(|| name.to_owned())?;
    if tensor.dtype() != Dtype::I64 {
        bail!("{name}: expected I64, found {:?}", tensor.dtype());
    }
    let values = tensor.data().as_chunks().0.iter().map(|&eight| i64::from_le_bytes(eight));
    values.map(|value| u32::try_from(value).with_context(|| format!("{name}: {value}"))).collect()
}

fn pooling<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pooling, D::Error> {
    let name = String::deserialize(deserializer)?;
    // sentence-transformers' own word.
    let name = if name == "lasttoken" { "last" } else { &name };
    name.parse().map_err(serde::de::Error::custom)
}

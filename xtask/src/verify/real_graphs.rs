//! ONNX files of real weights against ONNX Runtime's embeddings of the same texts, one at a time.
//!
//! xtask/fixtures/minilm_onnx.py makes such a folder; it is too large to be committed. A file that was quantised
//! dynamically is run in two ways: exactly as ONNX Runtime runs it, and with a scale for each token, which is compared
//! with the file that was not quantised.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candlewick::{Embedding, Precision};
use candlewick_engine::{Batch, ImportOptions, ImportedEncoder, Int8Scales, Pooling, TextEncoder, pooling};
use safetensors::SafeTensors;

use super::{Agreement, Row, Verdict, agreement};

/// ONNX Runtime's outputs of a file.
struct Reference {
    token_ids: Vec<u32>,
    cu_seqlens: Vec<u32>,
    embeddings: Vec<Embedding>,
}

/// A row for each ONNX file of a folder, two for those that were quantised.
///
/// # Errors
///
/// When the folder has no such files, or they have no reference beside them.
pub(super) fn rows(folder: &Path) -> Result<Vec<Row>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    let Some(plain) = files.iter().find(|path| path.ends_with("model.onnx")) else {
        bail!("{} has no model.onnx", folder.display());
    };
    let plain = Reference::read(plain)?;
    let mut rows = Vec::new();
    for path in &files {
        let own = Reference::read(path)?;
        let name = path.file_name().unwrap_or_default().display().to_string();
        let is_quantized = name.contains("quantized");
        // Last bits decide which integer a number becomes, and MiniLM's outliers make each step a large one: between
        // its own levels of optimisation, ONNX Runtime's embeddings of one of these files are 0.9969 apart.
        let (max_abs, min_cosine) = match () {
            () if is_quantized => (f64::INFINITY, 0.99),
            () if name.contains("fp16") => (f64::INFINITY, 0.9999),
            () => (1e-5, 1.0 - 1e-6),
        };
        rows.push(row(path, &name, Int8Scales::Exact, &own, (max_abs, min_cosine)));
        if is_quantized {
            // One scale for a whole weight: rounded so, the weights alone, in f32, are 0.846 from the original.
            rows.push(row(path, &name, Int8Scales::PerToken, &plain, (f64::INFINITY, 0.84)));
        }
    }
    Ok(rows)
}

fn row(path: &Path, name: &str, int8: Int8Scales, expected: &Reference, bounds: (f64, f64)) -> Row {
    let mut row = Row {
        model: name.to_owned(),
        format: "onnx",
        dtype: "?".to_owned(),
        precision: if int8 == Int8Scales::PerToken { Precision::Int8 } else { Precision::F32 },
        max_abs: f64::NAN,
        min_cosine: f64::NAN,
        verdict: Verdict::Ok,
    };
    match embed(path, int8, expected) {
        Ok((found, how)) => {
            let Agreement { max_abs, min_cosine } = agreement(&found, &expected.embeddings);
            (row.max_abs, row.min_cosine, row.dtype) = (max_abs, min_cosine, how.to_owned());
            let is_close = max_abs <= bounds.0 && min_cosine >= bounds.1;
            if !is_close {
                row.verdict = Verdict::Failed(format!("off by {max_abs:.1e}, cosine {min_cosine:.7}"));
            }
        }
        Err(error) => row.verdict = Verdict::Failed(format!("{error:#}")),
    }
    row
}

/// Embeddings of the reference's texts, one at a time, and whether the graph runs packed.
fn embed(path: &Path, int8: Int8Scales, reference: &Reference) -> Result<(Vec<Embedding>, &'static str)> {
    let mut options = ImportOptions::default();
    options.int8 = int8;
    let encoder = ImportedEncoder::load(path, &options)?;
    let mut embeddings = Vec::new();
    for ends in reference.cu_seqlens.windows(2) {
        let ids = &reference.token_ids[ends[0] as usize..ends[1] as usize];
        let batch = Batch::from_sequences([ids])?;
        let states = encoder.forward(&batch)?;
        let pooled = if encoder.is_pooled() { states } else { Pooling::Mean.forward(&states, &batch)? };
        embeddings.extend(pooling::normalize(&pooled)?.to_vec2::<f32>()?);
    }
    Ok((embeddings, if encoder.unpacked_because().is_some() { "padded" } else { "packed" }))
}

impl Reference {
    /// What lies beside an ONNX file.
    fn read(onnx: &Path) -> Result<Self> {
        let path = onnx.with_extension("safetensors");
        let bytes = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{}", path.display()))?;
        let words = |name: &str| -> Result<Vec<u32>> {
            let view = tensors.tensor(name)?;
            let (chunks, _) = view.data().as_chunks::<4>();
            let words: Vec<u32> = chunks.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
            if view.dtype() == safetensors::Dtype::I64 {
                return Ok(words.into_iter().step_by(2).collect());
            }
            Ok(words)
        };
        let width = tensors.tensor("embeddings")?.shape()[1];
        let values: Vec<f32> = words("embeddings")?.into_iter().map(f32::from_bits).collect();
        Ok(Self {
            token_ids: words("token_ids")?,
            cu_seqlens: words("cu_seqlens")?,
            embeddings: values.chunks(width).map(<[f32]>::to_vec).collect(),
        })
    }
}

//! Models with other heads than a pooled embedding, against what their original implementations computed.
//!
//! tests/fixtures/heads/README.md says what a fixture holds. Each of its files of weights is run; what it is compared
//! with follows from the tensors of its reference.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use candlewick::{Error, Int8Scales, LoadOptions, Precision};
use candlewick_models::{
    HybridEmbedding, HybridModel, LateInteractionModel, RerankModel, ScoreOptions, SparseEmbedding,
    SparseModel, TextRole,
};
use serde::Deserialize;

use super::evidence::{Tensors, folders, read_json};
use super::{Agreement, Row, Verdict, agreement};

/// The rows of every fixture.
///
/// # Errors
///
/// When a fixture cannot be read.
pub(super) fn rows(
    fixtures: &Path,
    is_wanted: impl Fn(&str) -> bool,
    options: &LoadOptions,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for folder in folders(fixtures)? {
        let name = format!("heads/{}", folder.file_name().unwrap_or_default().display());
        if !is_wanted(&name) {
            continue;
        }
        let fixture = Fixture::read(&folder)?;
        if fixture.weights.is_empty() {
            rows.extend(fixture.row(&name, None, options));
        }
        for weights in &fixture.weights {
            rows.extend(fixture.row(&name, Some(weights), options));
        }
    }
    Ok(rows)
}

/// A model with what the original computed.
struct Fixture {
    folder: PathBuf,
    provenance: Provenance,
    /// Below the folder; none where they are not committed.
    weights: Vec<String>,
    reference: Tensors,
}

#[derive(Deserialize)]
struct Provenance {
    tolerance: f64,
    dtype: String,
}

impl Fixture {
    fn read(folder: &Path) -> Result<Self> {
        let mut weights = Vec::new();
        for below in ["", "onnx"] {
            let Ok(entries) = std::fs::read_dir(folder.join(below)) else {
                continue;
            };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name == "model.safetensors" || name.ends_with(".onnx") {
                    weights.push(if below.is_empty() { name } else { format!("{below}/{name}") });
                }
            }
        }
        weights.sort();
        // An architecture that is not native has its weights beside the graph for later.
        let config: serde_json::Value = read_json(&folder.join("config.json")).unwrap_or_default();
        if !["bert", "roberta", "xlm-roberta"].iter().any(|native| config["model_type"] == **native) {
            weights.retain(|name| name.ends_with(".onnx"));
        }
        let reference = folder.join("reference");
        Ok(Self {
            folder: folder.to_owned(),
            provenance: read_json(&reference.join("provenance.json"))?,
            weights,
            reference: Tensors::read(&reference.join("reference.safetensors"))?,
        })
    }

    /// The row of one file; `None` for what is verified elsewhere.
    fn row(&self, name: &str, weights: Option<&String>, options: &LoadOptions) -> Option<Row> {
        let mut options = options.clone();
        let mut bounds = Bounds { max_abs: self.provenance.tolerance, min_cosine: 1.0 - 1e-6 };
        let mut own_reference = None;
        if let Some(weights) = weights {
            options = options.weights(self.folder.join(weights));
            let is_dynamic = weights.contains("quantized");
            if is_dynamic {
                // As ONNX Runtime computes such a file; last bits of f32 decide roundings, see `real_graphs`.
                options = options.int8(Int8Scales::Exact);
                bounds = Bounds { max_abs: f64::INFINITY, min_cosine: 0.999 };
            }
            // What it was quantised from is another model.
            if is_dynamic || weights.contains("q4") {
                let path = self.folder.join("reference").join(weights).with_extension("safetensors");
                own_reference = Some(Tensors::read(&path));
            }
        }
        let mut row = Row {
            model: weights.map_or_else(|| name.to_owned(), |weights| format!("{name}/{weights}")),
            format: if weights.is_some_and(|weights| weights.ends_with(".onnx")) {
                "onnx"
            } else {
                "safetensors"
            },
            dtype: self.provenance.dtype.clone(),
            precision: Precision::F32,
            max_abs: f64::NAN,
            min_cosine: f64::NAN,
            verdict: Verdict::Ok,
        };
        let reference = match own_reference.transpose() {
            Ok(own) => own,
            Err(error) => {
                row.verdict = Verdict::Failed(format!("{error:#}"));
                return Some(row);
            }
        };
        let compared = self.compare(reference.as_ref().unwrap_or(&self.reference), options, bounds)?;
        match compared {
            Ok(found) => {
                (row.max_abs, row.min_cosine) = (found.max_abs, found.min_cosine);
                if let Err(problem) = bounds.check(found) {
                    row.verdict = Verdict::Failed(problem);
                }
            }
            Err(error) => {
                row.verdict = match error.downcast_ref() {
                    Some(Error::Unavailable { .. }) => {
                        Verdict::Unavailable(super::one_line(&error.to_string()))
                    }
                    _ => Verdict::Failed(format!("{error:#}")),
                }
            }
        }
        Some(row)
    }

    /// How far the model is from the reference, or what is wrong; `None` for a kind that is verified elsewhere.
    fn compare(
        &self,
        reference: &Tensors,
        options: LoadOptions,
        bounds: Bounds,
    ) -> Option<Result<Agreement>> {
        let compared = match () {
            () if reference.has("logits") => self.compare_scores(reference, options, bounds),
            () if reference.has("document_rows") => self.compare_vectors(reference, options),
            () if reference.has("document_indices") => {
                let roles = [(TextRole::Passage, "document_"), (TextRole::Query, "query_")];
                self.compare_sparse(reference, options, &roles, bounds)
            }
            () if reference.has("colbert_rows") => self.compare_hybrid(reference, options),
            () if reference.has("indices") && !reference.has("embeddings") => {
                let roles = [(TextRole::Passage, ""), (TextRole::Query, "")];
                self.compare_sparse(reference, options, &roles, bounds)
            }
            () => return None,
        };
        Some(compared)
    }

    fn texts<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        read_json(&self.folder.join("reference").join(name))
    }

    fn compare_scores(&self, reference: &Tensors, options: LoadOptions, bounds: Bounds) -> Result<Agreement> {
        let model = RerankModel::from_folder(&self.folder, options)?;
        let pairs: Vec<(String, String)> = self.texts("pairs.json")?;
        let expected = reference.rows("logits")?;
        let found = model.logits(&pairs)?;
        if reference.has("scores") {
            let scores = model.scores(&pairs, &ScoreOptions::default())?;
            let found = agreement(&[scores], &[reference.rows("scores")?.concat()]);
            bounds.check(found).map_err(|problem| anyhow!("scores: {problem}"))?;
        }
        for (pair, together) in pairs.iter().zip(&found) {
            if model.logits(std::slice::from_ref(pair))?[0] != *together {
                bail!("a pair's logits depend on its batch");
            }
        }
        // The cosine of single numbers says nothing, so all pairs make one vector.
        Ok(agreement(&[found.concat()], &[expected.concat()]))
    }

    fn compare_vectors(&self, reference: &Tensors, options: LoadOptions) -> Result<Agreement> {
        let model = LateInteractionModel::from_folder(&self.folder, options)?;
        let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
        for (role, prefix) in [(TextRole::Passage, "document"), (TextRole::Query, "query")] {
            let plural = if prefix == "query" { "queries.json" } else { "documents.json" };
            let texts: Vec<String> = self.texts(plural)?;
            let embeddings = model.embed(&texts, role)?;
            let ends = reference.integers(&format!("{prefix}_cu_rows"))?;
            let found: Vec<u32> = embeddings.iter().map(|embedding| embedding.len() as u32).collect();
            let expected: Vec<u32> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
            if found != expected {
                bail!("{prefix}: {found:?} vectors, the original {expected:?}");
            }
            for (text, together) in texts.iter().zip(&embeddings) {
                if model.embed(&[text], role)?[0] != *together {
                    bail!("a text's vectors depend on its batch");
                }
            }
            let found: Vec<Vec<f32>> =
                embeddings.iter().flat_map(|embedding| embedding.rows().map(<[f32]>::to_vec)).collect();
            worst.merge(agreement(&found, &reference.rows(&format!("{prefix}_rows"))?));
        }
        Ok(worst)
    }

    fn compare_hybrid(&self, reference: &Tensors, options: LoadOptions) -> Result<Agreement> {
        let model = HybridModel::from_folder(&self.folder, options)?;
        let texts: Vec<String> = self.texts("texts.json")?;
        let embeddings = model.embed(&texts, TextRole::Plain)?;
        for (text, together) in texts.iter().zip(&embeddings) {
            if model.embed(&[text], TextRole::Plain)?[0] != *together {
                bail!("a text's embeddings depend on its batch");
            }
        }
        let (mut dense, mut rows, mut ends) = (Vec::new(), Vec::new(), vec![0]);
        let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
        for (embedding, expected) in embeddings.into_iter().zip(reference.sparse("")?) {
            let HybridEmbedding { dense: Some(vector), sparse: Some(sparse), multi_vector: Some(vectors) } =
                embedding
            else {
                bail!("an embedding is missing");
            };
            if sparse.indices != expected.indices {
                bail!("indices {:?}, the original's are {:?}", sparse.indices, expected.indices);
            }
            worst.merge(dense_agreement(&sparse, &expected));
            dense.push(vector);
            rows.extend(vectors.rows().map(<[f32]>::to_vec));
            ends.push(rows.len() as u32);
        }
        if ends != reference.integers("colbert_cu_rows")? {
            bail!("texts have other numbers of vectors than the original's");
        }
        worst.merge(agreement(&dense, &reference.rows("embeddings")?));
        worst.merge(agreement(&rows, &reference.rows("colbert_rows")?));
        Ok(worst)
    }

    fn compare_sparse(
        &self,
        reference: &Tensors,
        options: LoadOptions,
        roles: &[(TextRole, &str)],
        bounds: Bounds,
    ) -> Result<Agreement> {
        let model = match self.weights.is_empty() {
            // What is not committed is in the registry, under the fixture's name.
            true => {
                SparseModel::load(&self.folder.file_name().unwrap_or_default().to_string_lossy(), options)?
            }
            false => SparseModel::from_folder(&self.folder, options)?,
        };
        let texts: Vec<String> = self.texts("texts.json")?;
        let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
        for (role, prefix) in roles {
            let found = model.embed(&texts, *role)?;
            for (text, together) in texts.iter().zip(&found) {
                if model.embed(&[text], *role)?[0] != *together {
                    bail!("a text's embedding depends on its batch");
                }
            }
            let expected = reference.sparse(prefix)?;
            let are_exact = bounds.max_abs.is_finite();
            for (found, expected) in found.iter().zip(&expected) {
                if are_exact && found.indices != expected.indices {
                    bail!("indices {:?}, the original's are {:?}", found.indices, expected.indices);
                }
                worst.merge(dense_agreement(found, expected));
            }
        }
        Ok(worst)
    }
}

/// How far two sparse embeddings are apart, over the indices of both.
fn dense_agreement(found: &SparseEmbedding, expected: &SparseEmbedding) -> Agreement {
    // Indices may be hashes, too large for a vector of all.
    let indices: std::collections::BTreeSet<u32> =
        found.indices.iter().chain(&expected.indices).copied().collect();
    if indices.is_empty() {
        return Agreement { max_abs: 0.0, min_cosine: 1.0 };
    }
    let dense = |embedding: &SparseEmbedding| {
        let values = embedding.to_map();
        indices.iter().map(|index| values.get(index).copied().unwrap_or(0.0)).collect::<Vec<f32>>()
    };
    agreement(&[dense(found)], &[dense(expected)])
}

/// How far a row may be off.
#[derive(Clone, Copy)]
struct Bounds {
    max_abs: f64,
    min_cosine: f64,
}

impl Bounds {
    fn check(self, found: Agreement) -> Result<(), String> {
        // NaN fails, as no comparison with it is true.
        let is_close = found.max_abs <= self.max_abs && found.min_cosine >= self.min_cosine;
        match is_close {
            true => Ok(()),
            false => Err(format!("off by {:.1e}, cosine {:.7}", found.max_abs, found.min_cosine)),
        }
    }
}

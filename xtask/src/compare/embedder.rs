//! candlewick's models of the kinds that are measured, as one type: texts in, rows of numbers out.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candlewick::{Embedding, Kind, LoadOptions, SparseEmbedding};
use candlewick_models::{DenseModel, SparseModel, TextRole};

use super::input::Sequences;

#[derive(Debug)]
pub(super) enum Embedder {
    Dense(Box<DenseModel>),
    Sparse(SparseModel),
}

/// As the model gives them: nothing is added to the time that it takes.
#[derive(Debug)]
pub(super) enum Embeddings {
    Dense(Vec<Embedding>),
    Sparse(Vec<SparseEmbedding>),
}

impl Embedder {
    /// By its id where there is one, which is in the caches then, else from the folder.
    pub(super) fn load(kind: Kind, id: Option<&str>, folder: &Path, options: LoadOptions) -> Result<Self> {
        Ok(match (kind, id) {
            (Kind::Dense, Some(id)) => Self::Dense(Box::new(DenseModel::load(id, options)?)),
            (Kind::Dense, None) => Self::Dense(Box::new(DenseModel::from_folder(folder, options)?)),
            (Kind::Sparse, Some(id)) => Self::Sparse(SparseModel::load(id, options)?),
            (Kind::Sparse, None) => Self::Sparse(SparseModel::from_folder(folder, options)?),
            _ => bail!("models of the kind {kind} are not measured"),
        })
    }

    pub(super) fn embed(&self, sequences: &Sequences) -> Result<Embeddings> {
        Ok(match (self, sequences) {
            (Self::Dense(model), Sequences::Texts(texts)) => {
                Embeddings::Dense(model.embed(texts, TextRole::Plain)?)
            }
            (Self::Dense(model), Sequences::Tokens(tokens)) => Embeddings::Dense(model.embed_tokens(tokens)?),
            (Self::Sparse(model), Sequences::Texts(texts)) => {
                Embeddings::Sparse(model.embed(texts, TextRole::Plain)?)
            }
            (Self::Sparse(_), Sequences::Tokens(_)) => bail!("sparse models take texts only"),
        })
    }

    /// Tokens of all texts together, after truncation.
    pub(super) fn token_count(&self, texts: &[String]) -> Result<usize> {
        Ok(match self {
            Self::Dense(model) => model.token_count(texts)?,
            Self::Sparse(model) => model.token_count(texts)?,
        })
    }

    /// Where texts are cut; a sparse model does not tell.
    pub(super) fn max_length(&self) -> Option<usize> {
        match self {
            Self::Dense(model) => Some(model.max_length()),
            Self::Sparse(_) => None,
        }
    }

    /// Numbers of an embedding; a sparse model does not tell.
    pub(super) fn dim(&self) -> Option<usize> {
        match self {
            Self::Dense(model) => Some(model.dim()),
            Self::Sparse(_) => None,
        }
    }
}

impl Embeddings {
    /// All numbers of each, also those of a sparse one that are zero.
    pub(super) fn rows(&self, dim: usize) -> Result<Vec<Embedding>> {
        match self {
            Self::Dense(embeddings) => Ok(embeddings.clone()),
            Self::Sparse(embeddings) => embeddings.iter().map(|embedding| row(embedding, dim)).collect(),
        }
    }
}

fn row(embedding: &SparseEmbedding, dim: usize) -> Result<Embedding> {
    let mut row = vec![0.0; dim];
    for (&index, &value) in embedding.indices.iter().zip(&embedding.values) {
        *row.get_mut(index as usize).with_context(|| format!("index {index} of {dim}"))? = value;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_embeddings_become_rows() {
        let sparse = |indices: &[u32], values: &[f32]| {
            Embeddings::Sparse(vec![SparseEmbedding { indices: indices.to_vec(), values: values.to_vec() }])
        };
        assert_eq!(sparse(&[3, 0], &[0.5, 2.0]).rows(4).unwrap(), [[2.0, 0.0, 0.0, 0.5]]);
        assert!(sparse(&[4], &[1.0]).rows(4).is_err());
        assert_eq!(Embeddings::Dense(vec![vec![1.0, 2.0]]).rows(2).unwrap(), [[1.0, 2.0]]);
    }
}

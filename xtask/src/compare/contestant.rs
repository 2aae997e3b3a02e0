//! Who takes part, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::setting::Setting;
use super::{Options, progress, write_json};
use crate::python;

/// Who takes part.
pub(super) struct Contestant {
    pub(super) name: String,
    /// Starts its worker; or why that is impossible.
    pub(super) command: Result<Command, String>,
}

/// What a worker is to do. Workers get it as a JSON file.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) library: Library,
    /// The model's id.
    pub(super) model: String,
    pub(super) model_folder: PathBuf,
    pub(super) texts_file: PathBuf,
    pub(super) threads: usize,
    pub(super) max_length: usize,
    /// `cls`, `mean` or `last`.
    pub(super) pooling: String,
    pub(super) normalize: bool,
    pub(super) dim: usize,
    /// Tokens of a batch, for candlewick; its default if `None`.
    pub(super) batch_tokens: Option<usize>,
    /// Texts of a batch, for the others.
    pub(super) batch_size: Option<usize>,
    /// The ONNX file, for fastembed.
    pub(super) graph: Option<PathBuf>,
}

/// What computes the embeddings.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Library {
    Candlewick,
    Fastembed,
    SentenceTransformers,
}

/// The ONNX files that an export makes.
const PLAIN: &str = "model.onnx";
const OPTIMIZED: &str = "model_optimized.onnx";

/// The rivals: name, library, batch size, graph. The batch sizes named "default" are the libraries' own.
const RIVALS: [(&str, Library, usize, Option<&str>); 6] = [
    ("fastembed, batch 256 (default)", Library::Fastembed, 256, Some(PLAIN)),
    ("fastembed, batch 16", Library::Fastembed, 16, Some(PLAIN)),
    ("fastembed, batch 2", Library::Fastembed, 2, Some(PLAIN)),
    ("fastembed, batch 1", Library::Fastembed, 1, Some(PLAIN)),
    ("fastembed, optimised graph, batch 1", Library::Fastembed, 1, Some(OPTIMIZED)),
    ("sentence-transformers, batch 32 (default)", Library::SentenceTransformers, 32, None),
];

/// Everybody that the options ask for. The first is candlewick as it comes.
pub(super) fn all(setting: &Setting, options: &Options) -> Vec<Contestant> {
    let is_wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut contestants = vec![candlewick(setting, None)];
    contestants.extend(options.batch_tokens.iter().map(|&tokens| candlewick(setting, Some(tokens))));
    let wanted: Vec<_> = RIVALS.into_iter().filter(|(name, ..)| is_wanted(name)).collect();
    if wanted.is_empty() {
        return contestants;
    }
    let python = environment(options).map_err(|error| format!("{error:#}"));
    let exported = if wanted.iter().any(|(_, library, ..)| *library == Library::Fastembed) {
        let export = |python: &PathBuf| export(python, setting).map_err(|error| format!("{error:#}"));
        python.as_ref().map_err(String::clone).and_then(export)
    } else {
        Ok(setting.folder.clone())
    };
    for (name, library, batch_size, graph) in wanted {
        let graph = graph.map(|file| exported.as_ref().map(|folder| folder.join(file))).transpose();
        let graph = graph.map_err(String::clone);
        let job = graph.map(|graph| Job { batch_size: Some(batch_size), graph, ..job(setting, library) });
        let command = job.and_then(|job| rival_command(&job, name, python.as_ref(), setting));
        contestants.push(Contestant { name: name.into(), command });
    }
    contestants
}

fn candlewick(setting: &Setting, batch_tokens: Option<usize>) -> Contestant {
    let name = match batch_tokens {
        None => "candlewick".to_owned(),
        Some(tokens) => format!("candlewick, {tokens} tokens a batch"),
    };
    let command = || {
        let job = Job { batch_tokens, ..job(setting, Library::Candlewick) };
        let mut command = Command::new(std::env::current_exe().context("where this program lies")?);
        command.args(["compare", "--worker"]).arg(job_file(&job, &name, setting)?);
        Ok(command)
    };
    let command = command().map_err(|error: anyhow::Error| format!("{error:#}"));
    Contestant { name, command }
}

fn job(setting: &Setting, library: Library) -> Job {
    let spec = &setting.spec;
    Job {
        library,
        model: spec.id.clone(),
        model_folder: setting.model_folder.clone(),
        texts_file: setting.texts_file.clone(),
        threads: setting.threads,
        max_length: setting.max_length,
        pooling: spec.pooling.to_string(),
        normalize: spec.normalize,
        dim: spec.dim,
        batch_tokens: None,
        batch_size: None,
        graph: None,
    }
}

fn rival_command(
    job: &Job,
    name: &str,
    python: Result<&PathBuf, &String>,
    setting: &Setting,
) -> Result<Command, String> {
    let mut command = Command::new(python.map_err(String::clone)?);
    command.arg(crate::root().join("xtask/compare/worker.py"));
    command.arg(job_file(job, name, setting).map_err(|error| format!("{error:#}"))?);
    // The libraries' own options come on top; these are for what has none.
    let threads = setting.threads.to_string();
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
        command.env(variable, &threads);
    }
    command.env("HF_HUB_OFFLINE", "1");
    Ok(command)
}

fn job_file(job: &Job, name: &str, setting: &Setting) -> Result<PathBuf> {
    let slug: Vec<&str> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|s| !s.is_empty()).collect();
    let path = setting.folder.join(format!("job-{}.json", slug.join("-")));
    write_json(&path, job)?;
    Ok(path)
}

fn environment(options: &Options) -> Result<PathBuf> {
    if let Some(python) = &options.python {
        return Ok(python.clone());
    }
    progress(
        "looking for the rivals' Python packages; the first time they are fetched, which takes minutes",
    )?;
    python::environment("fixtures", &crate::root().join("xtask/fixtures/requirements.lock"))
}

/// Writes the model as ONNX, plain and optimised, unless that has been done; returns the folder.
fn export(python: &Path, setting: &Setting) -> Result<PathBuf> {
    let scripts = crate::root().join("xtask/fixtures");
    let folder = setting.folder.join("onnx");
    let stamp = folder.join("exported.from");
    let mut made_from = setting.model_folder.display().to_string();
    for file in ["export_onnx.py", "requirements.lock"] {
        let path = scripts.join(file);
        let text = std::fs::read_to_string(&path);
        made_from += &text.with_context(|| format!("could not read {}", path.display()))?;
    }
    if std::fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_from) {
        return Ok(folder);
    }
    progress("exporting the model to ONNX")?;
    let mut command = Command::new(python);
    command.arg(scripts.join("export_onnx.py")).arg("--model").arg(&setting.model_folder);
    command.arg("--out").arg(folder.join(PLAIN)).arg("--optimized").arg(folder.join(OPTIMIZED));
    command.env("HF_HUB_OFFLINE", "1").stdout(std::io::stderr());
    python::run(&mut command)?;
    std::fs::write(&stamp, made_from).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(folder)
}

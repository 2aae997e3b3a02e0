//! The ONNX files that rivals run: plain and optimised, each also quantized to int8.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use candlewick::Kind;

use super::model::ModelFiles;
use super::programs::Programs;
use super::{made_once, progress, script};
use crate::python;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Graph {
    /// As torch exports it.
    Plain,
    /// By ONNX Runtime's transformer optimiser.
    Optimised,
    /// The plain one, by ONNX Runtime's dynamic quantization.
    PlainInt8,
    /// The optimised one, likewise.
    OptimisedInt8,
}

impl Graph {
    fn file(self) -> &'static str {
        match self {
            Self::Plain => "model.onnx",
            Self::Optimised => "model_optimized.onnx",
            Self::PlainInt8 => "model_int8.onnx",
            Self::OptimisedInt8 => "model_optimized_int8.onnx",
        }
    }

    /// The others are made of dense models only: fastembed takes but one file of a SPLADE model.
    pub(super) fn is_made_of(self, kind: Kind) -> bool {
        kind == Kind::Dense || self == Self::Plain
    }

    /// What it is quantized from.
    fn quantized_from(self) -> Option<Self> {
        match self {
            Self::Plain | Self::Optimised => None,
            Self::PlainInt8 => Some(Self::Plain),
            Self::OptimisedInt8 => Some(Self::Optimised),
        }
    }

    /// Makes the file unless it is there; the tokenizer's files are beside it.
    pub(super) fn prepare(self, model: &ModelFiles, programs: &Programs) -> Result<PathBuf> {
        let folder = model.work.join("onnx");
        let path = folder.join(self.file());
        let Some(source) = self.quantized_from() else {
            export(&folder, model, programs)?;
            return Ok(path);
        };
        let source = source.prepare(model, programs)?;
        quantize(&source, &path, programs)?;
        Ok(path)
    }
}

/// The f32 graphs.
fn export(folder: &Path, model: &ModelFiles, programs: &Programs) -> Result<()> {
    let fixtures = crate::root().join("xtask/fixtures");
    let (script, lock) = (fixtures.join("export_onnx.py"), fixtures.join("requirements.lock"));
    // A model that is made again is another model.
    let weights = std::fs::metadata(model.path.join("model.safetensors"))?.modified()?;
    let (folder_name, max_length) = (model.path.display().to_string(), model.max_length.to_string());
    let made_from = [folder_name, format!("{weights:?}"), max_length.clone()];
    made_once(&folder.join("exported.from"), &[&script, &lock], &made_from, || {
        progress("exporting the model to ONNX")?;
        let python = programs.python().map_err(anyhow::Error::msg)?;
        let mut command = Command::new(python);
        command.arg(&script).arg("--model").arg(&model.path);
        command.arg("--out").arg(folder.join(Graph::Plain.file()));
        command.args(["--max-length", max_length.as_str()]);
        if model.row.kind == Kind::Sparse {
            command.arg("--masked-lm");
        }
        if Graph::Optimised.is_made_of(model.row.kind) {
            command.arg("--optimized").arg(folder.join(Graph::Optimised.file()));
        }
        python::run_quietly(command.env("HF_HUB_OFFLINE", "1"))
    })
}

fn quantize(source: &Path, target: &Path, programs: &Programs) -> Result<()> {
    let script = script("quantize.py");
    let made_from = [format!("{:?}", std::fs::metadata(source)?.modified()?)];
    made_once(&target.with_extension("quantized.from"), &[&script], &made_from, || {
        progress("quantizing the ONNX graph to int8")?;
        let python = programs.python().map_err(anyhow::Error::msg)?;
        python::run_quietly(Command::new(python).arg(&script).arg(source).arg(target))
    })
}

//! What this version can do with a row. It follows from the code that is there, so a row cannot claim it.

use std::fmt;

use serde::{Serialize, Serializer};

use super::spec::{Kind, ModelSpec, WeightsFormat, WeightsSpec};
use crate::arch;

/// Whether a model can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// It can.
    Loadable,
    /// Its files can be fetched, but nothing runs them yet.
    NotYet {
        /// Everything that stands in the way.
        missing: Vec<Missing>,
    },
}

/// What stands in the way of loading a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// Nothing runs models of this kind.
    Kind(Kind),
    /// There is no encoder of this architecture for these weights; `None` where the row does not state it.
    Architecture {
        /// The weights' file.
        weights: String,
        /// The architecture.
        architecture: Option<String>,
    },
}

impl ModelSpec {
    /// What this version can do with the model.
    pub fn state(&self) -> State {
        // A kind is here as soon as there is a type that loads it.
        if matches!(self.kind, Kind::Image | Kind::Multimodal) {
            return State::NotYet { missing: vec![Missing::Kind(self.kind)] };
        }
        if self.weights.is_empty() {
            return State::Loadable;
        }
        let missing: Vec<Missing> = self.weights.iter().filter_map(|weights| weights.missing(self)).collect();
        match missing.len() < self.weights.len() {
            true => State::Loadable,
            false => State::NotYet { missing },
        }
    }
}

impl WeightsSpec {
    /// Why these weights of `model` cannot be loaded, if so.
    pub fn missing(&self, model: &ModelSpec) -> Option<Missing> {
        let weights = self.path.clone();
        match (self.format, &model.architecture) {
            (WeightsFormat::Safetensors | WeightsFormat::Pytorch, Some(name)) if arch::is_known(name) => None,
            (WeightsFormat::Safetensors | WeightsFormat::Pytorch, name) => {
                Some(Missing::Architecture { weights, architecture: name.clone() })
            }
            (WeightsFormat::Onnx, _) => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Loadable => "loadable",
            State::NotYet { .. } => "not yet",
        })
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Kind(kind) => write!(f, "nothing runs {kind} models"),
            Missing::Architecture { weights, architecture: Some(architecture) } => {
                write!(f, "{weights} needs the architecture `{architecture}`")
            }
            Missing::Architecture { weights, architecture: None } => {
                write!(f, "{weights} is of an architecture that the registry does not state")
            }
        }
    }
}

impl Serialize for Missing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

//! What config.json says of a model's head, as transformers writes it.

use serde::Deserialize;

/// The part that tells what a model was made for.
#[derive(Default, Deserialize)]
pub(crate) struct Transformers {
    /// Classes that can load it.
    #[serde(default)]
    pub(crate) architectures: Vec<String>,
    id2label: Option<serde_json::Map<String, serde_json::Value>>,
    num_labels: Option<usize>,
}

impl Transformers {
    /// How many labels are named, or else stated; transformers takes two where there is neither.
    pub(crate) fn num_labels(&self) -> Option<usize> {
        self.id2label.as_ref().map(serde_json::Map::len).or(self.num_labels)
    }
}

//! From texts to packed batches and back to one result per text.

mod pair_prompt;
mod pipeline;
mod tokenizer;

pub(crate) use pair_prompt::PairPrompt;
pub(crate) use pipeline::{Pipeline, pack};
pub use pipeline::{WINDOW_BYTES, WINDOW_TEXTS};
pub(crate) use tokenizer::{Encoding, TextTokenizer, find_tokens};

//! What all contestants share: the model, the corpus, the threads, and a folder in target/.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use candlewick::{LoadOptions, ModelSpec, Registry, TextEmbedding};
use tokenizers::Tokenizer;

use super::{Options, progress, write_json};
use crate::corpus;

/// What all contestants share.
pub(super) struct Setting {
    /// The registry's row.
    pub(super) spec: ModelSpec,
    /// The model's files.
    pub(super) model_folder: PathBuf,
    /// What the workers read and write.
    pub(super) folder: PathBuf,
    /// A JSON array of the texts.
    pub(super) texts_file: PathBuf,
    pub(super) threads: usize,
    pub(super) max_length: usize,
    /// Tokens of each text, special tokens included, before what is beyond `max_length` is cut off.
    pub(super) lengths: Vec<usize>,
    /// Tokens that are read of all texts.
    pub(super) tokens_read: usize,
    pub(super) fingerprint: u64,
}

impl Setting {
    /// Fetches the model, and writes the corpus where the workers find it.
    pub(super) fn prepare(options: &Options) -> Result<Self> {
        progress("collecting the corpus")?;
        let spec = Registry::built_in().get(&options.model)?.clone();
        let model_folder = candlewick::pull(&spec.id, &LoadOptions::new())?;
        let texts = corpus::texts(options.texts)?;
        let folder = crate::root().join("target/compare").join(spec.id.replace('/', "--"));
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let texts_file = folder.join("texts.json");
        write_json(&texts_file, &texts)?;

        let mut load_options = LoadOptions::new().offline(true).lazy_load(true);
        load_options.max_length = options.max_length;
        let model = TextEmbedding::load_with(&spec.id, load_options)?;
        let lengths = full_lengths(&model_folder, &texts)?;
        let max_length = model.max_length();
        let tokens_read = model.token_count(&texts)?;
        let expected: usize = lengths.iter().map(|length| length.min(&max_length)).sum();
        ensure!(tokens_read == expected, "candlewick reads {tokens_read} tokens of {expected}");
        Ok(Self {
            model_folder,
            folder,
            texts_file,
            threads: options.threads,
            max_length,
            lengths,
            tokens_read,
            fingerprint: corpus::fingerprint(&texts),
            spec,
        })
    }

    /// Number of texts.
    pub(super) fn texts(&self) -> usize {
        self.lengths.len()
    }
}

/// candlewick itself never tells how long a text would have been.
fn full_lengths(model_folder: &std::path::Path, texts: &[String]) -> Result<Vec<usize>> {
    let error = |error| anyhow!("the tokenizer of {}: {error}", model_folder.display());
    let mut tokenizer = Tokenizer::from_file(model_folder.join("tokenizer.json")).map_err(error)?;
    tokenizer.with_truncation(None).map_err(error)?.with_padding(None);
    let length = |text: &String| Ok(tokenizer.encode_fast(text.as_str(), true).map_err(error)?.len());
    texts.iter().map(length).collect()
}

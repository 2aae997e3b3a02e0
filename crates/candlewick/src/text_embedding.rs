//! Dense text embeddings.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use candlewick_models::{
    DenseModel, Embedding, Kind, LoadOptions, ModelSpec, Registry, Result, State, TextRole, WINDOW_BYTES,
    WINDOW_TEXTS,
};

/// A model that turns texts into vectors.
///
/// All methods take `&self`; clones are cheap and share the weights and the threads, so one value serves a
/// whole server. A text's embedding depends on neither the other texts of the call nor the threads.
///
/// ```
/// use candlewick::{LoadOptions, TextEmbedding};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bert-mean");
/// let model = TextEmbedding::from_folder_with(folder, LoadOptions::new().threads(2))?;
/// let embeddings = model.embed(&["wax", "wick", "flame"])?;
/// assert_eq!(embeddings.len(), 3);
/// assert_eq!(embeddings[0].len(), model.embedding_size());
/// # Ok::<(), candlewick::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextEmbedding {
    model: Arc<DenseModel>,
}

impl TextEmbedding {
    /// Loads a model by its id or an alias, fetching its files if they are not cached.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model that cannot be loaded yet; when the files cannot be had, or
    /// something in them is broken or not supported.
    pub fn load(id: &str) -> Result<Self> {
        Self::load_with(id, LoadOptions::default())
    }

    /// [`load`](Self::load) with options.
    ///
    /// # Errors
    ///
    /// As `load`, and when an option asks for more than the model has.
    ///
    /// ```no_run
    /// use candlewick::{LoadOptions, TextEmbedding};
    ///
    /// // Never touches the network: the model must be in the cache.
    /// let options = LoadOptions::new().offline(true).threads(2);
    /// let model = TextEmbedding::load_with("BAAI/bge-small-en-v1.5", options)?;
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    pub fn load_with(id: &str, options: LoadOptions) -> Result<Self> {
        Ok(Self { model: Arc::new(DenseModel::load(id, options)?) })
    }

    /// Loads a folder that holds tokenizer.json, config.json and weights. What sentence-transformers puts
    /// beside them (modules.json, 1_Pooling, sentence_bert_config.json...) is read and obeyed.
    ///
    /// # Errors
    ///
    /// When a file is missing, or something in one is broken or not supported.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        Self::from_folder_with(folder, LoadOptions::default())
    }

    /// [`from_folder`](Self::from_folder) with options.
    ///
    /// # Errors
    ///
    /// As `from_folder`, and when an option asks for more than the model has.
    pub fn from_folder_with(folder: impl AsRef<Path>, options: LoadOptions) -> Result<Self> {
        Ok(Self { model: Arc::new(DenseModel::from_folder(folder.as_ref(), options)?) })
    }

    /// The models of the built-in registry that can be loaded by id, in its order.
    ///
    /// ```
    /// use candlewick::TextEmbedding;
    ///
    /// let models = TextEmbedding::supported_models();
    /// assert!(models.iter().any(|model| model.id == "BAAI/bge-small-en-v1.5" && model.dim == Some(384)));
    /// ```
    pub fn supported_models() -> Vec<&'static ModelSpec> {
        let is_supported = |model: &&ModelSpec| model.kind == Kind::Dense && model.state() == State::Loadable;
        Registry::built_in().models().iter().filter(is_supported).collect()
    }

    /// One embedding per text, in input order. No text gets a prompt. An empty slice gives an empty result,
    /// an empty text an embedding like any other.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or an embedding is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(texts, TextRole::Plain)
    }

    /// The same for texts that are searched for: the model's query prompt is put before each, if it has one,
    /// and a graph that selects an adapter takes the one for queries.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(queries, TextRole::Query)
    }

    /// The same for texts that are searched in: the model's passage prompt is put before each, if it has one,
    /// and a graph that selects an adapter takes the one for passages.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn passage_embed<S: AsRef<str> + Sync>(&self, passages: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(passages, TextRole::Passage)
    }

    /// Embeds texts as an iterator provides them, however many, in bounded memory: it takes a window of
    /// texts at a time, at most a few thousand or a few megabytes, and yields their embeddings in order.
    ///
    /// After an error the iterator ends.
    ///
    /// ```
    /// use candlewick::TextEmbedding;
    ///
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bert-mean");
    /// let model = TextEmbedding::from_folder(folder)?;
    /// let numbers = (0..5000).map(|number| format!("text number {number}"));
    /// let mut count = 0;
    /// for embedding in model.embed_iter(numbers) {
    ///     assert_eq!(embedding?.len(), model.embedding_size());
    ///     count += 1;
    /// }
    /// assert_eq!(count, 5000);
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    pub fn embed_iter<I>(&self, texts: I) -> EmbedIter<I::IntoIter>
    where
        I: IntoIterator,
        I::Item: AsRef<str> + Sync,
    {
        EmbedIter { model: self.clone(), texts: Some(texts.into_iter()), ready: VecDeque::new() }
    }

    /// Length of an embedding.
    pub fn embedding_size(&self) -> usize {
        self.model.dim()
    }

    /// Tokens of a text that are read, special tokens included; what is beyond is cut off.
    pub fn max_length(&self) -> usize {
        self.model.max_length()
    }

    /// Number of tokens of all texts together, special tokens included, after truncation.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.token_count(texts)
    }
}

/// Embeddings of the texts of an iterator; made by [`TextEmbedding::embed_iter`].
#[derive(Debug)]
pub struct EmbedIter<I> {
    model: TextEmbedding,
    /// `None` once the texts are used up or an error has been returned.
    texts: Option<I>,
    ready: VecDeque<Embedding>,
}

impl<I> Iterator for EmbedIter<I>
where
    I: Iterator,
    I::Item: AsRef<str> + Sync,
{
    type Item = Result<Embedding>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let texts = self.texts.as_mut()?;
            let mut bytes = 0;
            let mut window = Vec::new();
            while window.len() < WINDOW_TEXTS && bytes < WINDOW_BYTES {
                let Some(text) = texts.next() else { break };
                bytes += text.as_ref().len();
                window.push(text);
            }
            if window.is_empty() {
                self.texts = None;
            }
            match self.model.embed(&window) {
                Ok(embeddings) => self.ready = embeddings.into(),
                Err(error) => {
                    self.texts = None;
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shareable_between_threads() {
        fn check<T: Clone + Send + Sync + 'static>() {}
        check::<TextEmbedding>();
    }
}

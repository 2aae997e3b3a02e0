//! Embedding of any number of texts in bounded memory, whatever a text's embedding is.

use std::collections::VecDeque;
use std::fmt;

use candlewick_models::{Result, WINDOW_BYTES, WINDOW_TEXTS};

/// Embeddings of the texts of an iterator, in their order; made by `embed_iter`.
///
/// It takes a window of texts at a time, at most a few thousand or a few megabytes. After an error it ends.
pub struct EmbedIter<I: Iterator, E> {
    embed: Box<EmbedFn<I::Item, E>>,
    /// `None` once the texts are used up or an error has been returned.
    texts: Option<I>,
    ready: VecDeque<E>,
}

/// One embedding per text.
type EmbedFn<S, E> = dyn Fn(&[S]) -> Result<Vec<E>> + Send + Sync;

impl<I, E> EmbedIter<I, E>
where
    I: Iterator,
    I::Item: AsRef<str>,
{
    pub(crate) fn new(
        texts: I,
        embed: impl Fn(&[I::Item]) -> Result<Vec<E>> + Send + Sync + 'static,
    ) -> Self {
        Self { embed: Box::new(embed), texts: Some(texts), ready: VecDeque::new() }
    }

    /// The next texts; none at the end.
    fn next_window(texts: &mut I) -> Vec<I::Item> {
        let mut bytes = 0;
        let mut window = Vec::new();
        while window.len() < WINDOW_TEXTS && bytes < WINDOW_BYTES {
            let Some(text) = texts.next() else { break };
            bytes += text.as_ref().len();
            window.push(text);
        }
        window
    }
}

impl<I, E> Iterator for EmbedIter<I, E>
where
    I: Iterator,
    I::Item: AsRef<str>,
{
    type Item = Result<E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let window = Self::next_window(self.texts.as_mut()?);
            if window.is_empty() {
                self.texts = None;
                return None;
            }
            match (self.embed)(&window) {
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

impl<I: Iterator, E> fmt::Debug for EmbedIter<I, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_done = self.texts.is_none() && self.ready.is_empty();
        f.debug_struct("EmbedIter").field("is_done", &is_done).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use candlewick_models::Error;

    use super::*;

    #[test]
    fn windows_are_bounded_and_all_texts_are_embedded() {
        let texts = vec!["x".repeat(WINDOW_BYTES / 2); 5];
        let lengths = |window: &[String]| {
            assert!(window.len() <= 2, "{} texts of half a window", window.len());
            Ok(window.iter().map(String::len).collect())
        };
        let embedded: Vec<usize> = EmbedIter::new(texts.into_iter(), lengths).map(Result::unwrap).collect();
        assert_eq!(embedded, [WINDOW_BYTES / 2; 5]);

        let count = |window: &[&str]| {
            assert!((1..=WINDOW_TEXTS).contains(&window.len()));
            Ok(vec![(); window.len()])
        };
        let many = std::iter::repeat_n("", 2 * WINDOW_TEXTS + 1);
        assert_eq!(EmbedIter::new(many, count).count(), 2 * WINDOW_TEXTS + 1);
    }

    #[test]
    fn it_ends_after_an_error() {
        let fail = |_: &[&str]| Err::<Vec<()>, _>(Error::NoCacheFolder);
        let mut iter = EmbedIter::new(["a"].into_iter().cycle(), fail);
        assert!(matches!(iter.next(), Some(Err(Error::NoCacheFolder))));
        assert!(iter.next().is_none());
        assert!(format!("{iter:?}").contains("is_done: true"));
    }
}

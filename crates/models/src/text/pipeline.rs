//! Texts in, one result per text out, in input order.
//!
//! Texts are taken in windows, which bound the memory for tokens and for results that wait their turn. Within
//! a window all texts are tokenized, planned into batches, and run; a window's batches go to the threads
//! longest first, so that they finish close together.

use std::ops::Range;

use candle_core::Tensor;
use candlewick_engine::{Batch, TextEncoder, ThreadPool, plan};

use super::tokenizer::Encoding;
use crate::{Error, Result};

/// Texts of one window at most.
pub const WINDOW_TEXTS: usize = 2048;

/// Bytes of one window's texts, about: a window ends with the text that reaches it.
pub const WINDOW_BYTES: usize = 4 << 20;

/// Texts that one thread tokenizes at a time.
const TOKENIZE_TEXTS: usize = 16;

/// Below this many tokens a batch is not split to employ another thread.
const MIN_SPLIT_TOKENS: usize = 64;

/// What is needed to run texts through an encoder.
#[derive(Debug)]
pub(crate) struct Pipeline<'a> {
    pub(crate) name: &'a str,
    pub(crate) pool: &'a ThreadPool,
    pub(crate) batch_tokens: usize,
}

impl Pipeline<'_> {
    /// Runs `items`, of about so many `bytes` each, through `encode`, `encoder` and `head`. The head gets what
    /// [`TextEncoder::forward_outputs`] gives and returns one result per sequence, or `None` where one is not finite.
    pub(crate) fn run<T, R, H>(
        &self,
        items: &[T],
        bytes: impl Fn(&T) -> usize,
        encode: impl Fn(usize, &T) -> Result<Encoding> + Sync,
        encoder: &dyn TextEncoder,
        head: H,
    ) -> Result<Vec<R>>
    where
        T: Sync,
        R: Send,
        H: Fn(&[Tensor], &Batch) -> candlewick_engine::Result<Vec<Option<R>>> + Sync,
    {
        let mut results = Vec::with_capacity(items.len());
        for window in windows(items, bytes) {
            let encodings = self.encode(&items[window.clone()], window.start, &encode)?;
            results.extend(self.run_sequences(&encodings, window.start, encoder, &head)?);
        }
        Ok(results)
    }

    /// [`run`](Self::run) from tokens on; `first_index` is that of the first sequence, for errors.
    pub(crate) fn run_sequences<R, H>(
        &self,
        sequences: &[Encoding],
        first_index: usize,
        encoder: &dyn TextEncoder,
        head: &H,
    ) -> Result<Vec<R>>
    where
        R: Send,
        H: Fn(&[Tensor], &Batch) -> candlewick_engine::Result<Vec<Option<R>>> + Sync,
    {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.token_ids.len()).collect();
        let batches = plan(&lengths, self.budget(&lengths));
        let outputs = self.pool.try_map(&batches, |indices| {
            let run = || {
                let batch = pack(indices.iter().map(|&index| &sequences[index]))?;
                head(&encoder.forward_outputs(&batch)?, &batch)
            };
            run().map_err(|source| Error::Engine { model: self.name.into(), source: Box::new(source) })
        })?;
        let mut in_order: Vec<Option<R>> = sequences.iter().map(|_| None).collect();
        for (index, result) in batches.iter().flatten().zip(outputs.into_iter().flatten()) {
            in_order[*index] = result;
        }
        let or_error = |(offset, result): (usize, Option<R>)| {
            result.ok_or_else(|| Error::NonFinite { model: self.name.into(), index: first_index + offset })
        };
        in_order.into_iter().enumerate().map(or_error).collect()
    }

    /// Number of tokens of all items together, after truncation, special tokens included.
    pub(crate) fn count_tokens<T: Sync>(
        &self,
        items: &[T],
        bytes: impl Fn(&T) -> usize,
        encode: impl Fn(usize, &T) -> Result<Encoding> + Sync,
    ) -> Result<usize> {
        let mut count = 0;
        for window in windows(items, bytes) {
            let encodings = self.encode(&items[window.clone()], window.start, &encode)?;
            count += encodings.iter().map(|encoding| encoding.token_ids.len()).sum::<usize>();
        }
        Ok(count)
    }

    /// The items' tokens, in order; `first_index` is that of the first item.
    pub(crate) fn encode<T: Sync>(
        &self,
        items: &[T],
        first_index: usize,
        encode: &(impl Fn(usize, &T) -> Result<Encoding> + Sync),
    ) -> Result<Vec<Encoding>> {
        self.map(items, |index, item| encode(first_index + index, item))
    }

    /// What `of_item` makes of each item, in order, computed by all threads; it gets the item's index too.
    pub(crate) fn map<T: Sync, R: Send>(
        &self,
        items: &[T],
        of_item: impl Fn(usize, &T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let chunks: Vec<(usize, &[T])> = items.chunks(TOKENIZE_TEXTS).enumerate().collect();
        let results = self.pool.try_map(&chunks, |(chunk, items)| {
            let indexed = (chunk * TOKENIZE_TEXTS..).zip(*items);
            indexed.map(|(index, item)| of_item(index, item)).collect::<Result<Vec<_>>>()
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    /// The token budget of a batch: smaller than usual where that gives every thread something to do.
    fn budget(&self, lengths: &[usize]) -> usize {
        let share = lengths.iter().sum::<usize>().div_ceil(self.pool.threads());
        self.batch_tokens.min(share.max(MIN_SPLIT_TOKENS))
    }
}

/// The batch of some sequences.
pub(crate) fn pack<'a>(
    sequences: impl IntoIterator<Item = &'a Encoding> + Clone,
) -> candlewick_engine::Result<Batch> {
    let tokens = sequences.clone().into_iter().map(|s| (s.token_ids.as_slice(), s.type_ids.as_deref()));
    let batch = Batch::pack(tokens)?;
    if sequences.clone().into_iter().all(|sequence| sequence.attended.is_none()) {
        return Ok(batch);
    }
    let attended = |s: &Encoding| s.attended.unwrap_or(s.token_ids.len()) as u32;
    batch.with_attended(sequences.into_iter().map(attended).collect())
}

/// Cuts items into consecutive windows.
fn windows<T>(items: &[T], bytes_of: impl Fn(&T) -> usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == items.len() {
            return None;
        }
        let mut bytes = 0;
        let mut end = start;
        while end < items.len() && end - start < WINDOW_TEXTS && bytes < WINDOW_BYTES {
            bytes += bytes_of(&items[end]);
            end += 1;
        }
        let window = start..end;
        start = end;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_bounded_by_count_and_by_bytes() {
        let short = vec!["x"; 2 * WINDOW_TEXTS + 1];
        let cut: Vec<_> = windows(&short, |text| text.len()).collect();
        assert_eq!(
            cut,
            [0..WINDOW_TEXTS, WINDOW_TEXTS..2 * WINDOW_TEXTS, 2 * WINDOW_TEXTS..2 * WINDOW_TEXTS + 1]
        );
        let long = vec!["x".repeat(WINDOW_BYTES / 2); 5];
        assert_eq!(windows(&long, String::len).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
        assert_eq!(windows::<String>(&[], String::len).count(), 0);
    }
}

//! What all contestants of a cell compute: texts or token ids, in a file that every worker reads.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use candlewick::{Kind, LoadOptions};
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use super::cell::{Cell, Workload};
use super::embedder::Embedder;
use super::model::ModelFiles;
use super::stats::{median, percentile};
use super::write_json;
use crate::corpus;

/// A pass repeats small inputs until about this much is computed, a second on two cores: system clocks count
/// CPU time in hundredths of a second, and a single query is over before the scheduler notices it.
const PASS_FLOPS: f64 = 1e11;

/// A pass of no more calls: queries of the smallest model.
const MAX_CALLS: usize = 200;

/// Sequences that warm up sparse models: the logits of a whole pass are gigabytes and take rivals half a minute.
const SPARSE_WARM_UP: usize = 16;

/// BERT's [CLS] and [SEP].
const SPECIAL_TOKENS: usize = 2;

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sequences {
    Texts(Vec<String>),
    Tokens(Vec<Vec<u32>>),
}

impl Sequences {
    /// At most this many of them.
    pub(super) fn first(&self, count: usize) -> Self {
        match self {
            Self::Texts(texts) => Self::Texts(texts.iter().take(count).cloned().collect()),
            Self::Tokens(tokens) => Self::Tokens(tokens.iter().take(count).cloned().collect()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// What a pass computes.
#[derive(Debug)]
pub(super) struct Input {
    /// Holds [`Sequences`].
    pub(super) file: PathBuf,
    /// How often a pass computes it; its time is the median.
    pub(super) calls: usize,
    /// Texts, or sequences of token ids.
    pub(super) sequences: usize,
    /// How many of them are computed to warm up: all, unless that takes too long.
    pub(super) warm_up: usize,
    pub(super) description: String,
}

impl Input {
    pub(super) fn prepare(cell: &Cell, model: &ModelFiles, texts: Option<usize>) -> Result<Self> {
        let file = model.work.join(format!("input-{}.json", cell.job));
        let (sequences, calls, description) = match cell.workload {
            Workload::Tokens { batch, length } => {
                let calls = calls(model.shape.flops_per_token() * (batch * length) as f64);
                let calls_a_pass = if calls == 1 { "1 call".into() } else { format!("{calls} calls") };
                let description = format!("{batch} x {length} token ids, {calls_a_pass} a pass");
                (Sequences::Tokens(token_ids(batch, length, model.shape.vocab_size)), calls, description)
            }
            Workload::EqualTexts { texts, length } => {
                let (texts, description) = equal_texts(texts, length, model)?;
                (Sequences::Texts(texts), 1, description)
            }
            Workload::Text => {
                let texts = corpus::texts(texts.unwrap_or(model.row.texts))?;
                let description = describe(&texts, model)?;
                (Sequences::Texts(texts), 1, description)
            }
            Workload::Start => {
                let text = "A candle burns.".to_owned();
                let description = format!("a new process embeds {text:?}; all files were read before");
                (Sequences::Texts(vec![text]), 1, description)
            }
        };
        write_json(&file, &sequences)?;
        let sequences = sequences.len();
        let warm_up = if model.row.kind == Kind::Sparse { sequences.min(SPARSE_WARM_UP) } else { sequences };
        Ok(Self { file, calls, sequences, warm_up, description })
    }
}

fn calls(flops: f64) -> usize {
    ((PASS_FLOPS / flops) as usize).clamp(1, MAX_CALLS)
}

/// Ordinary words between BERT's [CLS] and [SEP], no two sequences alike.
fn token_ids(batch: usize, length: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    const CLS: u32 = 101;
    const SEP: u32 = 102;
    const FIRST_WORD: usize = 2000;
    let word =
        |sequence, position| FIRST_WORD + (sequence * 7919 + position * 37) % (vocab_size - FIRST_WORD);
    let sequence = |sequence| {
        let words = (2..length).map(|position| word(sequence, position) as u32);
        [CLS].into_iter().chain(words).chain([SEP]).collect()
    };
    (0..batch).map(sequence).collect()
}

/// Doc comments, joined until the model cuts them all at `length`.
fn equal_texts(count: usize, length: usize, model: &ModelFiles) -> Result<(Vec<String>, String)> {
    ensure!(model.max_length == length, "{} cuts at {} tokens", model.row.title, model.max_length);
    let parts = corpus::all()?;
    let lengths = full_lengths(&model.path, &parts)?;
    let texts = joined(&parts, &lengths, length, count);
    ensure!(texts.len() == count, "the corpus makes {} texts of {length} tokens", texts.len());
    check_token_count(&texts, model, count * length)?;
    let description = format!(
        "{count} texts of {length} tokens each: doc comments of {} crates, joined and cut; fingerprint {:016x}",
        corpus::CRATES.len(),
        corpus::fingerprint(&texts),
    );
    Ok((texts, description))
}

/// At most `count` texts of at least `length` tokens; `lengths` are those of the parts, special tokens included. A
/// line break between parts is no token, and changes none.
fn joined(parts: &[String], lengths: &[usize], length: usize, count: usize) -> Vec<String> {
    let (mut texts, mut text, mut tokens) = (Vec::new(), Vec::new(), 0);
    for (part, part_length) in parts.iter().zip(lengths) {
        text.push(part.as_str());
        tokens += part_length.saturating_sub(SPECIAL_TOKENS);
        if tokens + SPECIAL_TOKENS >= length && texts.len() < count {
            texts.push(text.join("\n"));
            text.clear();
            tokens = 0;
        }
    }
    texts
}

/// candlewick must read what the description says.
fn check_token_count(texts: &[String], model: &ModelFiles, expected: usize) -> Result<()> {
    let options = LoadOptions::new().lazy_load(true).max_length(model.max_length);
    let counted = Embedder::load(model.row.kind, None, &model.path, options)?.token_count(texts)?;
    ensure!(counted == expected, "candlewick reads {counted} tokens of {expected}");
    Ok(())
}

fn describe(texts: &[String], model: &ModelFiles) -> Result<String> {
    let lengths = full_lengths(&model.path, texts)?;
    let max_length = model.max_length;
    let read: usize = lengths.iter().map(|length| length.min(&max_length)).sum();
    check_token_count(texts, model, read)?;
    let cut = lengths.iter().filter(|&&length| length > max_length).count() as f64;
    let (count, lengths) = (texts.len() as f64, lengths.iter().map(|&n| n as f64).collect::<Vec<_>>());
    Ok(format!(
        "{} doc comments of {} crates, fingerprint {:016x}; tokens of a text: mean {:.1}, median {:.0}, p90 {:.0}, \
         p99 {:.0}; {:.1} % are cut at {max_length}, which leaves a mean of {:.1}",
        texts.len(),
        corpus::CRATES.len(),
        corpus::fingerprint(texts),
        lengths.iter().sum::<f64>() / count,
        median(&lengths),
        percentile(&lengths, 90),
        percentile(&lengths, 99),
        100.0 * cut / count,
        read as f64 / count,
    ))
}

/// candlewick itself never tells how long a text would have been.
fn full_lengths(model_folder: &Path, texts: &[String]) -> Result<Vec<usize>> {
    let error = |error| anyhow!("the tokenizer of {}: {error}", model_folder.display());
    let mut tokenizer = Tokenizer::from_file(model_folder.join("tokenizer.json")).map_err(error)?;
    tokenizer.with_truncation(None).map_err(error)?.with_padding(None);
    let length = |text: &String| Ok(tokenizer.encode_fast(text.as_str(), true).map_err(error)?.len());
    texts.iter().map(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_inputs_are_repeated() {
        assert_eq!(calls(1e6), MAX_CALLS);
        assert_eq!(calls(2e10), 5);
        assert_eq!(calls(1e13), 1);
    }

    #[test]
    fn parts_are_joined_until_they_are_long_enough() {
        let parts = ["a", "b", "c", "d", "e"].map(str::to_owned);
        // Without [CLS] and [SEP]: 3, 1, 2, 6 and 1 tokens; 6 and those two are enough.
        let join = |count| joined(&parts, &[5, 3, 4, 8, 3], 8, count);
        assert_eq!(join(9), ["a\nb\nc", "d"]);
        assert_eq!(join(1), ["a\nb\nc"]);
    }

    #[test]
    fn the_first_sequences_warm_up() {
        let tokens = Sequences::Tokens(vec![vec![1], vec![2], vec![3]]);
        assert!(matches!(tokens.first(2), Sequences::Tokens(first) if first == [[1], [2]]));
        assert_eq!(tokens.first(9).len(), 3);
    }

    #[test]
    fn token_ids_are_words_of_the_vocabulary() {
        let batch = token_ids(32, 128, 30522);
        assert!(batch.iter().all(|ids| ids.len() == 128 && ids[0] == 101 && ids[127] == 102));
        assert!(batch.iter().flatten().all(|&id| id < 30522));
        assert_ne!(batch[0], batch[1]);
        assert_eq!(token_ids(1, 8, 30522)[0].len(), 8);
    }
}

//! tokenizer.json to token ids.
//!
//! The vocabulary and the rules are the tokenizers crate's. Truncation is set here from the model's limit, and
//! padding is switched off: files often carry a fixed padding of their own, made for one use and wrong for
//! any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessor, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer, TokenizerImpl, TruncationDirection, TruncationParams, truncate_encodings,
};

use crate::folder::FolderConfig;
use crate::json::read_json;
use crate::{Error, Result};

/// A tokenizer with its model's length limit.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    pub(super) tokenizer: Tokenizer,
    max_length: usize,
    pub(super) truncates_left: bool,
}

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) token_ids: Vec<u32>,
    /// `None` stands for all zero.
    pub(crate) type_ids: Option<Vec<u32>>,
    /// How many of the first tokens are attended to; `None` stands for all.
    pub(crate) attended: Option<usize>,
}

impl TextTokenizer {
    /// Loads tokenizer.json from a model's folder.
    pub(crate) fn load(folder: &Path, config: &FolderConfig, max_length: usize) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let load_error = |source| Error::LoadTokenizer { path: path.clone(), source };
        let mut tokenizer = read(&path)?;
        if config.lowercase {
            let own = tokenizer.get_normalizer().cloned();
            let steps = [NormalizerWrapper::from(Lowercase)].into_iter().chain(own).collect();
            tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(load_error)?;
        }
        let direction =
            if config.truncate_left { TruncationDirection::Left } else { TruncationDirection::Right };
        let truncation = TruncationParams { max_length, direction, ..TruncationParams::default() };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).map_err(load_error)?;
        let truncates_left = config.truncate_left;
        Ok(Self { tokenizer, max_length, truncates_left })
    }

    /// Tokens of a text that are read, special tokens included.
    pub(crate) fn max_length(&self) -> usize {
        self.max_length
    }

    /// How many special tokens every text gets.
    pub(crate) fn special_tokens(&self) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false))
    }

    /// Entries of the vocabulary, added tokens included.
    pub(crate) fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Tokenizes one text; `index` names it in errors.
    pub(crate) fn encode(&self, index: usize, text: &str) -> Result<Encoding> {
        let encoding = self.tokenizer.encode_fast(text, true);
        Ok(encoding.map_err(|source| Error::Tokenize { index, source })?.into())
    }

    /// [`encode`](Self::encode), cut to `max_length` tokens if that is less than the tokenizer's own limit.
    pub(crate) fn encode_within(&self, index: usize, text: &str, max_length: usize) -> Result<Encoding> {
        let encoding =
            self.tokenizer.encode_fast(text, true).map_err(|source| Error::Tokenize { index, source })?;
        let excess = encoding.len().saturating_sub(max_length);
        let special = encoding.get_special_tokens_mask();
        let before = special.iter().take_while(|mask| **mask == 1).count();
        let behind = special[before..].iter().rev().take_while(|mask| **mask == 1).count();
        let excess = excess.min(encoding.len() - before - behind);
        let start = if self.truncates_left { before } else { encoding.len() - behind - excess };
        let mut encoding = Encoding::from(encoding);
        encoding.token_ids.drain(start..start + excess);
        if let Some(type_ids) = &mut encoding.type_ids {
            type_ids.drain(start..start + excess);
        }
        Ok(encoding)
    }

    /// The id of the first token of a text, without special tokens.
    pub(crate) fn first_id(&self, text: &str) -> Option<u32> {
        self.tokenizer.encode_fast(text, false).ok()?.get_ids().first().copied()
    }

    /// The id of a token, if there is one that is spelled so.
    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// How a token is spelled; empty of ids that there are not.
    pub(crate) fn token(&self, id: u32) -> String {
        self.tokenizer.id_to_token(id).unwrap_or_default()
    }

    /// What stands before tokens that continue a word, where words are cut so.
    pub(crate) fn continuing_prefix(&self) -> Option<&str> {
        match self.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(&model.continuing_subword_prefix),
            _ => None,
        }
    }

    /// Ids of special tokens.
    pub(crate) fn special_ids(&self) -> BTreeSet<u32> {
        let added = self.tokenizer.get_added_tokens_decoder();
        added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect()
    }

    /// How many special tokens every pair of texts gets.
    pub(crate) fn pair_special_tokens(&self) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true))
    }

    /// From now on it tokenizes pairs of texts, which are cut here: the tokenizers crate (0.23.2) cuts each text to the
    /// limit before it compares their lengths, so that of two that are longer it does not know the longest.
    pub(crate) fn take_pairs(&mut self) {
        self.tokenizer.with_truncation(None).expect("only a stride can be refused");
    }

    /// Tokenizes two texts into one sequence; of what is too long together, the longer text is cut first. Only after
    /// [`take_pairs`](Self::take_pairs).
    pub(crate) fn encode_pair(&self, index: usize, first: &str, second: &str) -> Result<Encoding> {
        let error = |source| Error::Tokenize { index, source };
        let first = self.tokenizer.encode_fast(first, false).map_err(error)?;
        let second = self.tokenizer.encode_fast(second, false).map_err(error)?;
        let direction =
            if self.truncates_left { TruncationDirection::Left } else { TruncationDirection::Right };
        let max_length = self.pair_room();
        let params = TruncationParams { max_length, direction, ..TruncationParams::default() };
        let (first, second) = truncate_encodings(first, Some(second), &params).map_err(error)?;
        Ok(self.tokenizer.post_process(first, second, true).map_err(error)?.into())
    }

    /// Tokens of two texts that are read together, special tokens not counted.
    fn pair_room(&self) -> usize {
        self.max_length.saturating_sub(self.pair_special_tokens())
    }

    /// Tokenizes two texts into as many sequences as it takes to read all of the second: each has the first text, cut to
    /// half of the room, and a part of the second, of which `overlap` tokens are those at the end of the part before. Only
    /// after [`take_pairs`](Self::take_pairs).
    pub(crate) fn encode_windows(
        &self,
        index: usize,
        first: &str,
        second: &str,
        overlap: usize,
    ) -> Result<Vec<Encoding>> {
        let error = |source| Error::Tokenize { index, source };
        let mut first = self.tokenizer.encode_fast(first, false).map_err(error)?;
        let mut second = self.tokenizer.encode_fast(second, false).map_err(error)?;
        let room = self.pair_room();
        if first.len() + second.len() > room {
            first.truncate(first.len().min(room / 2), 0, TruncationDirection::Right);
            let room = (room - first.len()).max(1);
            second.truncate(room, overlap.min(room - 1), TruncationDirection::Right);
        }
        let following = second.take_overflowing();
        let join =
            |part| Ok(self.tokenizer.post_process(first.clone(), Some(part), true).map_err(error)?.into());
        std::iter::once(second).chain(following).map(join).collect()
    }
}

impl From<tokenizers::Encoding> for Encoding {
    fn from(encoding: tokenizers::Encoding) -> Self {
        let type_ids = encoding.get_type_ids();
        let type_ids = type_ids.iter().any(|&id| id != 0).then(|| type_ids.to_vec());
        Self { token_ids: encoding.get_ids().to_vec(), type_ids, attended: None }
    }
}

/// The ids of tokens in a tokenizer.json, which is not loaded as a tokenizer for that; `None` for one that it has not.
pub(crate) fn find_tokens(path: &Path, tokens: &[&str]) -> Result<Vec<Option<u32>>> {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        added_tokens: Vec<Added>,
        model: Vocabulary,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    #[derive(Deserialize)]
    struct Vocabulary {
        vocab: Box<RawValue>,
    }
    let parts: Parts = read_json(path)?;
    let vocab = parts.model.vocab.get();
    // Unigram's is a list of tokens with their scores.
    let vocab: HashMap<String, u32> = match serde_json::from_str::<Vec<(String, f64)>>(vocab) {
        Ok(entries) => (0..).zip(entries).map(|(id, (token, _))| (token, id)).collect(),
        Err(_) => serde_json::from_str(vocab)
            .map_err(|source| Error::ParseJson { path: path.to_owned(), source })?,
    };
    let find = |token: &&str| {
        let added = parts.added_tokens.iter().find(|added| added.content == *token).map(|added| added.id);
        added.or_else(|| vocab.get(*token).copied())
    };
    Ok(tokens.iter().map(find).collect())
}

/// Reads tokenizer.json without the parts that encoding does not use. Leaving out the decoder is not thrift:
/// the tokenizers crate panics on a malformed one instead of returning an error. Reading the file as JSON first
/// also turns every syntax error into one that names the place.
fn read(path: &Path) -> Result<Tokenizer> {
    #[derive(Deserialize)]
    struct Tagged<'a> {
        r#type: &'a str,
    }
    let mut parts: BTreeMap<String, Box<RawValue>> = read_json(path)?;
    for unused in ["decoder", "padding", "truncation"] {
        parts.remove(unused);
    }
    let json =
        serde_json::to_vec(&parts).map_err(|source| Error::ParseJson { path: path.to_owned(), source })?;
    let model = parts.get("model").and_then(|model| serde_json::from_str::<Tagged>(model.get()).ok());
    // A tokenizer of whatever model is parsed into a tree of values first, which takes three times as long.
    let parsed = match model.map(|model| model.r#type) {
        Some("BPE") => parse::<BPE>(&json),
        Some("Unigram") => parse::<Unigram>(&json),
        Some("WordLevel") => parse::<WordLevel>(&json),
        Some("WordPiece") => parse::<WordPiece>(&json),
        _ => parse::<ModelWrapper>(&json),
    };
    parsed.map_err(|source| Error::LoadTokenizer { path: path.to_owned(), source: source.into() })
}

/// Parses a tokenizer whose model is an `M`.
fn parse<M: Model + DeserializeOwned + Into<ModelWrapper>>(json: &[u8]) -> serde_json::Result<Tokenizer> {
    type Parsed<M> =
        TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    Ok(serde_json::from_slice::<Parsed<M>>(json)?.into())
}

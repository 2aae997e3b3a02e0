//! Pairs of texts as one prompt of a language model.

use tokenizers::TruncationDirection;

use super::tokenizer::{Encoding, TextTokenizer};
use crate::registry::Piece;
use crate::{Error, Result};

/// A prompt with places for a query and a document.
#[derive(Debug)]
pub(crate) struct PairPrompt {
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Up to the query, and between it and the document, which is the last.
    before_query: String,
    before_document: String,
}

impl PairPrompt {
    /// The prompt of these pieces with this instruction, the last of them being the document.
    ///
    /// # Errors
    ///
    /// When prefix or suffix cannot be tokenized.
    pub(crate) fn new(
        tokenizer: &TextTokenizer,
        [prefix, suffix]: [&str; 2],
        pieces: &[Piece],
        instruction: &str,
    ) -> Result<Self> {
        let ids = |text: &str| -> Result<Vec<u32>> {
            let encoding = tokenizer.tokenizer.encode_fast(text, false);
            Ok(encoding.map_err(|source| Error::Tokenize { index: 0, source })?.get_ids().to_vec())
        };
        let mut texts = [String::new(), String::new()];
        let mut place = 0;
        for piece in pieces {
            match piece {
                Piece::Text(text) => texts[place].push_str(text),
                Piece::Instruction => texts[place].push_str(instruction),
                Piece::Query => place = 1,
                Piece::Document => break,
            }
        }
        let [before_query, before_document] = texts;
        Ok(Self { prefix: ids(prefix)?, suffix: ids(suffix)?, before_query, before_document })
    }

    /// Tokens that every pair has.
    pub(crate) fn fixed_tokens(&self, tokenizer: &TextTokenizer) -> usize {
        self.prefix.len() + self.suffix.len() + tokenizer.special_tokens()
    }

    /// The tokens of a pair; of what is too long, its own are cut as one text.
    pub(crate) fn encode(
        &self,
        tokenizer: &TextTokenizer,
        index: usize,
        query: &str,
        document: &str,
    ) -> Result<Encoding> {
        let error = |source| Error::Tokenize { index, source };
        let text = format!("{}{query}{}{document}", self.before_query, self.before_document);
        let mut pair = tokenizer.tokenizer.encode_fast(text, false).map_err(error)?;
        let direction = match tokenizer.truncates_left {
            true => TruncationDirection::Left,
            false => TruncationDirection::Right,
        };
        pair.truncate(self.room(tokenizer), 0, direction);
        self.surround(tokenizer, index, pair)
    }

    /// As many prompts as it takes to read all of the document. Each has what stands before it, of which the query is cut
    /// where that is more than half of the room, and a part of the document, of which `overlap` tokens are those at the end
    /// of the part before.
    pub(crate) fn encode_windows(
        &self,
        tokenizer: &TextTokenizer,
        index: usize,
        query: &str,
        document: &str,
        overlap: usize,
    ) -> Result<Vec<Encoding>> {
        let text = format!("{}{query}{}{document}", self.before_query, self.before_document);
        let query_end = self.before_query.len() + query.len();
        let document_start = query_end + self.before_document.len();
        // With offsets, in bytes.
        let pair = tokenizer.tokenizer.encode(text, false);
        let pair = pair.map_err(|source| Error::Tokenize { index, source })?;
        let room = self.room(tokenizer);
        if pair.len() <= room {
            return Ok(vec![self.surround(tokenizer, index, pair)?]);
        }
        // A token that reaches into the document is the document's.
        let until = |end: usize| pair.get_offsets().iter().take_while(|(_, last)| *last <= end).count();
        let (with_query, start) = (until(query_end), until(document_start));
        let between = start - with_query;
        let query_tokens = with_query.min((room / 2).saturating_sub(between));
        let mut before = part(&pair, 0..query_tokens);
        before.merge_with(part(&pair, with_query..start), false);
        let room = room.saturating_sub(before.len()).max(1);
        let mut document = part(&pair, start..pair.len());
        document.truncate(room, overlap.min(room - 1), TruncationDirection::Right);
        let following = document.take_overflowing();
        let window = |document| {
            let mut pair = before.clone();
            pair.merge_with(document, false);
            self.surround(tokenizer, index, pair)
        };
        std::iter::once(document).chain(following).map(window).collect()
    }

    /// Tokens of a pair that are read, without those that every pair has.
    fn room(&self, tokenizer: &TextTokenizer) -> usize {
        tokenizer.max_length().saturating_sub(self.fixed_tokens(tokenizer))
    }

    /// The pair's tokens with the tokenizer's own special ones, then prefix and suffix.
    fn surround(
        &self,
        tokenizer: &TextTokenizer,
        index: usize,
        pair: tokenizers::Encoding,
    ) -> Result<Encoding> {
        let pair = tokenizer.tokenizer.post_process(pair, None, true);
        let pair = pair.map_err(|source| Error::Tokenize { index, source })?;
        let token_ids = [&self.prefix, pair.get_ids(), &self.suffix].concat();
        Ok(Encoding { token_ids, type_ids: None, attended: None })
    }
}

/// Some of the tokens.
fn part(encoding: &tokenizers::Encoding, tokens: std::ops::Range<usize>) -> tokenizers::Encoding {
    let mut part = encoding.clone();
    part.truncate(tokens.end, 0, TruncationDirection::Right);
    part.take_overflowing();
    part.truncate(tokens.len(), 0, TruncationDirection::Left);
    part.take_overflowing();
    part
}

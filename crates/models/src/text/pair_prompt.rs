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
    /// Tokens of the two.
    between: usize,
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
        let between = ids(&before_query)?.len() + ids(&before_document)?.len();
        let (prefix, suffix) = (ids(prefix)?, ids(suffix)?);
        Ok(Self { prefix, suffix, before_query, before_document, between })
    }

    /// Tokens of a pair of empty texts, about: those of both texts may become one with those beside them.
    pub(crate) fn fixed_tokens(&self, tokenizer: &TextTokenizer) -> usize {
        self.around(tokenizer) + self.between
    }

    /// Tokens that are never cut.
    fn around(&self, tokenizer: &TextTokenizer) -> usize {
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

    /// As many prompts as it takes to read all of the document. Each has the query, cut to half of the room that is left for
    /// the two texts, and a part of the document, of which `overlap` tokens are those at the end of the part before.
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
        // A token that reaches into a text is the text's.
        let until = |end: usize| pair.get_offsets().iter().take_while(|(_, last)| *last <= end).count();
        let query_start = until(self.before_query.len());
        let (query_end, start) = (until(query_end), until(document_start));
        let fixed = query_start + (start - query_end);
        let room = self.room(tokenizer);
        if pair.len() <= room || fixed >= room {
            return Ok(vec![self.encode(tokenizer, index, query, document)?]);
        }
        let query_tokens = (query_end - query_start).min((room - fixed) / 2);
        let room = room - fixed - query_tokens;
        let mut before = part(&pair, 0..query_start + query_tokens);
        before.merge_with(part(&pair, query_end..start), false);
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
        tokenizer.max_length().saturating_sub(self.around(tokenizer))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::folder::FolderConfig;
    use crate::registry::PairTemplate;

    const MAX_LENGTH: usize = 120;

    fn prompt(instruction: &str) -> (TextTokenizer, PairPrompt) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads/rerank-qwen3");
        let mut tokenizer = TextTokenizer::load(&folder, &FolderConfig::default(), MAX_LENGTH).unwrap();
        tokenizer.take_pairs();
        let template = PairTemplate::qwen3_reranker();
        let around = [template.prefix.as_str(), &template.suffix];
        let prompt = PairPrompt::new(&tokenizer, around, &template.pieces().unwrap(), instruction).unwrap();
        (tokenizer, prompt)
    }

    fn spelled(tokenizer: &TextTokenizer, ids: &[u32]) -> String {
        let letters = ids.iter().map(|id| tokenizer.token(*id)).collect::<String>();
        letters.replace('\u{120}', " ").replace('\u{10a}', "\n")
    }

    #[test]
    fn a_pair_is_surrounded_whole() {
        let (tokenizer, prompt) = prompt("Judge");
        let (query, document) = ("where is the river?", "By the {query}.");
        let found = prompt.encode(&tokenizer, 0, query, document).unwrap();
        let text = spelled(&tokenizer, &found.token_ids);
        let template = PairTemplate::qwen3_reranker();
        let pair = format!("<Instruct>: Judge\n<Query>: {query}\n<Document>: {document}");
        assert_eq!(text, template.prefix.clone() + &pair + &template.suffix);
        let cut = prompt.encode(&tokenizer, 0, query, &"the river ".repeat(99)).unwrap().token_ids;
        assert_eq!(cut.len(), MAX_LENGTH);
        assert!(cut.starts_with(&prompt.prefix) && cut.ends_with(&prompt.suffix));
    }

    #[test]
    fn windows_repeat_the_query_and_share_some_of_the_document() {
        let (tokenizer, prompt) = prompt("");
        let document: String = (0..60).map(|number| format!("the {number} ")).collect();
        let of = |query: &str, document: &str, overlap| {
            let windows = prompt.encode_windows(&tokenizer, 0, query, document, overlap).unwrap();
            let inner = windows.into_iter().map(|window| {
                let ids = window.token_ids;
                assert!(ids.len() <= MAX_LENGTH, "{}", ids.len());
                assert!(ids.starts_with(&prompt.prefix) && ids.ends_with(&prompt.suffix));
                spelled(&tokenizer, &ids[prompt.prefix.len()..ids.len() - prompt.suffix.len()])
            });
            inner.collect::<Vec<String>>()
        };
        let whole = prompt.encode(&tokenizer, 0, "a", "b").unwrap();
        assert_eq!(prompt.encode_windows(&tokenizer, 0, "a", "b", 5).unwrap(), [whole]);
        for overlap in [0, 5, 999] {
            // "a" leaves room, of the other query a part is left, with all that says where the document begins.
            for query in ["a", "where is the river and where is the sea and the fox and the dog"] {
                let windows = of(query, &document, overlap);
                assert!(windows.len() > 2);
                let parts: Vec<&str> = windows
                    .iter()
                    .map(|window| {
                        let (before, part) = window.split_once("\n<Document>:").unwrap();
                        let part_of_query = before.strip_prefix("<Instruct>: \n<Query>: ").unwrap();
                        assert!(!part_of_query.is_empty() && query.starts_with(part_of_query), "{before}");
                        assert_eq!(part_of_query == query, query == "a", "{before}");
                        part
                    })
                    .collect();
                if overlap == 0 {
                    assert_eq!(parts.concat().trim_start(), document);
                }
                assert!(document.ends_with(parts.last().unwrap()));
                assert!(parts.windows(2).all(|pair| pair[0] != pair[1]));
            }
        }
    }
}

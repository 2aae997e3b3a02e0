//! Words put together again from the tokens of a WordPiece tokenizer.

/// A word and the tokens that it was cut into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word, as the tokenizer normalised it: most often in lower case.
    pub text: String,
    /// Positions of its tokens in the sequence, ascending.
    pub positions: Vec<usize>,
}

/// What WordPiece puts before a token that continues a word.
pub const CONTINUING_PREFIX: &str = "##";

/// Joins tokens to words: one that begins with `##` continues the word before it. Tokens that `is_special` names are
/// passed over, and do not end a word.
///
/// Source: `_reconstruct_bpe` of fastembed's BM42 and miniCOIL, which is the same but for the special tokens: miniCOIL
/// passes none over.
///
/// ```
/// use candlewick_models::lexical::join_word_pieces;
///
/// let tokens = ["[CLS]", "candle", "##wick", "s", "[SEP]"];
/// let words = join_word_pieces(tokens, |token| token.starts_with('['));
/// assert_eq!((words[0].text.as_str(), words[0].positions.as_slice()), ("candlewick", &[1, 2][..]));
/// assert_eq!(words.len(), 2);
/// ```
pub fn join_word_pieces<'a>(
    tokens: impl IntoIterator<Item = &'a str>,
    is_special: impl Fn(&str) -> bool,
) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = Word { text: String::new(), positions: Vec::new() };
    for (position, token) in tokens.into_iter().enumerate() {
        if is_special(token) {
            continue;
        }
        if let Some(rest) = token.strip_prefix(CONTINUING_PREFIX) {
            word.text.push_str(rest);
        } else {
            // What has no text yet, a lone `##`, goes on into the next word.
            if !word.text.is_empty() {
                words.push(std::mem::replace(&mut word, Word { text: String::new(), positions: Vec::new() }));
            }
            word.text.push_str(token);
        }
        word.positions.push(position);
    }
    if !word.text.is_empty() {
        words.push(word);
    }
    words
}

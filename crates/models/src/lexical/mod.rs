//! Words without a neural network: splitting, stemming, stop words, hashing, and BM25 made of them.
//!
//! What is computed here ends up in an index, and has to be found there again by queries, perhaps those of
//! another program. So all of it follows the originals (Python's `re`, Snowball, NLTK, MurmurHash3) to
//! the bit, their oddities included.

mod greek;
mod language;
mod murmur;
mod stem;
mod stop_words;
mod word_pieces;
mod words;

pub use language::Language;
pub use murmur::word_index;
pub use stem::SnowballStemmer;
pub use stop_words::stop_words;
pub use word_pieces::{CONTINUING_PREFIX, Word, join_word_pieces};
pub use words::{is_punctuation, is_word_char, lower, split_words};
pub(crate) use words::{is_punctuation_mark, runs};

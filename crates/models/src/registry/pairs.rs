//! What a row says of a cross-encoder that is made of a language model: how a pair becomes one prompt, and which of the
//! vocabulary's tokens are its answer.

use serde::{Deserialize, Serialize};

/// How a pair of texts becomes one prompt. Its tokens are those of the prefix, of the pair and of the suffix, each
/// tokenized for itself; of what is too long together, only the pair's are cut.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PairTemplate {
    /// Before the pair.
    #[serde(default)]
    pub prefix: String,
    /// The pair, with `{query}`, with `{document}` at the end and, where there is an instruction, `{instruction}`.
    pub pair: String,
    /// Behind the pair.
    #[serde(default)]
    pub suffix: String,
    /// What stands for `{instruction}`, unless the caller has another.
    pub instruction: Option<String>,
}

/// Which of a causal language model's logits are the score, as sentence-transformers' module `LogitScore`: that of one
/// token behind the prompt, less that of another, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LogitScoreSpec {
    /// The token that says that the document answers the query.
    pub true_token: String,
    /// The token that says that it does not.
    pub false_token: Option<String>,
}

/// A piece of [`PairTemplate::pair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Instruction,
    Query,
    Document,
}

/// The places where texts are put.
const PLACES: [(&str, Piece); 3] =
    [("{instruction}", Piece::Instruction), ("{query}", Piece::Query), ("{document}", Piece::Document)];

impl PairTemplate {
    /// That of Qwen3-Reranker, by its model card.
    pub(crate) fn qwen3_reranker() -> Self {
        Self {
            prefix: "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
                     Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n\
                     <|im_start|>user\n"
                .into(),
            pair: "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}".into(),
            suffix: "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n".into(),
            instruction: Some(
                "Given a web search query, retrieve relevant passages that answer the query".into(),
            ),
        }
    }

    /// The pieces of the pair, in order.
    ///
    /// # Errors
    ///
    /// When a query or a document has no place, or more than one, or something follows the document; when there is an
    /// instruction without a place, or a place without an instruction.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut rest = self.pair.as_str();
        let next = |rest: &str| {
            let places = PLACES.iter().filter_map(|place| Some((rest.find(place.0)?, place)));
            places.min_by_key(|(at, _)| *at)
        };
        while let Some((at, (name, piece))) = next(rest) {
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            pieces.push(piece.clone());
            rest = &rest[at + name.len()..];
        }
        let count = |piece: Piece| pieces.iter().filter(|other| **other == piece).count();
        if count(Piece::Query) != 1 || count(Piece::Document) != 1 {
            return Err("the pair needs one {query} and one {document}".into());
        }
        if pieces.last() != Some(&Piece::Document) || !rest.is_empty() {
            return Err("the pair must end in {document}; what follows is the suffix".into());
        }
        let expected = usize::from(self.instruction.is_some());
        if count(Piece::Instruction) != expected {
            return Err(format!("the pair needs {expected} {{instruction}}"));
        }
        Ok(pieces)
    }
}

impl LogitScoreSpec {
    /// That of Qwen3-Reranker, and what sentence-transformers takes where nothing is said.
    pub(crate) fn yes_or_no() -> Self {
        Self { true_token: "yes".into(), false_token: Some("no".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pair: &str, instruction: Option<&str>) -> Result<Vec<Piece>, String> {
        let instruction = instruction.map(str::to_owned);
        PairTemplate { prefix: String::new(), pair: pair.into(), suffix: String::new(), instruction }.pieces()
    }

    #[test]
    fn templates_are_split_at_their_places() {
        let text = |text: &str| Piece::Text(text.into());
        let found = PairTemplate::qwen3_reranker().pieces().unwrap();
        let expected = [
            text("<Instruct>: "),
            Piece::Instruction,
            text("\n<Query>: "),
            Piece::Query,
            text("\n<Document>: "),
            Piece::Document,
        ];
        assert_eq!(found, expected);
        assert_eq!(pieces("{query}{document}", None).unwrap(), [Piece::Query, Piece::Document]);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (pair, instruction, problem) in [
            ("{query}", None, "one {query} and one {document}"),
            ("{query}{query}{document}", None, "one {query} and one {document}"),
            ("{document}{query}", None, "must end in {document}"),
            ("{query}{document}!", None, "must end in {document}"),
            ("{query}{document}", Some("why"), "needs 1 {instruction}"),
            ("{instruction}{query}{document}", None, "needs 0 {instruction}"),
        ] {
            let error = pieces(pair, instruction).unwrap_err();
            assert!(error.contains(problem), "{pair}: {error}");
        }
    }
}

//! Which outputs of a graph are the embeddings of a hybrid model.
//!
//! Exports call them `dense_vecs`, `sentence_embedding`, `sparse_weights`, `colbert_vectors` or something else, so they are
//! told by what their rows are of: a row for each text is dense, one number for each token is sparse, and the vectors of all
//! tokens, or of all but the first, are the multi-vector embedding. A name decides only where several have such rows.

use std::path::Path;

use candlewick_engine::{GraphOutput, OutputLayout, OutputRows};

use super::HybridOutputs;
use crate::{Error, Result};

/// The embeddings that a model takes of a graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedEmbeddings {
    pub(crate) outputs: HybridOutputs,
    /// Whether a graph that gives some embeddings, but not those that are wanted, is refused. Otherwise it must give all
    /// three, or it is taken for one of hidden states.
    pub(crate) are_needed: bool,
}

/// One of the three, in words and by the names that exports give it.
struct Embedding {
    words: &'static str,
    names: &'static [&'static str],
    is_possible: fn(&OutputRows) -> bool,
}

const DENSE: Embedding = Embedding {
    words: "the dense embedding, [batch_size, size]",
    names: &["dense", "sentence"],
    is_possible: |rows| rows.layout == OutputLayout::Sequences && rows.size > 1,
};

const SPARSE: Embedding = Embedding {
    words: "the sparse embedding, [batch_size, seq_len, 1]",
    names: &["sparse", "weight"],
    is_possible: |rows| rows.layout == OutputLayout::Tokens && rows.size == 1,
};

const MULTI_VECTOR: Embedding = Embedding {
    words: "the multi-vector embedding, [batch_size, seq_len - 1, size] or [batch_size, seq_len, size]",
    names: &["colbert", "multi"],
    is_possible: |rows| rows.layout != OutputLayout::Sequences && rows.size > 1,
};

/// The names of the outputs that are wanted: dense, sparse, multi-vector. None if the graph gives hidden states.
///
/// # Errors
///
/// When the graph gives embeddings, but not those that are needed, or it is open which they are.
pub(crate) fn embeddings(
    path: &Path,
    outputs: &[GraphOutput],
    wanted: WantedEmbeddings,
) -> Result<Vec<String>> {
    let WantedEmbeddings { outputs: HybridOutputs { dense, sparse, multi_vector }, are_needed } = wanted;
    let all = [(DENSE, dense), (SPARSE, sparse), (MULTI_VECTOR, multi_vector)];
    let is_taken = match are_needed {
        true => outputs.iter().any(is_no_hidden_state),
        false => all.iter().all(|(embedding, _)| embedding.find(outputs).is_ok()),
    };
    if !is_taken {
        return Ok(Vec::new());
    }
    let wanted = all.iter().filter(|(_, is_wanted)| *is_wanted);
    wanted
        .map(|(embedding, _)| {
            embedding.find(outputs).map_err(|problem| {
                let (path, key) = (path.to_owned(), "outputs".to_owned());
                Error::UnsupportedConfig { path, key, problem }
            })
        })
        .collect()
}

/// Whether an output is one that graphs of hidden states do not have.
fn is_no_hidden_state(output: &GraphOutput) -> bool {
    let has_head =
        |rows: &OutputRows| rows.layout == OutputLayout::TokensButFirst || (SPARSE.is_possible)(rows);
    let is_named = ["colbert", "sparse"].iter().any(|name| output.name.contains(name));
    is_named || output.rows.as_ref().is_some_and(has_head)
}

impl Embedding {
    /// The name of the output, or what is wrong.
    fn find(&self, outputs: &[GraphOutput]) -> Result<String, String> {
        let rows = outputs.iter().filter_map(|output| output.rows.as_ref());
        let possible: Vec<&OutputRows> = rows.filter(|rows| (self.is_possible)(rows)).collect();
        // Hidden states have rows of all tokens, too.
        let of_fewer = |rows: &&&OutputRows| rows.layout == OutputLayout::TokensButFirst;
        let is_named = |rows: &&&OutputRows| self.names.iter().any(|name| rows.name.contains(name));
        let fewer: Vec<&OutputRows> = possible.iter().filter(of_fewer).copied().collect();
        let named: Vec<&OutputRows> = possible.iter().filter(is_named).copied().collect();
        for found in [&possible, &fewer, &named] {
            if let [rows] = found[..] {
                return Ok(rows.name.clone());
            }
        }
        let shape = |output: &GraphOutput| format!("`{}` {}", output.name, output.shape);
        let shapes = outputs.iter().map(shape).collect::<Vec<_>>().join(", ");
        let problem = if possible.is_empty() { "none of them is" } else { "it is open which of them is" };
        Err(format!("{problem} {}: {shapes}", self.words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: OutputLayout = OutputLayout::Tokens;
    const BUT_FIRST: OutputLayout = OutputLayout::TokensButFirst;
    const TEXTS: OutputLayout = OutputLayout::Sequences;

    fn find(
        outputs: &[(&str, Option<(OutputLayout, usize)>)],
        are_needed: bool,
    ) -> Result<Vec<String>, String> {
        let output = |(name, rows): &(&str, Option<(OutputLayout, usize)>)| {
            let name = (*name).to_owned();
            let rows = rows.map(|(layout, size)| OutputRows { name: name.clone(), layout, size });
            GraphOutput { name, shape: "[...]".to_owned(), rows }
        };
        let outputs: Vec<GraphOutput> = outputs.iter().map(output).collect();
        let wanted = WantedEmbeddings { outputs: HybridOutputs::ALL, are_needed };
        embeddings(Path::new("m3.onnx"), &outputs, wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn embeddings_are_told_by_their_rows() {
        for are_needed in [true, false] {
            for layout in [TOKENS, BUT_FIRST] {
                let outputs = [("c", Some((layout, 8))), ("a", Some((TEXTS, 8))), ("b", Some((TOKENS, 1)))];
                assert_eq!(find(&outputs, are_needed).unwrap(), ["a", "b", "c"]);
            }
            let hidden = [("last_hidden_state", Some((TOKENS, 8))), ("pooler_output", Some((TEXTS, 8)))];
            assert!(find(&hidden, are_needed).unwrap().is_empty());
        }
    }

    #[test]
    fn names_decide_where_rows_do_not() {
        let some = [
            ("last_hidden_state", Some((TOKENS, 8))),
            ("pooler_output", Some((TEXTS, 8))),
            ("dense_vecs", Some((TEXTS, 8))),
            ("attention_mask_sums", Some((TOKENS, 1))),
            ("sparse_vecs", Some((TOKENS, 1))),
        ];
        let with = |name, layout| [&some[..], &[(name, Some((layout, 8)))]].concat();
        let found = find(&with("token_vecs", BUT_FIRST), true).unwrap();
        assert_eq!(found, ["dense_vecs", "sparse_vecs", "token_vecs"]);
        let found = find(&with("colbert_vecs", TOKENS), true).unwrap();
        assert_eq!(found, ["dense_vecs", "sparse_vecs", "colbert_vecs"]);
        let error = find(&with("token_vecs", TOKENS), true).unwrap_err();
        assert!(
            error.contains("m3.onnx: `outputs`: it is open which of them is the multi-vector"),
            "{error}"
        );
        assert!(find(&with("token_vecs", TOKENS), false).unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_needed() {
        let (dense, sparse) = (("dense_vecs", Some((TEXTS, 8))), ("sparse_vecs", Some((TOKENS, 1))));
        let colbert = ("colbert_vecs", Some((BUT_FIRST, 8)));
        let of_all = ("colbert_vecs", Some((TOKENS, 8)));
        let strange = ("colbert_vecs", None);
        for (outputs, expected) in [
            (vec![dense, sparse], "none of them is the multi-vector embedding"),
            (vec![dense, sparse, strange], "none of them is the multi-vector embedding"),
            (vec![sparse, colbert], "none of them is the dense embedding"),
            (vec![dense, colbert], "none of them is the sparse embedding"),
            (vec![dense, of_all], "none of them is the sparse embedding"),
        ] {
            let error = find(&outputs, true).unwrap_err();
            assert!(error.contains(expected), "{error}");
            for (name, _) in &outputs {
                assert!(error.contains(&format!("`{name}` [...]")), "{error}");
            }
            assert!(find(&outputs, false).unwrap().is_empty());
        }
    }
}

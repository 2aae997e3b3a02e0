//! Which outputs of a graph are taken.

use super::{ImportOptions, OutputRows};
use crate::graph::{Dim, Graph, Info, Infos, ValueId};
use crate::packing::{self, OutputLayout, Roles};

/// An output that is taken.
pub(super) struct Output {
    pub(super) value: ValueId,
    pub(super) rows: OutputRows,
}

/// Place and problem.
type Refusal = (String, String);

/// What rows are of, and their size.
type ReadRows = fn(&Info) -> Option<(OutputLayout, usize)>;

/// All that the options ask for together, or the one that is taken otherwise.
///
/// # Errors
///
/// Place and problem, when there is no such output.
pub(super) fn choose_outputs(
    graph: &Graph,
    roles: &Roles,
    options: &ImportOptions,
) -> Result<Vec<Output>, Refusal> {
    let infos = graph.infer(&[]).map_err(|error| ("graph".to_owned(), error.to_string()))?;
    if options.outputs.is_empty() {
        return Ok(vec![choose_output(graph, &infos, options)?]);
    }
    let named = |name: &String| {
        let value = graph.outputs.iter().find(|id| graph.value(**id).name == *name);
        let value = *value.ok_or_else(|| missing(graph, name))?;
        let rows = rows_of(graph, &infos, value).ok_or_else(|| {
            let shape = infos.get(value).and_then(|info| info.shape.as_ref());
            let shape = shape.map_or("unknown shape".to_owned(), |shape| format!("shape {shape:?}"));
            (place(name), format!("of {shape}, it has no row of numbers for each token or text"))
        })?;
        Ok(Output { value, rows })
    };
    let outputs: Vec<Output> = options.outputs.iter().map(named).collect::<Result<_, Refusal>>()?;
    for Output { value, rows } in &outputs {
        if rows.layout == OutputLayout::TokensButFirst {
            packing::but_first::check(graph, roles, *value).map_err(|reason| {
                (
                    place(&rows.name),
                    format!("its rows may not be those of all tokens but the first: {reason}"),
                )
            })?;
        }
    }
    Ok(outputs)
}

/// The rows of an output whose shape says what they are of: `[batch_size, size]`, `[batch_size, seq_len, size]`,
/// `[batch_size, seq_len]` for rows of one number, or the latter two for one token less.
pub(super) fn rows_of(graph: &Graph, infos: &Infos, value: ValueId) -> Option<OutputRows> {
    let info = infos.get(value).filter(|info| info.dtype.is_float())?;
    let [batch, rest @ ..] = info.shape.as_deref()? else {
        return None;
    };
    let of_tokens = |len: &Dim| match () {
        () if *len == packing::seq_len() => Some(OutputLayout::Tokens),
        () if *len == packing::but_first::seq_len_but_first() => Some(OutputLayout::TokensButFirst),
        () => None,
    };
    let (layout, size) = match rest {
        [len, size] => (of_tokens(len)?, size.known_size()?),
        [len] if of_tokens(len).is_some() => (of_tokens(len)?, 1),
        [size] => (OutputLayout::Sequences, size.known_size()?),
        _ => return None,
    };
    let name = graph.value(value).name.clone();
    (*batch == packing::batch_size()).then_some(OutputRows { name, layout, size })
}

/// The output of the name that the options say, or the first that has a row for each token, or else for each text. Where
/// the first token's attention is wanted, the named one, or the last of attention's probabilities.
fn choose_output(graph: &Graph, infos: &Infos, options: &ImportOptions) -> Result<Output, Refusal> {
    let (read, wanted): (ReadRows, _) = match options.first_token_attention {
        true => (probabilities, "is attention's probabilities, [batch_size, num_heads, seq_len, seq_len]"),
        false => (rows, "has a row of numbers for each token or text"),
    };
    let output = |id: &ValueId| {
        let info = infos.get(*id).filter(|info| info.dtype.is_float());
        let name = graph.value(*id).name.clone();
        let rows = info.and_then(read).map(|(layout, size)| OutputRows { name, layout, size });
        (graph.value(*id).name.as_str(), rows.map(|rows| Output { value: *id, rows }))
    };
    let outputs: Vec<(&str, Option<Output>)> = graph.outputs.iter().map(output).collect();
    if let Some(name) = options.output.as_deref() {
        return match outputs.into_iter().find(|(candidate, _)| *candidate == name) {
            Some((_, Some(output))) => Ok(output),
            Some((_, None)) => Err((place(name), format!("it is none that {wanted}"))),
            None => Err(missing(graph, name)),
        };
    }
    let mut usable: Vec<Output> = outputs.into_iter().filter_map(|(_, output)| output).collect();
    if usable.is_empty() {
        return Err(("outputs".to_owned(), format!("none of {} {wanted}", names(graph))));
    }
    let first = usable.iter().position(|output| output.rows.layout == OutputLayout::Tokens).unwrap_or(0);
    let place = if options.first_token_attention { usable.len() - 1 } else { first };
    Ok(usable.swap_remove(place))
}

fn place(name: &str) -> String {
    format!("output `{name}`")
}

fn missing(graph: &Graph, name: &str) -> Refusal {
    (place(name), format!("there is none of this name, only {}", names(graph)))
}

fn names(graph: &Graph) -> String {
    let name = |id: &ValueId| format!("`{}`", graph.value(*id).name);
    graph.outputs.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn rows(info: &Info) -> Option<(OutputLayout, usize)> {
    let shape = info.shape.as_deref()?;
    let size = shape.last().and_then(Dim::known_size)?;
    match shape.len() {
        // Some files have an output without the first token.
        3 if shape[1] == packing::but_first::seq_len_but_first() => None,
        3 => Some((OutputLayout::Tokens, size)),
        2 => Some((OutputLayout::Sequences, size)),
        _ => None,
    }
}

fn probabilities(info: &Info) -> Option<(OutputLayout, usize)> {
    match info.shape.as_deref()? {
        [_, _, queries, keys] if queries == keys => Some((OutputLayout::Tokens, 1)),
        _ => None,
    }
}

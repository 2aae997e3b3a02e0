//! Which output of a graph is taken.

use super::ImportOptions;
use crate::graph::{Dim, Graph, Info, ValueId};

/// The output that is taken.
pub(super) struct Output {
    pub(super) value: ValueId,
    /// Numbers of a row of what is wanted of it.
    pub(super) size: usize,
    pub(super) is_pooled: bool,
}

/// The output of the name that the options say, or the first that has a row for each token, or else for each text. Where
/// the first token's attention is wanted, the named one, or the last of attention's probabilities.
///
/// # Errors
///
/// Place and problem, when there is no such output.
pub(super) fn choose_output(graph: &Graph, options: &ImportOptions) -> Result<Output, (String, String)> {
    let infos = graph.infer(&[]).map_err(|error| ("graph".to_owned(), error.to_string()))?;
    let (read, wanted): (fn(ValueId, &Info) -> Option<Output>, _) = match options.first_token_attention {
        true => (probabilities, "is attention's probabilities, [batch_size, num_heads, seq_len, seq_len]"),
        false => (rows, "has a row of numbers for each token or text"),
    };
    let output = |id: &ValueId| {
        let info = infos.get(*id).filter(|info| info.dtype.is_float());
        (graph.value(*id).name.as_str(), info.and_then(|info| read(*id, info)))
    };
    let outputs: Vec<(&str, Option<Output>)> = graph.outputs.iter().map(output).collect();
    let names = outputs.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(name) = options.output.as_deref() {
        let place = format!("output `{name}`");
        return match outputs.into_iter().find(|(candidate, _)| *candidate == name) {
            Some((_, Some(output))) => Ok(output),
            Some((_, None)) => Err((place, format!("it is none that {wanted}"))),
            None => Err((place, format!("there is none of this name, only {names}"))),
        };
    }
    let mut usable: Vec<Output> = outputs.into_iter().filter_map(|(_, output)| output).collect();
    if usable.is_empty() {
        return Err(("outputs".to_owned(), format!("none of {names} {wanted}")));
    }
    let first = usable.iter().position(|output| !output.is_pooled).unwrap_or(0);
    let place = if options.first_token_attention { usable.len() - 1 } else { first };
    Ok(usable.swap_remove(place))
}

fn rows(value: ValueId, info: &Info) -> Option<Output> {
    let shape = info.shape.as_deref()?;
    let size = shape.last().and_then(Dim::known_size)?;
    match shape.len() {
        // Some files have an output without the first token.
        3 if shape[1].plus(&Dim::symbol("seq_len").negated()).known().is_some_and(|more| more != 0) => None,
        3 => Some(Output { value, size, is_pooled: false }),
        2 => Some(Output { value, size, is_pooled: true }),
        _ => None,
    }
}

fn probabilities(value: ValueId, info: &Info) -> Option<Output> {
    match info.shape.as_deref()? {
        [_, _, queries, keys] if queries == keys => Some(Output { value, size: 1, is_pooled: false }),
        _ => None,
    }
}

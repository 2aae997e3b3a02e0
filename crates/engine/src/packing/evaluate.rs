//! Runs a part of a graph on made-up inputs.

use crate::graph::{Array, DataType, Graph, Session, ValueId};

/// What `output` is where the graph's inputs are integers of shape `[batch_size, seq_len]`, all zero but for the mask,
/// and the values in `cuts` are given.
pub(super) fn evaluate(
    graph: &Graph,
    output: ValueId,
    sizes: [usize; 2],
    mask: Option<(ValueId, &[i64])>,
    cuts: &[(ValueId, Array)],
) -> Result<Array, String> {
    let ids: Vec<ValueId> = cuts.iter().map(|(id, _)| *id).collect();
    let part = graph.extract(&[output], &ids);
    let session = Session::new(part).map_err(|error| error.to_string())?;
    let mut inputs = Vec::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        let dtype = value.declared.as_ref().map_or(DataType::I64, |info| info.dtype);
        let values = match mask {
            Some((mask, values)) if mask == *id => values.to_vec(),
            _ => vec![0; sizes[0] * sizes[1]],
        };
        inputs.push((value.name.clone(), ints(dtype, sizes, values)?));
    }
    for (id, array) in cuts {
        inputs.push((graph.value(*id).name.clone(), array.clone()));
    }
    let outputs = session.run(inputs).map_err(|error| error.to_string())?;
    outputs.into_iter().next().ok_or_else(|| "there is no output".to_owned())
}

fn ints(dtype: DataType, sizes: [usize; 2], values: Vec<i64>) -> Result<Array, String> {
    let array = match dtype {
        DataType::I64 => Array::new(sizes, values),
        DataType::I32 => Array::new(sizes, values.into_iter().map(|value| value as i32).collect()),
        DataType::Bool => Array::new(sizes, values.into_iter().map(|value| value != 0).collect()),
        other => return Err(format!("an input is {other}")),
    };
    array.map_err(|problem| problem.to_string())
}

//! Runs a part of a graph on made-up inputs.

use super::{batch_size, seq_len};
use crate::graph::{Array, DataType, Dim, Graph, Infos, Session, ValueId};

/// What `output` is where the graph's inputs are integers of shape `[batch_size, seq_len]`, all zero but for the mask,
/// and the values in `cuts` are given. Shapes are not computed from values but from what is known about them, so that
/// sizes may be tried for which there are no weights.
pub(super) fn evaluate(
    graph: &Graph,
    infos: &Infos,
    output: ValueId,
    sizes: [usize; 2],
    mask: Option<(ValueId, &[i64])>,
    cuts: &[(ValueId, Array)],
) -> Result<Array, String> {
    let mut cuts = cuts.to_vec();
    for node in &graph.nodes {
        if let Some(id) = node.output()
            && id != output
            && node.operator.name() == "Shape"
            && let Some(shape) = known_ints(infos, id, sizes)
        {
            cuts.push((id, shape));
        }
    }
    let ids: Vec<ValueId> = cuts.iter().map(|(id, _)| *id).collect();
    let part = graph.extract(&[output], &ids);
    let session = Session::new(part).map_err(|error| error.to_string())?;
    let mut inputs = Vec::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        let values = match mask {
            Some((mask, values)) if mask == *id => values.to_vec(),
            _ => vec![0; sizes[0] * sizes[1]],
        };
        let array = Array::from_ints(value.declared_dtype(), sizes, values);
        inputs.push((value.name.clone(), array.map_err(|problem| problem.to_string())?));
    }
    for (id, array) in cuts {
        inputs.push((graph.value(id).name.clone(), array));
    }
    let outputs = session.run(inputs).map_err(|error| error.to_string())?;
    outputs.into_iter().next().ok_or_else(|| "there is no output".to_owned())
}

/// A vector of integers that are known but for the batch size and the padded length.
fn known_ints(infos: &Infos, id: ValueId, sizes: [usize; 2]) -> Option<Array> {
    let symbols = [batch_size(), seq_len()].map(|dim| dim.to_string());
    let size = |name: &str| {
        let index = symbols.iter().position(|symbol| symbol == name)?;
        i64::try_from(sizes[index]).ok()
    };
    let info = infos.get(id).filter(|info| info.dtype == DataType::I64)?;
    let ints =
        info.ints.as_ref()?.iter().map(|dim: &Dim| dim.evaluate(size)).collect::<Option<Vec<i64>>>()?;
    (info.rank() == Some(1)).then(|| Array::vector(ints))
}

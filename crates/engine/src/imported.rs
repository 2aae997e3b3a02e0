//! A text encoder from an ONNX file.
//!
//! The graph is fused and, where each of its nodes can be proven to treat tokens alike or to be attention, positions or
//! pooling, rewritten to run over packed sequences: then it computes what a native architecture computes, with the same
//! kernels. A graph that cannot be proven runs as it is, on sequences of equal length together, so that there is no
//! padding either; [`ImportPlan::unpacked_because`] says why.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::graph::{Array, DataType, Dim, Graph, Problem, Session, ValueId};
use crate::packing::{self, OutputLayout, Roles};
use crate::{Batch, Error, Precision, Result, TextEncoder, ThreadPool, onnx, passes};

/// An ONNX file that is known to be a text encoder, and how it will run; its weights are not read yet.
#[derive(Debug)]
pub struct ImportPlan {
    hidden_size: usize,
    is_pooled: bool,
    graph: Graph,
    /// `None` for a graph that runs packed.
    padded: Option<Padded>,
}

/// A text encoder from an ONNX file.
#[derive(Debug)]
pub struct ImportedEncoder {
    hidden_size: usize,
    is_pooled: bool,
    session: Session,
    padded: Option<Padded>,
}

/// What an encoder is loaded with.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Which output to take; by default the first with a row of numbers for each token, or else for each text.
    pub output: Option<String>,
    /// What the linear layers compute in, where the file does not hold integers.
    pub precision: Precision,
    /// How a file with 8-bit integers runs that was quantised dynamically.
    pub int8: Int8Scales,
}

/// What the scales of 8-bit inputs are of, in files that were quantised dynamically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int8Scales {
    /// Each token has its own scale: no text's result depends on another text.
    #[default]
    PerToken,
    /// As ONNX Runtime: a tensor has one scale. Texts run one by one, so that a text alone gives ONNX Runtime's numbers.
    Exact,
}

impl std::str::FromStr for Int8Scales {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "per-token" => Ok(Self::PerToken),
            "exact" => Ok(Self::Exact),
            _ => Err(Error::UnknownName {
                what: "int8 mode",
                name: name.to_owned(),
                expected: "per-token or exact",
            }),
        }
    }
}

/// How a graph runs that does not run packed.
#[derive(Clone, Debug)]
struct Padded {
    /// Why it does not.
    reason: String,
    inputs: PaddedInputs,
    /// Whether a text's result would depend on the other texts of its batch.
    one_by_one: bool,
}

/// Names and types of the inputs of a padded graph.
#[derive(Clone, Debug)]
struct PaddedInputs {
    token_ids: (String, DataType),
    attention_mask: Option<(String, DataType)>,
    type_ids: Option<(String, DataType)>,
    positions: Option<(String, DataType)>,
}

/// Tokens that run at a time where a graph runs padded.
const PADDED_TOKENS: usize = 4096;

/// Operators whose results for one text depend on the other texts of its batch.
const MIXING: &[&str] =
    &["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QAttention", "QEmbedLayerNormalization"];

impl ImportPlan {
    /// Reads a file's graph and decides how it will run.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds what is not supported, or is no text encoder: an integer input `input_ids`
    /// and others that are known, an output with a row of numbers for each token or each text.
    pub fn read(path: &Path, options: &ImportOptions) -> Result<Self> {
        let invalid =
            |place: String, problem: Problem| Error::InvalidOnnx { path: path.to_owned(), place, problem };
        let words = |(place, problem): (String, String)| invalid(place, Problem::new(problem));
        let mut graph = onnx::read(path)?.graph;
        let roles = roles(&graph).map_err(words)?;
        packing::declare(&mut graph, &roles).map_err(|problem| invalid("inputs".to_owned(), problem))?;
        let in_file = |error| in_file(path, error);
        passes::fuse(&mut graph, options.precision, options.int8).map_err(in_file)?;
        let output = choose_output(&graph, options.output.as_deref()).map_err(words)?;
        graph.outputs = vec![output.value];
        let hidden_size = output.size;
        match packing::pack(&graph, &roles, output.value, options.precision) {
            Ok((graph, layout)) => {
                let is_pooled = layout == OutputLayout::Sequences;
                Ok(Self { hidden_size, is_pooled, graph, padded: None })
            }
            Err(reason) => {
                let one_by_one = graph.nodes.iter().any(|node| MIXING.contains(&node.operator.name()));
                let padded = Padded { reason, inputs: PaddedInputs::new(&graph, &roles), one_by_one };
                Ok(Self { hidden_size, is_pooled: output.is_pooled, graph, padded: Some(padded) })
            }
        }
    }

    /// Numbers of a row of the output.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Whether the output has one row for each sequence instead of each token, because the graph pools by itself.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Why the graph does not run packed, if it does not.
    pub fn unpacked_because(&self) -> Option<&str> {
        self.padded.as_ref().map(|padded| padded.reason.as_str())
    }

    /// The longest sequence that has positions, where the graph says so.
    pub fn max_positions(&self) -> Option<usize> {
        packing::max_positions(&self.graph)
    }

    /// The graph as it will run.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Reads the weights, with the threads of a pool if there is one.
    ///
    /// # Errors
    ///
    /// When weights have shapes that do not fit each other.
    pub fn load(&self, pool: Option<&ThreadPool>) -> Result<ImportedEncoder> {
        let session = Session::with_threads(self.graph.clone(), pool)?;
        let (hidden_size, is_pooled, padded) = (self.hidden_size, self.is_pooled, self.padded.clone());
        Ok(ImportedEncoder { hidden_size, is_pooled, session, padded })
    }
}

impl ImportedEncoder {
    /// [`ImportPlan::read`], then [`ImportPlan::load`].
    ///
    /// # Errors
    ///
    /// As those.
    pub fn load(path: &Path, options: &ImportOptions) -> Result<Self> {
        ImportPlan::read(path, options)?.load(None).map_err(|error| in_file(path, error))
    }

    /// Whether [`forward`](TextEncoder::forward) gives one row for each sequence instead of each token, because the
    /// graph pools by itself.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Why the graph does not run packed, if it does not.
    pub fn unpacked_because(&self) -> Option<&str> {
        self.padded.as_ref().map(|padded| padded.reason.as_str())
    }
}

/// What went wrong while a file was loaded names the file.
fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Node { node, operator, problem } => Error::InvalidOnnx {
            path: path.to_owned(),
            place: format!("node `{node}` ({operator})"),
            problem,
        },
        other => other,
    }
}

impl TextEncoder for ImportedEncoder {
    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let rows = if self.is_pooled { batch.batch_size() } else { batch.total_tokens() };
        let values = match &self.padded {
            _ if batch.total_tokens() == 0 => vec![0.0; rows * self.hidden_size],
            None => run_packed(&self.session, batch)?,
            Some(padded) => self.run_padded(padded, batch)?,
        };
        Ok(Tensor::from_vec(values, (rows, self.hidden_size), &Device::Cpu)?)
    }
}

fn run_packed(session: &Session, batch: &Batch) -> Result<Vec<f32>> {
    let widen = |ids: &[u32]| ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
    let tokens = batch.total_tokens();
    let type_ids = batch.type_ids().map_or_else(|| vec![0; tokens], widen);
    let row = |values| Array::new([1, tokens], values).expect("there is one for each token");
    let output = session.run([
        (packing::TOKEN_IDS, row(widen(batch.token_ids()))),
        (packing::TYPE_IDS, row(type_ids)),
        (packing::POSITIONS, Array::vector(batch.position_ids().map(i64::from).collect())),
        (packing::CU_SEQLENS, Array::vector(widen(batch.cu_seqlens()))),
    ])?;
    first_floats(output)
}

fn first_floats(outputs: Vec<Array>) -> Result<Vec<f32>> {
    let output = outputs.into_iter().next().expect("a session gives all outputs, and there is one");
    output
        .into_floats()
        .map_err(|problem| Error::GraphInput { input: "output".into(), problem: problem.to_string() })
}

impl ImportedEncoder {
    /// Runs sequences of equal length together.
    fn run_padded(&self, padded: &Padded, batch: &Batch) -> Result<Vec<f32>> {
        let Padded { inputs, one_by_one, .. } = padded;
        let sequences: Vec<_> = batch.sequences().collect();
        let mut by_len: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, sequence) in sequences.iter().enumerate() {
            by_len.entry(sequence.len()).or_default().push(index);
        }
        let width = self.hidden_size;
        let rows = if self.is_pooled { sequences.len() } else { batch.total_tokens() };
        let mut values = vec![0.0; rows * width];
        for (seq_len, indices) in by_len {
            let at_once = if *one_by_one { 1 } else { (PADDED_TOKENS / seq_len.max(1)).max(1) };
            for indices in indices.chunks(at_once) {
                let some: Vec<_> = indices.iter().map(|index| sequences[*index].clone()).collect();
                let output = first_floats(self.session.run(inputs.arrays(batch, &some, seq_len)?)?)?;
                let rows_each = if self.is_pooled { 1 } else { seq_len };
                if output.len() != indices.len() * rows_each * width {
                    let problem =
                        format!("has {} values for {} rows", output.len(), indices.len() * rows_each);
                    return Err(Error::GraphInput { input: "output".into(), problem });
                }
                for (place, index) in indices.iter().enumerate() {
                    let from = place * rows_each * width..(place + 1) * rows_each * width;
                    let first = if self.is_pooled { *index } else { sequences[*index].start };
                    values[first * width..][..from.len()].copy_from_slice(&output[from]);
                }
            }
        }
        Ok(values)
    }
}

impl PaddedInputs {
    fn new(graph: &Graph, roles: &Roles) -> Self {
        let input = |id: ValueId| {
            let value = graph.value(id);
            (value.name.clone(), value.declared_dtype())
        };
        Self {
            token_ids: input(roles.token_ids),
            attention_mask: roles.attention_mask.map(input),
            type_ids: roles.type_ids.map(input),
            positions: roles.positions.map(input),
        }
    }

    /// The inputs for sequences of one length.
    fn arrays(
        &self,
        batch: &Batch,
        sequences: &[std::ops::Range<usize>],
        seq_len: usize,
    ) -> Result<Vec<(String, Array)>> {
        let gather = |ids: &[u32]| {
            sequences
                .iter()
                .flat_map(|rows| ids[rows.clone()].iter().map(|id| i64::from(*id)))
                .collect::<Vec<_>>()
        };
        let count = sequences.len() * seq_len;
        let types = batch.type_ids().map_or_else(|| vec![0; count], gather);
        let positions = (0..count).map(|index| (index % seq_len.max(1)) as i64).collect();
        let given = [
            (Some(&self.token_ids), gather(batch.token_ids())),
            (self.attention_mask.as_ref(), vec![1; count]),
            (self.type_ids.as_ref(), types),
            (self.positions.as_ref(), positions),
        ];
        let mut arrays = Vec::new();
        for (input, values) in given {
            let Some((name, dtype)) = input else {
                continue;
            };
            let shape = [sequences.len(), seq_len];
            let array = Array::from_ints(*dtype, shape, values)
                .map_err(|problem| Error::GraphInput { input: name.clone(), problem: problem.to_string() })?;
            arrays.push((name.clone(), array));
        }
        Ok(arrays)
    }
}

/// What the inputs are, told by the names that all exporters give them.
fn roles(graph: &Graph) -> Result<Roles, (String, String)> {
    let mut token_ids = None;
    let (mut attention_mask, mut type_ids, mut positions) = (None, None, None);
    for id in &graph.inputs {
        let name = graph.value(*id).name.as_str();
        let role = match name {
            "input_ids" => &mut token_ids,
            "attention_mask" => &mut attention_mask,
            "token_type_ids" => &mut type_ids,
            "position_ids" => &mut positions,
            _ => {
                let problem = "this input is not known: `input_ids`, `attention_mask`, `token_type_ids` and \
                               `position_ids` are";
                return Err((format!("input `{name}`"), problem.to_owned()));
            }
        };
        *role = Some(*id);
    }
    let Some(token_ids) = token_ids else {
        return Err(("inputs".to_owned(), "there is no input `input_ids`".to_owned()));
    };
    Ok(Roles { token_ids, attention_mask, type_ids, positions })
}

struct Output {
    value: ValueId,
    /// Numbers of a row.
    size: usize,
    is_pooled: bool,
}

/// The output of this name, or the first that has a row for each token, or else for each text.
fn choose_output(graph: &Graph, name: Option<&str>) -> Result<Output, (String, String)> {
    let infos = graph.infer(&[]).map_err(|error| ("graph".to_owned(), error.to_string()))?;
    let outputs: Vec<(&str, Option<Output>)> = graph
        .outputs
        .iter()
        .map(|id| {
            let info = infos.get(*id).filter(|info| info.dtype.is_float());
            let shape = info.and_then(|info| info.shape.as_deref()).unwrap_or_default();
            let size = shape.last().and_then(Dim::known_size);
            let output = match (shape.len(), size) {
                (3, Some(size)) => Some(Output { value: *id, size, is_pooled: false }),
                (2, Some(size)) => Some(Output { value: *id, size, is_pooled: true }),
                _ => None,
            };
            (graph.value(*id).name.as_str(), output)
        })
        .collect();
    let names = outputs.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        return match outputs.into_iter().find(|(candidate, _)| *candidate == name) {
            Some((_, Some(output))) => Ok(output),
            Some((_, None)) => Err((
                format!("output `{name}`"),
                "it has no row of numbers for each token or text".to_owned(),
            )),
            None => Err((format!("output `{name}`"), format!("there is none of this name, only {names}"))),
        };
    }
    let mut usable: Vec<Output> = outputs.into_iter().filter_map(|(_, output)| output).collect();
    let first = usable.iter().position(|output| !output.is_pooled).unwrap_or(0);
    if usable.is_empty() {
        let problem = format!("none of {names} has a row of numbers for each token or text");
        return Err(("outputs".to_owned(), problem));
    }
    Ok(usable.swap_remove(first))
}

//! A text encoder from an ONNX file.
//!
//! The graph is fused and, where each of its nodes can be proven to treat tokens alike or to be attention, positions or
//! pooling, rewritten to run over packed sequences: then it computes what a native architecture computes, with the same
//! kernels. A graph that cannot be proven runs as it is, on sequences of equal length together, so that there is no
//! padding either; [`ImportPlan::unpacked_because`] says why.

mod output;
mod past;
mod scalars;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use self::output::{Output, choose_output};
use self::scalars::{ScalarInput, ScalarPlan, Scalars};
use crate::graph::{Array, DataType, Graph, Node, Problem, Session, ValueId};
use crate::onnx::OnnxModel;
use crate::ops::fused::FirstTokenAttention;
use crate::ops::normalisation::BatchNormalization;
use crate::packing::{self, OutputLayout, Roles};
use crate::{Batch, Error, Precision, Result, TextEncoder, ThreadPool, onnx, passes};

/// An ONNX file that is known to be a text encoder, and how it will run; its weights are not read yet.
#[derive(Debug)]
pub struct ImportPlan {
    hidden_size: usize,
    is_pooled: bool,
    is_vocabulary_max: bool,
    has_mask: bool,
    graph: Graph,
    scalars: ScalarPlan,
    /// `None` for a graph that runs packed.
    padded: Option<Padded>,
}

/// A text encoder from an ONNX file. Clones share the weights.
#[derive(Clone, Debug)]
pub struct ImportedEncoder {
    hidden_size: usize,
    is_pooled: bool,
    session: Arc<Session>,
    scalars: Arc<Scalars>,
    /// What the session gets besides texts.
    given: Arc<Vec<(String, Array)>>,
    /// Whether the file's graph reads which tokens are attended to.
    has_mask: bool,
    /// Whether the packed graph has an input for lengths that are attended to.
    partly_attended: bool,
    padded: Option<Padded>,
}

/// What an encoder is loaded with.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Which output to take; by default the first with a row of numbers for each token, or else for each text.
    pub output: Option<String>,
    /// Values of inputs that are a single number, by name; a graph that has such inputs needs all of them. What is no
    /// value of an input's type is refused.
    pub inputs: BTreeMap<String, f64>,
    /// What the linear layers compute in, where the file does not hold integers.
    pub precision: Precision,
    /// How a file with 8-bit integers runs that was quantised dynamically.
    pub int8: Int8Scales,
    /// Of an output with a row of numbers for each token, only the largest of each sequence are wanted, and none below
    /// zero: SPLADE. See [`ImportPlan::is_vocabulary_max`].
    pub vocabulary_max: bool,
    /// The output is attention's probabilities, `[batch_size, num_heads, seq_len, seq_len]`, by default the last such one.
    /// Wanted is, for each token, the mean over heads of what the first token pays it: rows of one number.
    pub first_token_attention: bool,
    /// Whether [some tokens of a sequence are not attended to](Batch::with_attended).
    pub partly_attended: bool,
    /// Of a causal language model, whose output has a logit of each vocabulary entry for each token, only the logits of
    /// these entries are wanted, in this order, and only those of each sequence's last token: of what comes next. All,
    /// where there are none. What else the last linear layer would give is not computed; in a graph that does not run
    /// packed there are the logits of all tokens, see [`ImportPlan::is_pooled`].
    pub next_tokens: Vec<u32>,
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

/// Operators of which [`mixes`] is always true.
const MIXING: &[&str] =
    &["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QAttention", "QEmbedLayerNormalization"];

/// Whether a node's results for one text depend on the other texts of its batch.
fn mixes(node: &Node) -> bool {
    let takes_statistics =
        node.operator::<BatchNormalization>().is_some_and(|operator| operator.momentum.is_some());
    takes_statistics || MIXING.contains(&node.operator.name())
}

impl ImportPlan {
    /// [`onnx::read`], then [`ImportPlan::new`].
    ///
    /// # Errors
    ///
    /// As those.
    pub fn read(path: &Path, options: &ImportOptions) -> Result<Self> {
        Self::new(onnx::read(path)?, options)
    }

    /// Decides how a file's graph will run.
    ///
    /// # Errors
    ///
    /// When it is no text encoder: an integer input `input_ids` and others that are known or a single number, an output
    /// with a row of numbers for each token or each text. When the value of such a number is missing, or is given to an
    /// input that there is not.
    pub fn new(model: OnnxModel, options: &ImportOptions) -> Result<Self> {
        let OnnxModel { path, mut graph, .. } = model;
        let invalid =
            |place: String, problem: Problem| Error::InvalidOnnx { path: path.clone(), place, problem };
        let words = |(place, problem): (String, String)| invalid(place, Problem::new(problem));
        let past = past::inputs(&graph);
        let (mut roles, scalars) = roles(&graph, &past).map_err(words)?;
        packing::declare(&mut graph, &roles).map_err(|problem| invalid("inputs".to_owned(), problem))?;
        let in_file = |error| in_file(&path, error);
        past::leave_out(&mut graph, &past, &mut roles).map_err(words)?;
        if !options.next_tokens.is_empty() {
            let Output { value, size, .. } = choose_output(&graph, options).map_err(words)?;
            let kept = passes::keep_columns(&mut graph, value, size, &options.next_tokens).map_err(words)?;
            graph.outputs = vec![kept];
            crate::graph::passes::remove_dead_nodes(&mut graph);
        }
        passes::fuse(&mut graph, options.precision, options.int8).map_err(in_file)?;
        let output = choose_output(&graph, options).map_err(words)?;
        let mut value = output.value;
        if options.first_token_attention {
            value = graph.add_node("attention of the first token", FirstTokenAttention, &[value]);
        }
        graph.outputs = vec![value];
        crate::graph::passes::remove_dead_nodes(&mut graph);
        let scalars = ScalarPlan::split(&mut graph, scalars, options.inputs.clone()).map_err(in_file)?;
        scalars.check().map_err(|(name, problem)| words((format!("input `{name}`"), problem)))?;
        let (hidden_size, has_mask) = (output.size, roles.attention_mask.is_some());
        match packing::pack(&graph, &roles, value, options.precision, options.partly_attended) {
            Ok((mut graph, layout)) => {
                let is_vocabulary_max = options.vocabulary_max
                    && layout == OutputLayout::Tokens
                    && passes::take_vocabulary_max(&mut graph, packing::CU_SEQLENS);
                let is_next_token = !options.next_tokens.is_empty()
                    && layout == OutputLayout::Tokens
                    && passes::take_last_tokens(&mut graph, packing::CU_SEQLENS);
                let is_pooled = layout == OutputLayout::Sequences || is_vocabulary_max || is_next_token;
                Ok(Self { hidden_size, is_pooled, is_vocabulary_max, has_mask, graph, scalars, padded: None })
            }
            Err(reason) => {
                let one_by_one = graph.nodes.iter().any(mixes);
                let padded = Padded { reason, inputs: PaddedInputs::new(&graph, &roles), one_by_one };
                let is_pooled = output.is_pooled;
                let (is_vocabulary_max, padded) = (false, Some(padded));
                Ok(Self { hidden_size, is_pooled, is_vocabulary_max, has_mask, graph, scalars, padded })
            }
        }
    }

    /// Whether the encoder could have [these values](ImportedEncoder::with_inputs), as far as is known before the weights
    /// are read.
    ///
    /// # Errors
    ///
    /// When there is no such input, or a value is not of its type.
    pub fn check_inputs(&self, inputs: &BTreeMap<String, f64>) -> Result<()> {
        self.scalars.with(inputs).map(drop)
    }

    /// Numbers of a row of the output.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Whether the output has one row for each sequence instead of each token, because the graph pools by itself.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Whether the output has each sequence's largest numbers, because [they were asked for](ImportOptions::vocabulary_max)
    /// and the graph ends in a linear layer: then what the layer gives is never in memory all at once.
    pub fn is_vocabulary_max(&self) -> bool {
        self.is_vocabulary_max
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
    /// When weights have shapes that do not fit each other, or an input's value is beyond the table that it selects from.
    pub fn load(&self, pool: Option<&ThreadPool>) -> Result<ImportedEncoder> {
        let session = Arc::new(Session::with_threads(self.graph.clone(), pool)?);
        let scalars = Arc::new(self.scalars.load(pool)?);
        let given = scalars.results(&BTreeMap::new())?;
        let (hidden_size, is_pooled, padded) = (self.hidden_size, self.is_pooled, self.padded.clone());
        let has_input = |name: &str| self.graph.inputs.iter().any(|id| self.graph.value(*id).name == name);
        let partly_attended = padded.is_none() && has_input(packing::ATTENDED);
        let has_mask = self.has_mask;
        Ok(ImportedEncoder {
            hidden_size,
            is_pooled,
            session,
            scalars,
            given,
            has_mask,
            partly_attended,
            padded,
        })
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

    /// The same encoder with other values of inputs that are a single number; those that `inputs` leaves out are as
    /// [`ImportOptions::inputs`] said. The weights are shared, what depends on such inputs alone is computed here.
    ///
    /// # Errors
    ///
    /// When there is no such input, or a value is not of its type, or beyond the table that it selects from.
    pub fn with_inputs(&self, inputs: &BTreeMap<String, f64>) -> Result<Self> {
        Ok(Self { given: self.scalars.results(inputs)?, ..self.clone() })
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
        if batch.attended().is_some() && self.padded.is_none() && self.has_mask && !self.partly_attended {
            let problem = "the encoder was not loaded for sequences of which not all is attended to".into();
            return Err(Error::InvalidBatch { problem });
        }
        let values = match &self.padded {
            _ if batch.total_tokens() == 0 => vec![0.0; rows * self.hidden_size],
            None => self.run_packed(batch)?,
            Some(padded) => self.run_padded(padded, batch)?,
        };
        Ok(Tensor::from_vec(values, (rows, self.hidden_size), &Device::Cpu)?)
    }
}

fn first_floats(outputs: Vec<Array>) -> Result<Vec<f32>> {
    let output = outputs.into_iter().next().expect("a session gives all outputs, and there is one");
    output
        .into_floats()
        .map_err(|problem| Error::GraphInput { input: "output".into(), problem: problem.to_string() })
}

impl ImportedEncoder {
    fn run_packed(&self, batch: &Batch) -> Result<Vec<f32>> {
        let widen = |ids: &[u32]| ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
        let tokens = batch.total_tokens();
        let type_ids = batch.type_ids().map_or_else(|| vec![0; tokens], widen);
        let row = |values| Array::new([1, tokens], values).expect("there is one for each token");
        let texts = [
            (packing::TOKEN_IDS, row(widen(batch.token_ids()))),
            (packing::TYPE_IDS, row(type_ids)),
            (packing::POSITIONS, Array::vector(batch.position_ids().map(i64::from).collect())),
            (packing::CU_SEQLENS, Array::vector(widen(batch.cu_seqlens()))),
        ];
        let texts = texts.map(|(name, array)| (name.to_owned(), array));
        let attended = self.partly_attended.then(|| {
            let all = || batch.sequences().map(|rows| rows.len() as i64).collect();
            let lengths = Array::vector(batch.attended().map_or_else(all, widen));
            (packing::ATTENDED.to_owned(), lengths)
        });
        let given = self.given.iter().cloned();
        first_floats(self.session.run(texts.into_iter().chain(attended).chain(given))?)
    }

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
                let attended = indices.iter().map(|index| batch.attended().map(|all| all[*index] as usize));
                let attended: Vec<usize> = attended.map(|length| length.unwrap_or(seq_len)).collect();
                let texts = inputs.arrays(batch, &some, &attended, seq_len)?;
                let given = texts.into_iter().chain(self.given.iter().cloned());
                let output = first_floats(self.session.run(given)?)?;
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

    /// The inputs for sequences of one length, of which the first tokens, `attended` of each, are attended to.
    fn arrays(
        &self,
        batch: &Batch,
        sequences: &[std::ops::Range<usize>],
        attended: &[usize],
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
        let ones = |length: usize| (0..seq_len).map(move |place| i64::from(place < length));
        let mask = attended.iter().copied().flat_map(ones).collect();
        let given = [
            (Some(&self.token_ids), gather(batch.token_ids())),
            (self.attention_mask.as_ref(), mask),
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

/// What the inputs are, those of the `past` aside: told by the names that all exporters give them, or single numbers.
fn roles(graph: &Graph, past: &[ValueId]) -> Result<(Roles, Vec<ScalarInput>), (String, String)> {
    let mut token_ids = None;
    let (mut attention_mask, mut type_ids, mut positions) = (None, None, None);
    let mut scalars = Vec::new();
    for id in graph.inputs.iter().filter(|id| !past.contains(id)) {
        let role = match graph.value(*id).name.as_str() {
            "input_ids" => &mut token_ids,
            "attention_mask" => &mut attention_mask,
            "token_type_ids" => &mut type_ids,
            "position_ids" => &mut positions,
            name => {
                let input = |problem| (format!("input `{name}`"), problem);
                scalars.push(ScalarInput::new(graph, *id).map_err(input)?);
                continue;
            }
        };
        *role = Some(*id);
    }
    let Some(token_ids) = token_ids else {
        return Err(("inputs".to_owned(), "there is no input `input_ids`".to_owned()));
    };
    Ok((Roles { token_ids, attention_mask, type_ids, positions }, scalars))
}

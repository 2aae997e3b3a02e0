//! A text encoder from an ONNX file.
//!
//! The graph is fused and, where each of its nodes can be proven to treat tokens alike or to be attention, positions or
//! pooling, rewritten to run over packed sequences: then it computes what a native architecture computes, with the same
//! kernels. A graph that cannot be proven runs as it is, on sequences of equal length together, so that there is no
//! padding either; [`ImportPlan::unpacked_because`] says why.

mod output;
mod padded;
mod past;
mod scalars;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use self::output::choose_outputs;
use self::padded::Padded;
use self::scalars::{ScalarInput, ScalarPlan, Scalars};
use crate::graph::{Array, Graph, Problem, Session, ValueId};
use crate::onnx::OnnxModel;
use crate::ops::fused::FirstTokenAttention;
use crate::packing::{self, OutputLayout, Roles};
use crate::{Batch, Error, Precision, Result, TextEncoder, ThreadPool, onnx, passes};

/// An ONNX file that is known to be a text encoder, and how it will run; its weights are not read yet.
#[derive(Debug)]
pub struct ImportPlan {
    /// Never none.
    outputs: Vec<OutputRows>,
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
    /// Never none.
    outputs: Arc<[OutputRows]>,
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

/// An output of a graph: rows of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRows {
    /// Its name in the file.
    pub name: String,
    /// What the rows are of.
    pub layout: OutputLayout,
    /// Numbers of a row.
    pub size: usize,
}

/// An output of a graph, as far as is known before it is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphOutput {
    /// Its name in the file.
    pub name: String,
    /// What is known of its shape: `[batch_size, seq_len, 24]`.
    pub shape: String,
    /// Its rows, where its shape says what they are of.
    pub rows: Option<OutputRows>,
}

/// What an encoder is loaded with.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Which output to take; by default the first with a row of numbers for each token, or else for each text.
    pub output: Option<String>,
    /// Outputs that are computed together, in one run, and given in this order by
    /// [`forward_outputs`](TextEncoder::forward_outputs). If there are some, what else is said here about an output is not
    /// read.
    pub outputs: Vec<String>,
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
            let logits = choose_outputs(&graph, &roles, options).map_err(words)?.swap_remove(0);
            let (value, vocab_size) = (logits.value, logits.rows.size);
            let kept =
                passes::keep_columns(&mut graph, value, vocab_size, &options.next_tokens).map_err(words)?;
            graph.outputs = vec![kept];
            crate::graph::passes::remove_dead_nodes(&mut graph);
        }
        passes::fuse(&mut graph, options.precision, options.int8).map_err(in_file)?;
        let chosen = choose_outputs(&graph, &roles, options).map_err(words)?;
        let is_single = options.outputs.is_empty();
        let (mut values, mut outputs) = (Vec::new(), Vec::new());
        for output in chosen {
            values.push(output.value);
            outputs.push(output.rows);
        }
        if is_single && options.first_token_attention {
            values = vec![graph.add_node("attention of the first token", FirstTokenAttention, &values)];
        }
        graph.outputs.clone_from(&values);
        crate::graph::passes::remove_dead_nodes(&mut graph);
        let scalars = ScalarPlan::split(&mut graph, scalars, options.inputs.clone()).map_err(in_file)?;
        scalars.check().map_err(|(name, problem)| words((format!("input `{name}`"), problem)))?;
        let has_mask = roles.attention_mask.is_some();
        match packing::pack(&graph, &roles, &values, options.precision, options.partly_attended) {
            Ok((mut graph, layouts)) => {
                let is_vocabulary_max = is_single
                    && options.vocabulary_max
                    && layouts == [OutputLayout::Tokens]
                    && passes::take_vocabulary_max(&mut graph, packing::CU_SEQLENS);
                let is_next_token = !options.next_tokens.is_empty()
                    && layouts == [OutputLayout::Tokens]
                    && passes::take_last_tokens(&mut graph, packing::CU_SEQLENS);
                let is_taken_over = is_vocabulary_max || is_next_token;
                for (rows, layout) in outputs.iter_mut().zip(layouts) {
                    rows.layout = if is_taken_over { OutputLayout::Sequences } else { layout };
                }
                Ok(Self { outputs, is_vocabulary_max, has_mask, graph, scalars, padded: None })
            }
            Err(reason) => {
                let padded = Some(Padded::new(&graph, &roles, reason));
                Ok(Self { outputs, is_vocabulary_max: false, has_mask, graph, scalars, padded })
            }
        }
    }

    /// All outputs of a file, to choose [some](ImportOptions::outputs).
    ///
    /// # Errors
    ///
    /// When the file is no text encoder for its inputs.
    pub fn outputs_of(model: &OnnxModel) -> Result<Vec<GraphOutput>> {
        let invalid = |place: String, problem: Problem| {
            let path = model.path.clone();
            Error::InvalidOnnx { path, place, problem }
        };
        let mut graph = model.graph.clone();
        let (roles, _) = roles(&graph, &past::inputs(&graph))
            .map_err(|(place, problem)| invalid(place, Problem::new(problem)))?;
        packing::declare(&mut graph, &roles).map_err(|problem| invalid("inputs".to_owned(), problem))?;
        let infos = graph.infer(&[]).map_err(|error| in_file(&model.path, error))?;
        let output = |id: &ValueId| {
            let shape = infos.get(*id).and_then(|info| info.shape.as_ref());
            GraphOutput {
                name: graph.value(*id).name.clone(),
                shape: shape.map_or("[...]".to_owned(), |shape| format!("{shape:?}")),
                rows: output::rows_of(&graph, &infos, *id),
            }
        };
        Ok(graph.outputs.iter().map(output).collect())
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

    /// What is taken of the graph: one output, or [those that were asked for](ImportOptions::outputs).
    pub fn outputs(&self) -> &[OutputRows] {
        &self.outputs
    }

    /// Numbers of a row of the first output.
    pub fn hidden_size(&self) -> usize {
        self.outputs[0].size
    }

    /// Whether the first output has one row for each sequence instead of each token, because the graph pools by itself.
    pub fn is_pooled(&self) -> bool {
        self.outputs[0].layout == OutputLayout::Sequences
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
        let (outputs, padded) = (self.outputs.clone().into(), self.padded.clone());
        let has_input = |name: &str| self.graph.inputs.iter().any(|id| self.graph.value(*id).name == name);
        let partly_attended = padded.is_none() && has_input(packing::ATTENDED);
        let has_mask = self.has_mask;
        Ok(ImportedEncoder { outputs, session, scalars, given, has_mask, partly_attended, padded })
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

    /// What [`forward_outputs`](TextEncoder::forward_outputs) gives.
    pub fn outputs(&self) -> &[OutputRows] {
        &self.outputs
    }

    /// Whether [`forward`](TextEncoder::forward) gives one row for each sequence instead of each token, because the
    /// graph pools by itself.
    pub fn is_pooled(&self) -> bool {
        self.outputs[0].layout == OutputLayout::Sequences
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
        self.outputs[0].size
    }

    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        Ok(self.forward_outputs(batch)?.swap_remove(0))
    }

    fn forward_outputs(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        if batch.attended().is_some() && self.padded.is_none() && self.has_mask && !self.partly_attended {
            let problem = "the encoder was not loaded for sequences of which not all is attended to".into();
            return Err(Error::InvalidBatch { problem });
        }
        let values = match &self.padded {
            _ if batch.total_tokens() == 0 => {
                self.outputs.iter().map(|rows| vec![0.0; rows.len(batch)]).collect()
            }
            None => self.run_packed(batch)?,
            Some(padded) => padded.run(self, batch)?,
        };
        let tensor = |(values, rows): (Vec<f32>, &OutputRows)| {
            Ok(Tensor::from_vec(values, (rows.count(batch), rows.size), &Device::Cpu)?)
        };
        values.into_iter().zip(&*self.outputs).map(tensor).collect()
    }
}

impl OutputRows {
    /// How many rows there are of a batch.
    fn count(&self, batch: &Batch) -> usize {
        match self.layout {
            OutputLayout::Tokens | OutputLayout::TokensButFirst => batch.total_tokens(),
            OutputLayout::Sequences => batch.batch_size(),
        }
    }

    fn len(&self, batch: &Batch) -> usize {
        self.count(batch) * self.size
    }
}

fn into_floats(output: Array, name: &str) -> Result<Vec<f32>> {
    output
        .into_floats()
        .map_err(|problem| Error::GraphInput { input: name.to_owned(), problem: problem.to_string() })
}

impl ImportedEncoder {
    /// The values of each output.
    fn run_packed(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
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
        let found = self.session.run(texts.into_iter().chain(attended).chain(given))?;
        let floats = |(found, rows): (Array, &OutputRows)| {
            let mut values = into_floats(found, &rows.name)?;
            if values.len() != rows.len(batch) {
                let problem = format!("has {} values for {} rows", values.len(), rows.count(batch));
                return Err(Error::GraphInput { input: rows.name.clone(), problem });
            }
            if rows.layout == OutputLayout::TokensButFirst {
                for sequence in batch.sequences().filter(|sequence| !sequence.is_empty()) {
                    values[sequence.start * rows.size..][..rows.size].fill(0.0);
                }
            }
            Ok(values)
        };
        found.into_iter().zip(&*self.outputs).map(floats).collect()
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

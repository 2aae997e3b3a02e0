//! Inputs of a graph that are single numbers, the same for all texts: which adapter to take, for one.
//!
//! What a graph computes from them alone is cut off as a *prologue*, which runs once for each choice of their values;
//! the rest of the graph gets its results as inputs that no text changes, and so can run packed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::graph::{Array, DataType, Graph, Info, Problem, Session, ValueId};
use crate::ops::elementwise::cast;
use crate::{Error, Result, ThreadPool};

/// An input that is one number.
#[derive(Clone, Debug)]
pub(super) struct ScalarInput {
    pub(super) id: ValueId,
    name: String,
    dtype: DataType,
    /// Ones, if any.
    shape: Vec<usize>,
}

/// The inputs that are one number, and what is computed from them alone.
#[derive(Clone, Debug, Default)]
pub(super) struct ScalarPlan {
    inputs: Vec<ScalarInput>,
    values: BTreeMap<String, f64>,
    prologue: Graph,
    /// As the rest of the graph calls the prologue's outputs.
    names: Vec<String>,
}

/// [`ScalarPlan`], ready to run.
#[derive(Debug)]
pub(super) struct Scalars {
    plan: ScalarPlan,
    prologue: Session,
}

/// What is wrong with which input.
pub(super) type InputProblem = (String, String);

impl ScalarInput {
    /// An input that a file declares to be one number.
    pub(super) fn new(graph: &Graph, id: ValueId) -> Result<Self, String> {
        let value = graph.value(id);
        let info = value.declared.as_ref();
        let shape = info.and_then(|info| info.shape.as_deref());
        let number = info
            .zip(shape)
            .filter(|(info, shape)| info.dtype != DataType::String && shape.iter().all(|dim| dim.is(1)));
        let Some((info, shape)) = number else {
            let shown = shape.map_or_else(|| "of any shape".to_owned(), |shape| format!("{shape:?}"));
            let dtype = info.map_or_else(String::new, |info| info.dtype.to_string());
            let problem = format!(
                "it is {dtype} {shown}, and not known: besides `input_ids`, `attention_mask`, `token_type_ids` and \
                 `position_ids`, only single numbers can be given"
            );
            return Err(problem);
        };
        Ok(Self { id, name: value.name.clone(), dtype: info.dtype, shape: vec![1; shape.len()] })
    }

    /// `value` as the graph wants it.
    fn array(&self, value: f64) -> Result<Array, InputProblem> {
        let problem = |problem: Problem| (self.name.clone(), problem.to_string());
        let array = Array::new(self.shape.clone(), vec![value]).map_err(problem)?;
        let array = cast(array, self.dtype).map_err(problem)?;
        let back = cast(array.clone(), DataType::F64).map_err(problem)?;
        // Only floating-point types round.
        let is_float = self.dtype.is_float();
        let fits = |back: &[f64]| back == [value] || (is_float && back.iter().all(|back| back.is_finite()));
        if !value.is_finite() || !back.values().is_ok_and(fits) {
            return Err((self.name.clone(), format!("{value} is no value of {}", self.dtype)));
        }
        Ok(array)
    }
}

impl ScalarPlan {
    /// Cuts off `graph` what depends on `inputs` alone.
    ///
    /// # Errors
    ///
    /// When a node does not take its inputs.
    pub(super) fn split(
        graph: &mut Graph,
        inputs: Vec<ScalarInput>,
        values: BTreeMap<String, f64>,
    ) -> Result<Self> {
        let (prologue, names) =
            if inputs.is_empty() { (Graph::default(), Vec::new()) } else { cut(graph, &inputs)? };
        Ok(Self { inputs, values, prologue, names })
    }

    /// Whether each input has a value that fits.
    ///
    /// # Errors
    ///
    /// When one has none, or there is no such input.
    pub(super) fn check(&self) -> Result<(), InputProblem> {
        self.arrays(&self.values).map(drop)
    }

    /// Lays out the constants.
    ///
    /// # Errors
    ///
    /// When a node does not take its inputs.
    pub(super) fn load(&self, pool: Option<&ThreadPool>) -> Result<Scalars> {
        let prologue = Session::with_threads(self.prologue.clone(), pool)?;
        Ok(Scalars { plan: self.clone(), prologue })
    }

    /// The inputs where they have the plan's values, or `values` instead.
    pub(super) fn with(&self, values: &BTreeMap<String, f64>) -> Result<Vec<(String, Array)>> {
        let mut all = self.values.clone();
        all.extend(values.iter().map(|(name, value)| (name.clone(), *value)));
        self.arrays(&all).map_err(|(input, problem)| Error::GraphInput { input, problem })
    }

    /// The inputs, by name.
    fn arrays(&self, values: &BTreeMap<String, f64>) -> Result<Vec<(String, Array)>, InputProblem> {
        if let Some(name) = values.keys().find(|name| self.inputs.iter().all(|input| input.name != **name)) {
            let names: Vec<String> = self.inputs.iter().map(|input| format!("`{}`", input.name)).collect();
            let there_are =
                if names.is_empty() { "none".to_owned() } else { format!("only {}", names.join(", ")) };
            let problem = format!("of inputs that are a single number, the graph has {there_are}");
            return Err((name.clone(), problem));
        }
        let array = |input: &ScalarInput| {
            let name = input.name.clone();
            match values.get(&name) {
                Some(value) => Ok((name, input.array(*value)?)),
                None => {
                    let problem = format!("it has no value: give one by `--graph-input {name}=VALUE`");
                    Err((name, problem))
                }
            }
        };
        self.inputs.iter().map(array).collect()
    }
}

impl Scalars {
    /// What the rest of the graph gets besides texts where inputs have the plan's values, or `values` instead.
    ///
    /// # Errors
    ///
    /// When a value is given to an input that there is not, or does not fit; when a node does not take its inputs, an
    /// index beyond a table above all.
    pub(super) fn results(&self, values: &BTreeMap<String, f64>) -> Result<Arc<Vec<(String, Array)>>> {
        let results = self.prologue.run(self.plan.with(values)?)?;
        Ok(Arc::new(self.plan.names.iter().cloned().zip(results).collect()))
    }
}

/// The part of a graph that depends on `inputs` and constants alone, and what the rest calls its outputs.
fn cut(graph: &mut Graph, inputs: &[ScalarInput]) -> Result<(Graph, Vec<String>)> {
    let infos = graph.infer(&[])?;
    let mut is_early = vec![false; graph.num_values()];
    inputs.iter().for_each(|input| is_early[input.id.index()] = true);
    let mut late_nodes = Vec::new();
    for node in &graph.nodes {
        let mut read = node.inputs.iter().flatten();
        let is_known = |id: &ValueId| is_early[id.index()] || graph.constant(*id).is_some();
        let reads_early = node.inputs.iter().flatten().any(|id| is_early[id.index()]);
        if reads_early && read.all(is_known) && node.operator.is_deterministic() {
            node.outputs.iter().flatten().for_each(|id| is_early[id.index()] = true);
        } else {
            late_nodes.push(node.clone());
        }
    }
    let mut boundary: Vec<ValueId> = Vec::new();
    let mut is_found = vec![false; graph.num_values()];
    let read = late_nodes.iter().flat_map(|node| node.inputs.iter().flatten()).chain(&graph.outputs);
    for id in read {
        if is_early[id.index()] && !std::mem::replace(&mut is_found[id.index()], true) {
            boundary.push(*id);
        }
    }
    let mut prologue = graph.extract(&boundary, &[]);
    let given = prologue.inputs.iter().zip(&graph.inputs);
    prologue.inputs = given.filter(|(_, id)| is_early[id.index()]).map(|(input, _)| *input).collect();

    graph.nodes = late_nodes;
    graph.inputs.retain(|id| !is_early[id.index()]);
    graph.inputs.extend(&boundary);
    let mut names = Vec::new();
    for (index, id) in boundary.into_iter().enumerate() {
        let value = graph.value_mut(id);
        // Files may name values alike that are no inputs.
        value.name = format!("{}#{index}", value.name);
        value.declared = infos.get(id).map(|info| Info { ints: None, constant: None, ..info.clone() });
        names.push(value.name.clone());
    }
    crate::graph::passes::remove_dead_nodes(graph);
    Ok((prologue, names))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::graph::Dim;
    use crate::onnx::OnnxModel;
    use crate::ops::elementwise::{Arithmetic, Operation};
    use crate::ops::indexing::Gather;
    use crate::{Batch, ImportOptions, ImportPlan, ImportedEncoder, TextEncoder};

    const TOKENS: [f32; 6] = [1., 2., 3., 4., 5., 6.];
    const FACTORS: [f32; 4] = [10., 100., -1., 0.5];

    /// Rows of a table of tokens, times a row of a table of tasks.
    fn model(task: Option<Info>) -> OnnxModel {
        let mut graph = Graph::default();
        let ids = Info::new(DataType::I64, vec![Dim::symbol("batch"), Dim::symbol("len")]);
        let ids = graph.add_input("input_ids", Some(ids));
        let task = graph.add_input("task", task);
        let tokens = graph.add_constant("tokens", Array::new([3, 2], TOKENS.to_vec()).unwrap());
        let factors = graph.add_constant("factors", Array::new([2, 2], FACTORS.to_vec()).unwrap());
        let rows = graph.add_node("rows", Gather { axis: 0 }, &[tokens, ids]);
        let row = graph.add_node("row", Gather { axis: 0 }, &[factors, task]);
        let output = graph.add_node("times", Arithmetic { operation: Operation::Mul }, &[rows, row]);
        graph.outputs = vec![output];
        OnnxModel { path: PathBuf::from("tiny.onnx"), graph, producer: String::new(), opsets: Vec::new() }
    }

    fn number(dtype: DataType) -> Info {
        Info::new(dtype, Vec::new())
    }

    fn values<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn load<const N: usize>(task: Option<Info>, given: [(&str, f64); N]) -> Result<ImportedEncoder> {
        let options = ImportOptions { inputs: values(given), ..ImportOptions::default() };
        ImportPlan::new(model(task), &options)?.load(None)
    }

    #[track_caller]
    fn check_error<const N: usize>(task: Option<Info>, given: [(&str, f64); N], expected: &str) {
        let error = load(task, given).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error}");
    }

    fn rows(encoder: &ImportedEncoder) -> Vec<f32> {
        let batch = Batch::from_sequences([[2, 0].as_slice(), [1].as_slice()]).unwrap();
        encoder.forward(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_number_is_given_besides_texts() {
        for task in [
            number(DataType::I64),
            number(DataType::I32),
            Info::new(DataType::I64, vec![1i64.into()]),
            Info::new(DataType::I32, vec![1i64.into(), 1i64.into()]),
        ] {
            let encoder = load(Some(task), [("task", 0.0)]).unwrap();
            assert_eq!(encoder.unpacked_because(), None);
            assert_eq!(rows(&encoder), [50., 600., 10., 200., 30., 400.]);
            let other = encoder.with_inputs(&values([("task", 1.0)])).unwrap();
            assert_eq!(rows(&other), [-5., 3., -1., 1., -3., 2.]);
            assert_eq!(rows(&encoder), [50., 600., 10., 200., 30., 400.], "the first is as it was");
            assert!(Arc::ptr_eq(&encoder.session, &other.session), "the weights are there once");
        }
    }

    #[test]
    fn values_are_checked_at_load() {
        let int = || Some(number(DataType::I64));
        check_error(int(), [], "tiny.onnx: input `task`: it has no value");
        check_error(int(), [], "`--graph-input task=VALUE`");
        check_error(int(), [("task", 0.0), ("tusk", 0.0)], "input `tusk`: of inputs that are");
        check_error(int(), [("task", 0.0), ("input_ids", 0.0)], "only `task`");
        check_error(int(), [("task", 0.5)], "0.5 is no value of int64");
        check_error(Some(number(DataType::I32)), [("task", 3e9)], "is no value of int32");
        check_error(Some(number(DataType::Bool)), [("task", 2.0)], "is no value of bool");
        check_error(int(), [("task", f64::NAN)], "is no value of int64");
        check_error(Some(number(DataType::F32)), [("task", 1e39)], "is no value of float");
        check_error(int(), [("task", 2.0)], "row");
        check_error(int(), [("task", -9.0)], "row");
        let encoder = load(int(), [("task", 0.0)]).unwrap();
        for wrong in [("task", 7.0), ("task", 0.1), ("other", 0.0)] {
            encoder.with_inputs(&values([wrong])).expect_err("must be refused");
        }
    }

    #[test]
    fn other_inputs_are_refused() {
        let several = Info::new(DataType::I64, vec![5i64.into()]);
        check_error(Some(several), [("task", 0.0)], "only single numbers can be given");
        let texts = Info::new(DataType::I64, vec![Dim::symbol("batch")]);
        check_error(Some(texts), [("task", 0.0)], "only single numbers can be given");
        check_error(Some(number(DataType::String)), [("task", 0.0)], "input `task`: it is string");
        check_error(Some(Info::unknown(DataType::I64)), [("task", 0.0)], "of any shape");
        check_error(None, [("task", 0.0)], "only single numbers can be given");
    }
}

//! From messages to a graph.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::path::Path;

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::tensor::{self, TensorFiles};
use super::{OnnxModel, functions, invalid};
use crate::graph::{Attribute, Attributes, DataType, Dim, Graph, Info, Node, Problem, ValueId, check_rank};
use crate::ops::{self, NodeReader};
use crate::runtime::MappedFile;
use crate::{Error, Result};

/// Versions of the standard operator set that operators are written for.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

pub(super) fn model(model: ModelProto, path: &Path, file: Option<MappedFile>) -> Result<OnnxModel> {
    let Some(mut graph) = model.graph else {
        return Err(invalid(path, "model", Problem::new("there is no graph")));
    };
    let opsets: Vec<(String, i64)> = model
        .opset_import
        .into_iter()
        .map(|opset| (if opset.domain == "ai.onnx" { String::new() } else { opset.domain }, opset.version))
        .collect();
    let Some((_, opset)) = opsets.iter().find(|(domain, _)| domain.is_empty()) else {
        return Err(invalid(path, "model", Problem::new("no version of the standard operator set is given")));
    };
    let mut domains = HashSet::new();
    if let Some((twice, _)) = opsets.iter().find(|(domain, _)| !domains.insert(domain)) {
        let problem = format!("the operator set `{twice}` is imported twice");
        return Err(invalid(path, "model", Problem::new(problem)));
    }
    if !OPSETS.contains(opset) {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        let problem = format!("operator set {opset} is not supported, only {first} to {last} are");
        return Err(invalid(path, "model", Problem::new(problem)));
    }
    functions::inline(&mut graph, &model.functions, *opset)
        .map_err(|problem| invalid(path, "model", problem))?;
    let mut reader = Reader {
        path,
        opset: *opset,
        files: TensorFiles::new(path, file),
        unsupported: BTreeMap::new(),
        nodes_read: 0,
        captured: 0,
    };
    let (graph, _) = reader.graph(graph, true)?;
    if !reader.unsupported.is_empty() {
        let operators = reader.unsupported.into_iter().map(|(operator, (count, first))| {
            let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
            format!("{operator} ({nodes}, first `{first}`)")
        });
        let operators = operators.collect();
        return Err(Error::UnsupportedOperators { path: path.to_owned(), operators });
    }
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    Ok(OnnxModel { path: path.to_owned(), graph, producer, opsets })
}

/// `AttributeProto.AttributeType.TENSOR`
const TENSOR: i32 = 4;

/// `AttributeProto.AttributeType.GRAPH`
const GRAPH: i32 = 5;

/// Values that inner graphs may read of graphs around them, each counted at every graph that it passes.
const MAX_CAPTURED: usize = 1 << 17;

type Names = HashMap<String, ValueId>;

/// A node whose inner graphs are read.
struct ReadNode {
    /// Without its inner graphs.
    proto: NodeProto,
    bodies: Vec<(String, Attribute)>,
    /// What its inner graphs read of the graphs around them, in the order of `bodies`.
    captures: Vec<String>,
}

impl ReadNode {
    /// All names that the node reads, its inner graphs' too.
    fn reads(&self) -> impl Iterator<Item = &String> {
        self.proto.input.iter().filter(|name| !name.is_empty()).chain(&self.captures)
    }
}

struct Reader<'a> {
    path: &'a Path,
    opset: i64,
    files: TensorFiles,
    /// How many nodes have an operator, and the first one's name.
    unsupported: BTreeMap<String, (usize, String)>,
    nodes_read: usize,
    captured: usize,
}

impl Reader<'_> {
    /// A graph, and the names of values of graphs around it that it reads: they become further inputs. The outermost
    /// graph has none around it.
    fn graph(&mut self, mut proto: GraphProto, is_outermost: bool) -> Result<(Graph, Vec<String>)> {
        let mut graph = Graph::default();
        let mut names = HashMap::new();
        self.tensors(&proto, &mut graph, &mut names)?;
        self.inputs(&proto, &mut graph, &mut names)?;
        let nodes = std::mem::take(&mut proto.node);
        let nodes = nodes.into_iter().map(|node| self.bodies(node)).collect::<Result<Vec<_>>>()?;
        let captures = if is_outermost { Vec::new() } else { captures(&nodes, &proto, &names) };
        self.captured += captures.len();
        if self.captured > MAX_CAPTURED {
            let problem = "inner graphs read too many values of those around them";
            return Err(invalid(self.path, "model", Problem::new(problem)));
        }
        for name in &captures {
            names.insert(name.clone(), graph.add_input(name, None));
        }
        self.nodes(nodes, &mut graph, &mut names)?;
        for output in &proto.output {
            let id = names.get(&output.name).ok_or_else(|| {
                self.invalid_value(&output.name, Problem::new("no node computes this output"))
            })?;
            graph.outputs.push(*id);
        }
        Ok((graph, captures))
    }

    fn tensors(&self, proto: &GraphProto, graph: &mut Graph, names: &mut Names) -> Result<()> {
        if let Some(sparse) = proto.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            return Err(self.invalid_tensor(name, Problem::new("sparse tensors are not supported")));
        }
        for tensor in &proto.initializer {
            let constant = tensor::constant(tensor, &self.files)
                .map_err(|problem| self.invalid_tensor(&tensor.name, problem))?;
            let id = graph.add_constant(&tensor.name, constant);
            // An empty name stands for no value where nodes name their inputs.
            if tensor.name.is_empty() {
                return Err(self.invalid_tensor("", Problem::new("it has no name")));
            }
            if names.insert(tensor.name.clone(), id).is_some() {
                return Err(self.invalid_tensor(&tensor.name, Problem::new("the name is given twice")));
            }
        }
        Ok(())
    }

    fn inputs(&self, proto: &GraphProto, graph: &mut Graph, names: &mut Names) -> Result<()> {
        for input in &proto.input {
            // Up to version 3 of the format, tensors are inputs too.
            if names.get(&input.name).is_some_and(|id| graph.constant(*id).is_some()) {
                continue;
            }
            let declared = info(input).map_err(|problem| self.invalid_value(&input.name, problem))?;
            let id = graph.add_input(&input.name, declared);
            if input.name.is_empty() {
                return Err(self.invalid_value("", Problem::new("an input has no name")));
            }
            if names.insert(input.name.clone(), id).is_some() {
                return Err(self.invalid_value(&input.name, Problem::new("the name is given twice")));
            }
        }
        Ok(())
    }

    /// A node whose inner graphs are read: what they capture decides when the node can run.
    fn bodies(&mut self, mut proto: NodeProto) -> Result<ReadNode> {
        let mut bodies = Vec::new();
        let mut captures = Vec::new();
        for attribute in proto.attribute.iter_mut().filter(|attribute| attribute.r#type == GRAPH) {
            let Some(body) = attribute.g.take() else {
                let problem = format!("attribute `{}` has no value", attribute.name);
                return Err(self.invalid_node(&proto, Problem::new(problem)));
            };
            let (body, captured) = self.graph(*body, false)?;
            bodies.push((attribute.name.clone(), Attribute::Graph(body)));
            captures.extend(captured);
        }
        Ok(ReadNode { proto, bodies, captures })
    }

    fn nodes(&mut self, nodes: Vec<ReadNode>, graph: &mut Graph, names: &mut Names) -> Result<()> {
        let order = self.order(&nodes, names)?;
        let mut nodes: Vec<Option<ReadNode>> = nodes.into_iter().map(Some).collect();
        for index in order {
            let node = nodes[index].take().expect("an order has each node once");
            self.node(node, graph, names)?;
        }
        Ok(())
    }

    /// An order in which nodes can run, the file's where that is one.
    fn order(&self, nodes: &[ReadNode], names: &Names) -> Result<Vec<usize>> {
        let mut writers: HashMap<&str, usize> = HashMap::new();
        for (index, ReadNode { proto, .. }) in nodes.iter().enumerate() {
            for output in proto.output.iter().filter(|name| !name.is_empty()) {
                if names.contains_key(output) || writers.insert(output, index).is_some() {
                    let problem = format!("its output `{output}` is also written elsewhere");
                    return Err(self.invalid_node(proto, Problem::new(problem)));
                }
            }
        }
        let mut waits_for = vec![0usize; nodes.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            for name in node.reads() {
                match writers.get(name.as_str()) {
                    Some(&writer) => {
                        waits_for[index] += 1;
                        readers[writer].push(index);
                    }
                    None if names.contains_key(name) => {}
                    None => {
                        let problem = format!("nothing computes its input `{name}`");
                        return Err(self.invalid_node(&node.proto, Problem::new(problem)));
                    }
                }
            }
        }
        let mut ready: BinaryHeap<Reverse<usize>> =
            (0..nodes.len()).filter(|&index| waits_for[index] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(Reverse(index)) = ready.pop() {
            order.push(index);
            for &reader in &readers[index] {
                waits_for[reader] -= 1;
                if waits_for[reader] == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
        if let Some(index) = waits_for.iter().position(|&count| count > 0) {
            let problem = Problem::new("it depends on its own output");
            return Err(self.invalid_node(&nodes[index].proto, problem));
        }
        Ok(order)
    }

    fn node(&mut self, node: ReadNode, graph: &mut Graph, names: &mut Names) -> Result<()> {
        self.nodes_read += 1;
        let ReadNode { proto, bodies, captures } = node;
        let domain = if proto.domain == "ai.onnx" { "" } else { &proto.domain };
        let name = node_name(&proto, self.nodes_read);
        let output = |graph: &mut Graph, names: &mut Names, output: &String| {
            (!output.is_empty()).then(|| {
                let id = graph.add_value(output);
                names.insert(output.clone(), id);
                id
            })
        };
        // A constant is not computed, however large it is.
        if domain.is_empty()
            && proto.op_type == "Constant"
            && let [AttributeProto { name, t: Some(tensor), r#type: TENSOR, .. }] = proto.attribute.as_slice()
            && name == "value"
        {
            let constant = tensor::constant(tensor, &self.files)
                .map_err(|problem| self.invalid_node(&proto, problem))?;
            if let Some(Some(id)) = proto.output.first().map(|name| output(graph, names, name)) {
                graph.value_mut(id).constant = Some(constant);
            }
            return Ok(());
        }
        let Some(entry) = ops::find(domain, &proto.op_type) else {
            let operator =
                if domain.is_empty() { proto.op_type.clone() } else { format!("{domain}.{}", proto.op_type) };
            self.unsupported.entry(operator).or_insert((0, name)).0 += 1;
            for name in &proto.output {
                output(graph, names, name);
            }
            return Ok(());
        };
        let attributes =
            self.attributes(&proto, bodies).map_err(|problem| self.invalid_node(&proto, problem))?;
        let reader = NodeReader {
            opset: self.opset,
            num_inputs: proto.input.len(),
            num_outputs: proto.output.len(),
            attributes: &attributes,
        };
        let operator = entry.read(&reader).map_err(|problem| self.invalid_node(&proto, problem))?;
        // Captures are inputs that the node gets beyond its own, in the order of its graphs.
        let mut inputs: Vec<Option<ValueId>> =
            proto.input.iter().chain(&captures).map(|input| names.get(input).copied()).collect();
        // Inputs that are left out at the end are no inputs.
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let outputs = proto.output.iter().map(|name| output(graph, names, name)).collect();
        graph.nodes.push(Node { name, operator: operator.into(), inputs, outputs });
        Ok(())
    }

    fn attributes(
        &self,
        proto: &NodeProto,
        mut attributes: Vec<(String, Attribute)>,
    ) -> Result<Attributes, Problem> {
        for attribute in proto.attribute.iter().filter(|attribute| attribute.r#type != GRAPH) {
            attributes.push((attribute.name.clone(), self.attribute(attribute)?));
        }
        let mut names = HashSet::new();
        if let Some((twice, _)) = attributes.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(Problem::new(format!("attribute `{twice}` is given twice")));
        }
        Ok(Attributes::new(attributes))
    }

    fn attribute(&self, attribute: &AttributeProto) -> Result<Attribute, Problem> {
        if !attribute.ref_attr_name.is_empty() {
            let problem = format!("attribute `{}` refers to a function's, but is in none", attribute.name);
            return Err(Problem::new(problem));
        }
        Ok(match attribute.r#type {
            1 => Attribute::Float(attribute.f),
            2 => Attribute::Int(attribute.i),
            3 => Attribute::String(tensor::string(&attribute.s)?),
            TENSOR => match &attribute.t {
                Some(tensor) => Attribute::Tensor(tensor::constant(tensor, &self.files)?.array()),
                None => return Err(Problem::new(format!("attribute `{}` has no value", attribute.name))),
            },
            6 => Attribute::Floats(attribute.floats.clone()),
            7 => Attribute::Ints(attribute.ints.clone()),
            8 => {
                let strings = attribute.strings.iter().map(|bytes| tensor::string(bytes));
                Attribute::Strings(strings.collect::<Result<_, _>>()?)
            }
            number => {
                let problem = format!("attribute `{}` has the unsupported type {number}", attribute.name);
                return Err(Problem::new(problem));
            }
        })
    }

    fn invalid_tensor(&self, name: &str, problem: Problem) -> Error {
        invalid(self.path, format!("tensor `{name}`"), problem)
    }

    fn invalid_value(&self, name: &str, problem: Problem) -> Error {
        invalid(self.path, format!("value `{name}`"), problem)
    }

    fn invalid_node(&self, node: &NodeProto, problem: Problem) -> Error {
        let name = node_name(node, self.nodes_read);
        invalid(self.path, format!("node `{name}` ({})", node.op_type), problem)
    }
}

/// The node's name, or what else identifies it.
fn node_name(node: &NodeProto, index: usize) -> String {
    if !node.name.is_empty() {
        return node.name.clone();
    }
    match node.output.iter().find(|output| !output.is_empty()) {
        Some(output) => format!("-> {output}"),
        None => format!("#{index}"),
    }
}

/// Names that a graph reads and does not define.
fn captures(nodes: &[ReadNode], graph: &GraphProto, names: &Names) -> Vec<String> {
    let written: HashSet<&str> =
        nodes.iter().flat_map(|node| node.proto.output.iter().map(String::as_str)).collect();
    let outputs = graph.output.iter().map(|output| &output.name).filter(|name| !name.is_empty());
    let read = nodes.iter().flat_map(ReadNode::reads).chain(outputs);
    let free = read.filter(|name| !written.contains(name.as_str()) && !names.contains_key(*name));
    // Each once, in an order that does not change from run to run.
    free.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// What a file declares about an input.
fn info(value: &ValueInfoProto) -> Result<Option<Info>, Problem> {
    let Some(proto) = &value.r#type else {
        return Ok(None);
    };
    let Some(tensor) = &proto.tensor_type else {
        return Err(Problem::new("only tensors are supported, no sequences, maps or optional values"));
    };
    let dtype = DataType::from_number(tensor.elem_type)?;
    check_rank(tensor.shape.as_ref().map_or(0, |shape| shape.dim.len()))?;
    let dims = tensor.shape.as_ref().map(|shape| {
        let dim = |dim: &super::proto::DimensionProto| match (dim.dim_value, &dim.dim_param) {
            (Some(size), _) if size >= 0 => Dim::from(size),
            (_, Some(name)) if is_symbol(name) => Dim::symbol(name),
            _ => Dim::unknown(),
        };
        shape.dim.iter().map(dim).collect()
    });
    Ok(Some(Info { dtype, shape: dims, ints: None, constant: None }))
}

/// Whether a name stands for one number wherever it is: names of our own and `?`, which exporters write for every
/// number that they do not know, do not.
fn is_symbol(name: &str) -> bool {
    name.chars().all(|character| character.is_ascii_alphanumeric() || "_.- ".contains(character))
        && !name.is_empty()
}

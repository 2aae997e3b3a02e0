//! From messages to a graph.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::path::Path;

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::tensor::{self, ExternalFiles};
use super::{OnnxModel, functions, invalid};
use crate::graph::{Attribute, Attributes, Dim, Graph, Info, Node, Problem, ValueId};
use crate::ops::{self, NodeReader};
use crate::{Error, Result};

/// Versions of the standard operator set that operators are written for.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

pub(super) fn model(model: ModelProto, path: &Path) -> Result<OnnxModel> {
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
        files: ExternalFiles::beside(path),
        unsupported: BTreeMap::new(),
        nodes_read: 0,
    };
    let graph = reader.graph(graph, &[])?;
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

struct Reader<'a> {
    path: &'a Path,
    opset: i64,
    files: ExternalFiles,
    /// How many nodes have an operator, and the first one's name.
    unsupported: BTreeMap<String, (usize, String)>,
    nodes_read: usize,
}

impl Reader<'_> {
    /// A graph whose nodes may also read `captures`, values of graphs around it, which become further inputs.
    fn graph(&mut self, proto: GraphProto, captures: &[String]) -> Result<Graph> {
        let mut graph = Graph::default();
        let mut names: HashMap<String, ValueId> = HashMap::new();
        if let Some(sparse) = proto.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            return Err(self.invalid_tensor(name, Problem::new("sparse tensors are not supported")));
        }
        for tensor in &proto.initializer {
            let constant = tensor::constant(tensor, &self.files)
                .map_err(|problem| self.invalid_tensor(&tensor.name, problem))?;
            let id = graph.add_constant(&tensor.name, constant);
            if names.insert(tensor.name.clone(), id).is_some() {
                return Err(self.invalid_tensor(&tensor.name, Problem::new("the name is given twice")));
            }
        }
        for input in &proto.input {
            // Up to version 3 of the format, tensors are inputs too.
            if names.get(&input.name).is_some_and(|id| graph.constant(*id).is_some()) {
                continue;
            }
            let declared = info(input).map_err(|problem| self.invalid_value(&input.name, problem))?;
            let id = graph.add_input(&input.name, declared);
            if names.insert(input.name.clone(), id).is_some() {
                return Err(self.invalid_value(&input.name, Problem::new("the name is given twice")));
            }
        }
        for name in captures {
            let id = graph.add_input(name, None);
            names.insert(name.clone(), id);
        }
        let outputs = proto.output.iter().map(|output| output.name.clone()).collect::<Vec<_>>();
        self.nodes(proto.node, &mut graph, &mut names)?;
        for name in outputs {
            match names.get(&name) {
                Some(id) => graph.outputs.push(*id),
                None => return Err(self.invalid_value(&name, Problem::new("no node computes this output"))),
            }
        }
        Ok(graph)
    }

    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        graph: &mut Graph,
        names: &mut HashMap<String, ValueId>,
    ) -> Result<()> {
        let reads: Vec<Vec<String>> = nodes.iter().map(read_names).collect();
        let order = self.order(&nodes, &reads, names)?;
        let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
        for index in order {
            let node = nodes[index].take().expect("an order has each node once");
            self.node(node, &reads[index], graph, names)?;
        }
        Ok(())
    }

    /// An order in which nodes can run, the file's where that is one.
    fn order(
        &self,
        nodes: &[NodeProto],
        reads: &[Vec<String>],
        names: &HashMap<String, ValueId>,
    ) -> Result<Vec<usize>> {
        let mut writers: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if names.contains_key(output) || writers.insert(output, index).is_some() {
                    let problem = format!("its output `{output}` is also written elsewhere");
                    return Err(self.invalid_node(node, Problem::new(problem)));
                }
            }
        }
        let mut waits_for = vec![0usize; nodes.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, (node, reads)) in nodes.iter().zip(reads).enumerate() {
            for name in reads {
                match writers.get(name.as_str()) {
                    Some(&writer) => {
                        waits_for[index] += 1;
                        readers[writer].push(index);
                    }
                    None if names.contains_key(name) => {}
                    None => {
                        let problem = format!("nothing computes its input `{name}`");
                        return Err(self.invalid_node(node, Problem::new(problem)));
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
            return Err(self.invalid_node(&nodes[index], problem));
        }
        Ok(order)
    }

    fn node(
        &mut self,
        proto: NodeProto,
        reads: &[String],
        graph: &mut Graph,
        names: &mut HashMap<String, ValueId>,
    ) -> Result<()> {
        self.nodes_read += 1;
        let domain = if proto.domain == "ai.onnx" { "" } else { &proto.domain };
        let name = node_name(&proto, self.nodes_read);
        let output = |graph: &mut Graph, names: &mut HashMap<String, ValueId>, output: &String| {
            (!output.is_empty()).then(|| {
                let id = graph.add_value(output);
                names.insert(output.clone(), id);
                id
            })
        };
        // A constant is not computed, however large it is.
        if domain.is_empty()
            && proto.op_type == "Constant"
            && let [AttributeProto { t: Some(tensor), .. }] = proto.attribute.as_slice()
        {
            let constant = tensor::constant(tensor, &self.files)
                .map_err(|problem| self.invalid_node(&proto, problem))?;
            if let Some(Some(id)) = proto.output.first().map(|name| output(graph, names, name)) {
                graph.value_mut(id).constant = Some(constant);
            }
            return Ok(());
        }
        let entry = ops::find(domain, &proto.op_type);
        let mut inputs: Vec<Option<ValueId>> =
            proto.input.iter().map(|input| names.get(input).copied()).collect();
        let mut attributes = Vec::new();
        for attribute in &proto.attribute {
            // Captures are inputs that the node gets beyond its own, in the order of its graphs.
            if let Some(body) = &attribute.g {
                let captures = free_names(body).into_iter().collect::<Vec<_>>();
                inputs.extend(captures.iter().map(|name| names.get(name).copied()));
                let body = self.graph(body.clone(), &captures)?;
                attributes.push((attribute.name.clone(), Attribute::Graph(body)));
            } else {
                let value =
                    self.attribute(attribute).map_err(|problem| self.invalid_node(&proto, problem))?;
                attributes.push((attribute.name.clone(), value));
            }
        }
        debug_assert!(reads.iter().all(|name| names.contains_key(name)));
        let Some(entry) = entry else {
            let operator =
                if domain.is_empty() { proto.op_type.clone() } else { format!("{domain}.{}", proto.op_type) };
            self.unsupported.entry(operator).or_insert((0, name)).0 += 1;
            for name in &proto.output {
                output(graph, names, name);
            }
            return Ok(());
        };
        let attributes = Attributes::new(attributes);
        let reader = NodeReader {
            opset: self.opset,
            num_inputs: proto.input.len(),
            num_outputs: proto.output.len(),
            attributes: &attributes,
        };
        let operator = entry.read(&reader).map_err(|problem| self.invalid_node(&proto, problem))?;
        // Inputs that are left out at the end are no inputs.
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let outputs = proto.output.iter().map(|name| output(graph, names, name)).collect();
        graph.nodes.push(Node { name, operator: operator.into(), inputs, outputs });
        Ok(())
    }

    fn attribute(&self, attribute: &AttributeProto) -> Result<Attribute, Problem> {
        // The type may be left out in old files; then the one field that is there tells.
        Ok(match attribute.r#type {
            1 => Attribute::Float(attribute.f),
            2 => Attribute::Int(attribute.i),
            3 => Attribute::String(tensor::string(&attribute.s)?),
            4 => match &attribute.t {
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

/// All names that a node reads, in graphs inside it too.
fn read_names(node: &NodeProto) -> Vec<String> {
    let inputs = node.input.iter().filter(|name| !name.is_empty()).cloned();
    let graphs = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
    inputs.chain(graphs.flat_map(free_names)).collect()
}

/// Names that a graph reads and does not define.
fn free_names(graph: &GraphProto) -> BTreeSet<String> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let tensors = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let written = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let defined: HashSet<&str> = inputs.chain(tensors).chain(written).collect();
    let read = graph.node.iter().flat_map(read_names);
    let outputs = graph.output.iter().map(|output| output.name.clone());
    read.chain(outputs).filter(|name| !defined.contains(name.as_str())).collect()
}

/// What a file declares about an input.
fn info(value: &ValueInfoProto) -> Result<Option<Info>, Problem> {
    let Some(proto) = &value.r#type else {
        return Ok(None);
    };
    let Some(tensor) = &proto.tensor_type else {
        return Err(Problem::new("only tensors are supported, no sequences, maps or optional values"));
    };
    let dtype = tensor::data_type(tensor.elem_type)?;
    let dims = tensor.shape.as_ref().map(|shape| {
        let dim = |dim: &super::proto::DimensionProto| match (dim.dim_value, &dim.dim_param) {
            (Some(size), _) if size >= 0 => Dim::from(size),
            (_, Some(name)) if !name.is_empty() => Dim::symbol(name),
            _ => Dim::unknown(),
        };
        shape.dim.iter().map(dim).collect()
    });
    Ok(Some(Info { dtype, shape: dims, ints: None, constant: None }))
}

//! A model's own functions: every call becomes the nodes of the function's body.
//!
//! <https://onnx.ai/onnx/repo-docs/IR.html#functions>: names inside a body are its own, so all of them are made new;
//! attributes that refer to the call's attributes get their values.

use std::collections::HashMap;

use prost::Message;

use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use crate::graph::{Problem, problem};

/// Calls and graphs inside each other. A function that calls itself has no end.
const MAX_DEPTH: usize = 32;

/// Bytes that calls may become: functions that call others twice each make much of little.
const MAX_BYTES: usize = 1 << 29;

/// Bytes that a node or an attribute takes beyond what is in the file.
const OVERHEAD: usize = 256;

/// Replaces all calls of functions in a graph and in graphs inside it.
///
/// # Errors
///
/// When a function is called with other inputs, outputs or attributes than it has, is for another version of the
/// standard operator set than `opset`, or becomes too large.
pub(super) fn inline(graph: &mut GraphProto, functions: &[FunctionProto], opset: i64) -> Result<(), Problem> {
    if functions.is_empty() {
        return Ok(());
    }
    let mut by_name = HashMap::new();
    for function in functions {
        let name = (domain(&function.domain), function.name.as_str(), function.overload.as_str());
        if by_name.insert(name, function).is_some() {
            problem!("function `{}` is given twice", function.name);
        }
    }
    let mut prefix = "call".to_owned();
    while has_prefix(graph, &prefix) {
        prefix.push('_');
    }
    Inliner { functions: by_name, opset, prefix, calls: 0, bytes: 0 }.graph(graph, 0)
}

fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Whether the name of any value in a graph, or in graphs inside it, begins so.
fn has_prefix(graph: &GraphProto, prefix: &str) -> bool {
    let inputs = graph.input.iter().map(|input| &input.name);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    let mut graphs =
        graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    inputs.chain(tensors).chain(outputs).any(|name| name.starts_with(prefix))
        || graphs.any(|graph| has_prefix(graph, prefix))
}

struct Inliner<'a> {
    /// By domain, name and overload.
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    opset: i64,
    /// What no name in the file begins with.
    prefix: String,
    calls: usize,
    bytes: usize,
}

/// The new names of values in a body, by their old ones.
type Names = HashMap<String, String>;

/// A call that is being replaced.
struct Call<'a> {
    /// What names of nodes begin with.
    name: String,
    /// What names of values begin with.
    prefix: String,
    /// Those of the call, and the function's own for others.
    attributes: HashMap<&'a str, &'a AttributeProto>,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), Problem> {
        let nodes = std::mem::take(&mut graph.node);
        self.nodes(nodes, &mut graph.node, depth)
    }

    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        inlined: &mut Vec<NodeProto>,
        depth: usize,
    ) -> Result<(), Problem> {
        for mut node in nodes {
            for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
                check_depth(depth)?;
                self.graph(graph, depth + 1)?;
            }
            let name = (domain(&node.domain), node.op_type.as_str(), node.overload.as_str());
            match self.functions.get(&name).copied() {
                None => inlined.push(node),
                Some(function) => {
                    check_depth(depth)?;
                    let body = self.call(&node, function);
                    let body = body.map_err(|problem| {
                        Problem::new(format!("function `{}`: {problem}", function.name))
                    })?;
                    self.nodes(body, inlined, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES {
            problem!("calls become more than {MAX_BYTES} bytes");
        }
        Ok(())
    }

    /// The nodes that a call becomes.
    fn call(&mut self, node: &NodeProto, function: &FunctionProto) -> Result<Vec<NodeProto>, Problem> {
        let is_standard = |set: &&OperatorSetIdProto| domain(&set.domain).is_empty();
        if let Some(set) = function.opset_import.iter().find(is_standard)
            && set.version != self.opset
        {
            problem!("it is for operator set {}, the model for {}", set.version, self.opset);
        }
        let (inputs, outputs) = (&function.input, &function.output);
        if node.input.len() > inputs.len() || node.output.len() > outputs.len() {
            let (given, wanted) = (node.input.len(), node.output.len());
            problem!("{given} inputs and {wanted} outputs, expected {} and {}", inputs.len(), outputs.len());
        }
        self.calls += 1;
        let name = if node.name.is_empty() { &node.op_type } else { &node.name }.clone();
        let prefix = format!("{}{}/", self.prefix, self.calls);
        let call = Call { name, prefix, attributes: attributes(node, function)? };
        let mut names = Names::new();
        let padding = std::iter::repeat(String::new());
        for (input, given) in inputs.iter().zip(node.input.iter().cloned().chain(padding.clone())) {
            self.spend(OVERHEAD + given.len())?;
            if names.insert(input.clone(), given).is_some() {
                problem!("its input `{input}` is given twice");
            }
        }
        let mut body = Vec::new();
        let mut results = Names::new();
        for (output, wanted) in outputs.iter().zip(node.output.iter().cloned().chain(padding)) {
            self.spend(OVERHEAD + wanted.len())?;
            if wanted.is_empty() {
                continue;
            }
            if let Some(given) = names.get(output) {
                body.push(identity(&call, given.clone(), wanted));
            } else if results.insert(output.clone(), wanted).is_some() {
                problem!("its output `{output}` is given twice");
            }
        }
        self.define(function.node.iter().flat_map(|node| &node.output), &mut names, &mut results, &call)?;
        if let Some(output) = results.keys().next() {
            problem!("nothing computes its output `{output}`");
        }
        for node in &function.node {
            body.push(self.node(node, &names, &call)?);
        }
        Ok(body)
    }

    /// New names for values: those that the caller has for them, or others.
    fn define<'n>(
        &mut self,
        values: impl Iterator<Item = &'n String>,
        names: &mut Names,
        results: &mut Names,
        call: &Call,
    ) -> Result<(), Problem> {
        for value in values.filter(|name| !name.is_empty()) {
            let name = results.remove(value).unwrap_or_else(|| format!("{}{value}", call.prefix));
            self.spend(OVERHEAD + value.len() + name.len())?;
            names.insert(value.clone(), name);
        }
        Ok(())
    }

    fn rename(&mut self, names: &Names, value: &str) -> Result<String, Problem> {
        if value.is_empty() {
            return Ok(String::new());
        }
        let Some(name) = names.get(value) else {
            problem!("nothing computes `{value}`");
        };
        self.spend(name.len() + size_of::<String>())?;
        Ok(name.clone())
    }

    /// A node of a body with new names.
    fn node(&mut self, node: &NodeProto, names: &Names, call: &Call) -> Result<NodeProto, Problem> {
        let name = if node.name.is_empty() { &node.op_type } else { &node.name };
        self.spend(OVERHEAD + call.name.len() + name.len())?;
        let mut attributes = Vec::new();
        for attribute in &node.attribute {
            attributes.extend(self.attribute(attribute, names, call)?);
        }
        Ok(NodeProto {
            input: node.input.iter().map(|input| self.rename(names, input)).collect::<Result<_, _>>()?,
            output: node.output.iter().map(|output| self.rename(names, output)).collect::<Result<_, _>>()?,
            name: format!("{}/{name}", call.name),
            op_type: node.op_type.clone(),
            attribute: attributes,
            domain: node.domain.clone(),
            overload: node.overload.clone(),
        })
    }

    /// An attribute of a node of a body; none if it refers to one that the call does not have.
    fn attribute(
        &mut self,
        attribute: &AttributeProto,
        names: &Names,
        call: &Call,
    ) -> Result<Option<AttributeProto>, Problem> {
        let name = attribute.name.clone();
        if !attribute.ref_attr_name.is_empty() {
            let Some(given) = call.attributes.get(attribute.ref_attr_name.as_str()).copied() else {
                return Ok(None);
            };
            if attribute.r#type != 0 && given.r#type != attribute.r#type {
                problem!("attribute `{}` is of another type than `{name}`", given.name);
            }
            self.spend(OVERHEAD + given.encoded_len())?;
            // Graphs of the caller have the caller's names.
            return Ok(Some(AttributeProto { name, ..given.clone() }));
        }
        let Some(graph) = &attribute.g else {
            self.spend(OVERHEAD + attribute.encoded_len())?;
            return Ok(Some(attribute.clone()));
        };
        let g = Some(self.inner_graph(graph, names, call)?);
        Ok(Some(AttributeProto {
            name,
            r#type: attribute.r#type,
            g: g.map(Box::new),
            ..AttributeProto::default()
        }))
    }

    /// A graph of a node of a body with new names.
    fn inner_graph(&mut self, graph: &GraphProto, outer: &Names, call: &Call) -> Result<GraphProto, Problem> {
        self.spend(outer.iter().map(|(old, new)| OVERHEAD + old.len() + new.len()).sum())?;
        let mut names = outer.clone();
        let inputs = graph.input.iter().map(|input| &input.name);
        let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
        let outputs = graph.node.iter().flat_map(|node| &node.output);
        self.define(inputs.chain(tensors).chain(outputs), &mut names, &mut Names::new(), call)?;
        self.spend(graph.sparse_initializer.iter().map(|tensor| OVERHEAD + tensor.encoded_len()).sum())?;
        let mut inner =
            GraphProto { sparse_initializer: graph.sparse_initializer.clone(), ..GraphProto::default() };
        for (from, to) in [(&graph.input, &mut inner.input), (&graph.output, &mut inner.output)] {
            for value in from {
                self.spend(OVERHEAD + value.encoded_len())?;
                let mut value = value.clone();
                value.name = self.rename(&names, &value.name)?;
                to.push(value);
            }
        }
        for tensor in &graph.initializer {
            self.spend(OVERHEAD + tensor.encoded_len())?;
            let mut tensor = tensor.clone();
            tensor.name = self.rename(&names, &tensor.name)?;
            inner.initializer.push(tensor);
        }
        for node in &graph.node {
            inner.node.push(self.node(node, &names, call)?);
        }
        Ok(inner)
    }
}

fn check_depth(depth: usize) -> Result<(), Problem> {
    if depth >= MAX_DEPTH {
        problem!("more than {MAX_DEPTH} functions and graphs are inside each other");
    }
    Ok(())
}

/// A node for an output of a function that is one of its inputs.
fn identity(call: &Call, input: String, output: String) -> NodeProto {
    let (name, op_type) = (format!("{}/Identity", call.name), "Identity".to_owned());
    NodeProto { input: vec![input], output: vec![output], name, op_type, ..NodeProto::default() }
}

/// The attributes of a call, and the function's own for those that it leaves out.
fn attributes<'a>(
    node: &'a NodeProto,
    function: &'a FunctionProto,
) -> Result<HashMap<&'a str, &'a AttributeProto>, Problem> {
    let mut attributes: HashMap<&str, &AttributeProto> =
        function.attribute_proto.iter().map(|attribute| (attribute.name.as_str(), attribute)).collect();
    for attribute in &node.attribute {
        let name = attribute.name.as_str();
        if !attributes.contains_key(name) && !function.attribute.iter().any(|known| known == name) {
            problem!("unknown attributes: {name}");
        }
        attributes.insert(name, attribute);
    }
    if let Some(name) = function.attribute.iter().find(|name| !attributes.contains_key(name.as_str())) {
        problem!("attribute `{name}` is missing");
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::ValueInfoProto;

    fn node(op_type: &str, input: &[&str], output: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
        let [input, output] =
            [input, output].map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let domain = if op_type.starts_with(char::is_lowercase) { "own" } else { "" }.to_owned();
        NodeProto { op_type: op_type.to_owned(), input, output, attribute, domain, ..NodeProto::default() }
    }

    fn function(name: &str, input: &[&str], output: &[&str], node: Vec<NodeProto>) -> FunctionProto {
        let [input, output] =
            [input, output].map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 18 }];
        FunctionProto {
            name: name.to_owned(),
            domain: "own".to_owned(),
            input,
            output,
            node,
            opset_import,
            ..FunctionProto::default()
        }
    }

    fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { name: name.to_owned(), r#type: 2, i, ..AttributeProto::default() }
    }

    fn reference(name: &str, to: &str) -> AttributeProto {
        let (name, ref_attr_name) = (name.to_owned(), to.to_owned());
        AttributeProto { name, r#type: 2, ref_attr_name, ..AttributeProto::default() }
    }

    fn inlined(nodes: Vec<NodeProto>, functions: &[FunctionProto]) -> Result<Vec<NodeProto>, Problem> {
        let mut graph = GraphProto { node: nodes, ..GraphProto::default() };
        inline(&mut graph, functions, 18)?;
        Ok(graph.node)
    }

    fn edges(nodes: &[NodeProto]) -> Vec<String> {
        let edge = |node: &NodeProto| {
            format!("{} {} -> {}", node.op_type, node.input.join(","), node.output.join(","))
        };
        nodes.iter().map(edge).collect()
    }

    #[test]
    fn names_inside_are_new() {
        let double = function(
            "double",
            &["x"],
            &["y"],
            vec![node("Add", &["x", "x"], &["call"], vec![]), node("Identity", &["call"], &["y"], vec![])],
        );
        let twice = function(
            "twice",
            &["a"],
            &["b", "a"],
            vec![node("double", &["a"], &["x"], vec![]), node("double", &["x"], &["b"], vec![])],
        );
        let nodes =
            inlined(vec![node("twice", &["x"], &["call", "z"], vec![])], &[double.clone(), twice]).unwrap();
        assert_eq!(
            edges(&nodes),
            [
                "Identity x -> z",
                "Add x,x -> call_2/call",
                "Identity call_2/call -> call_1/x",
                "Add call_1/x,call_1/x -> call_3/call",
                "Identity call_3/call -> call",
            ]
        );
        assert_eq!(nodes[1].name, "twice/double/Add");
        // Nobody wants the output.
        assert_eq!(
            inlined(vec![node("double", &["x"], &[""], vec![])], &[double]).unwrap()[1].output,
            ["call1/y"]
        );
    }

    #[test]
    fn attributes_get_the_values_of_the_call() {
        let mut softmax = function(
            "softmax",
            &["x"],
            &["y"],
            vec![node("Softmax", &["x"], &["y"], vec![reference("axis", "dim")])],
        );
        let call = |attributes| vec![node("softmax", &["x"], &["y"], attributes)];
        assert!(inlined(call(vec![int("dim", 2)]), &[softmax.clone()]).is_err(), "an unknown attribute");
        softmax.attribute = vec!["dim".to_owned()];
        let axis = |nodes: Vec<NodeProto>| {
            nodes[0].attribute.iter().map(|a| (a.name.clone(), a.i)).collect::<Vec<_>>()
        };
        assert_eq!(
            axis(inlined(call(vec![int("dim", 2)]), &[softmax.clone()]).unwrap()),
            [("axis".to_owned(), 2)]
        );
        assert!(inlined(call(vec![]), &[softmax.clone()]).is_err(), "a missing attribute");
        softmax.attribute = vec![];
        softmax.attribute_proto = vec![int("dim", -1)];
        assert_eq!(axis(inlined(call(vec![]), &[softmax.clone()]).unwrap()), [("axis".to_owned(), -1)]);
        assert_eq!(
            axis(inlined(call(vec![int("dim", 1)]), &[softmax.clone()]).unwrap()),
            [("axis".to_owned(), 1)]
        );
    }

    #[test]
    fn graphs_inside_have_new_names_too() {
        let value = |name: &str| ValueInfoProto { name: name.to_owned(), r#type: None };
        let branch = GraphProto {
            node: vec![node("Add", &["x", "t"], &["x2"], vec![]), node("inc", &["x2"], &["r"], vec![])],
            output: vec![value("r")],
            ..GraphProto::default()
        };
        let attribute = AttributeProto {
            name: "then_branch".to_owned(),
            r#type: 5,
            g: Some(Box::new(branch)),
            ..AttributeProto::default()
        };
        let outer = function(
            "outer",
            &["c", "x"],
            &["y"],
            vec![node("Neg", &["x"], &["t"], vec![]), node("If", &["c"], &["y"], vec![attribute])],
        );
        let inc = function("inc", &["x"], &["y"], vec![node("Inc", &["x"], &["y"], vec![])]);
        let nodes = inlined(vec![node("outer", &["t", "r"], &["y"], vec![])], &[outer, inc]).unwrap();
        assert_eq!(edges(&nodes), ["Neg r -> call1/t", "If t -> y"]);
        let graph = nodes[1].attribute[0].g.as_ref().unwrap();
        assert_eq!(edges(&graph.node), ["Add r,call1/t -> call1/x2", "Inc call1/x2 -> call1/r"]);
        assert_eq!(graph.output[0].name, "call1/r");
    }

    #[test]
    fn hostile_functions_are_problems() {
        let call = || vec![node("f", &["x"], &["y"], vec![])];
        let body = |nodes| [function("f", &["x"], &["y"], nodes)];
        assert!(inlined(call(), &body(call())).is_err(), "it calls itself");
        assert!(inlined(call(), &body(vec![])).is_err(), "nothing computes its output");
        assert!(
            inlined(call(), &body(vec![node("Add", &["x", "z"], &["y"], vec![])])).is_err(),
            "a value from outside"
        );
        let two = vec![node("f", &["x", "x"], &["y"], vec![])];
        let fine = body(vec![node("Neg", &["x"], &["y"], vec![])]);
        assert!(inlined(two, &fine).is_err(), "too many inputs");
        let mut old = fine.clone();
        old[0].opset_import[0].version = 17;
        assert!(inlined(call(), &old).is_err(), "another version");
        assert!(inlined(call(), &[fine[0].clone(), fine[0].clone()]).is_err(), "given twice");
        let deep: Vec<FunctionProto> = (0..30)
            .map(|level| {
                let name = |level| if level == 0 { "f".to_owned() } else { format!("f{level}") };
                let next = name(level + 1);
                function(
                    &name(level),
                    &["x"],
                    &["y"],
                    vec![node(&next, &["x"], &["t"], vec![]), node(&next, &["t"], &["y"], vec![])],
                )
            })
            .collect();
        assert!(inlined(call(), &deep).is_err(), "2^30 nodes");
    }
}

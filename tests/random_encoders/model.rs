//! ONNX files of a few nodes, written by hand: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

/// Types of elements, as files number them.
pub(super) const F32: i32 = 1;
pub(super) const I64: i32 = 7;
pub(super) const BOOL: i32 = 9;

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Model {
    graph: Vec<u8>,
    /// Nodes, for whoever reads a failure.
    pub(super) lines: Vec<String>,
    count: usize,
}

impl Model {
    /// A node of one output; its output.
    pub(super) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let output = self.name("v");
        let mut content = Vec::new();
        for input in inputs {
            bytes(&mut content, 1, input);
        }
        bytes(&mut content, 2, &output);
        bytes(&mut content, 4, operator);
        for (name, attribute) in attributes {
            bytes(&mut content, 5, attribute_message(name, *attribute));
        }
        bytes(&mut self.graph, 1, content);
        self.lines.push(format!("{output} = {operator}({}) {attributes:?}", inputs.join(", ")));
        output
    }

    /// A tensor of numbers.
    pub(super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(shape, F32, &data)
    }

    /// A tensor of integers.
    pub(super) fn ints(&mut self, shape: &[usize], values: &[i64]) -> String {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = self.tensor(shape, I64, &data);
        self.lines.push(format!("{name} = {values:?}"));
        name
    }

    /// A number.
    pub(super) fn number(&mut self, value: f32) -> String {
        let name = self.floats(&[], &[value]);
        self.lines.push(format!("{name} = {value}"));
        name
    }

    fn tensor(&mut self, shape: &[usize], dtype: i32, data: &[u8]) -> String {
        let name = self.name("c");
        let mut content = Vec::new();
        for size in shape {
            number(&mut content, 1, *size as u64);
        }
        number(&mut content, 2, dtype as u64);
        bytes(&mut content, 8, &name);
        bytes(&mut content, 9, data);
        bytes(&mut self.graph, 5, content);
        name
    }

    fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    /// The file, with these inputs of integers `[batch_size, seq_len]` and this output.
    pub(super) fn file(mut self, inputs: &[&str], output: &str) -> Vec<u8> {
        for input in inputs {
            let content = value(input, I64, Some(&["b", "s"]));
            bytes(&mut self.graph, 11, content);
        }
        let content = value(output, F32, None);
        bytes(&mut self.graph, 12, content);
        let (mut model, mut opset) = (Vec::new(), Vec::new());
        number(&mut model, 1, 8);
        bytes(&mut model, 7, self.graph);
        number(&mut opset, 2, 17);
        bytes(&mut model, 8, opset);
        model
    }
}

fn value(name: &str, dtype: i32, dims: Option<&[&str]>) -> Vec<u8> {
    let (mut tensor, mut kind, mut content) = (Vec::new(), Vec::new(), Vec::new());
    number(&mut tensor, 1, dtype as u64);
    if let Some(dims) = dims {
        let mut shape = Vec::new();
        for dim in dims {
            let mut symbol = Vec::new();
            bytes(&mut symbol, 2, dim);
            bytes(&mut shape, 1, symbol);
        }
        bytes(&mut tensor, 2, shape);
    }
    bytes(&mut kind, 1, tensor);
    bytes(&mut content, 1, name);
    bytes(&mut content, 2, kind);
    content
}

fn attribute_message(name: &str, attribute: Attribute) -> Vec<u8> {
    let mut content = Vec::new();
    bytes(&mut content, 1, name);
    match attribute {
        Attribute::Int(value) => {
            number(&mut content, 3, value as u64);
            number(&mut content, 20, 2);
        }
        Attribute::Ints(values) => {
            for value in values {
                number(&mut content, 8, *value as u64);
            }
            number(&mut content, 20, 7);
        }
    }
    content
}

/// A field of a protocol buffer that holds bytes.
fn bytes(to: &mut Vec<u8>, tag: u64, content: impl AsRef<[u8]>) {
    let content = content.as_ref();
    varint(to, tag << 3 | 2);
    varint(to, content.len() as u64);
    to.extend(content);
}

/// A field that holds a number.
fn number(to: &mut Vec<u8>, tag: u64, value: u64) {
    varint(to, tag << 3);
    varint(to, value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

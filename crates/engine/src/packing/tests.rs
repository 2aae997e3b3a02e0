//! Graphs of one operator, packed and not: what mixes tokens is not packed, or gives what it gives unpacked.

use super::*;
use crate::graph::{Attribute, Attributes, DataType, Session};
use crate::ops::{self, NodeReader};

mod cuts;

/// A graph whose rows of tokens, `[batch_size, seq_len, WIDTH]`, are those of a table.
struct Model {
    graph: Graph,
    token_ids: ValueId,
    mask: ValueId,
    rows: ValueId,
}

const WIDTH: usize = 4;

/// Lengths of the texts of a batch.
const TEXTS: [usize; 4] = [3, 1, 5, 2];

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

impl Model {
    fn new() -> Self {
        let mut graph = Graph::default();
        let input = || Some(Info::new(DataType::I64, vec![batch_size(), seq_len()]));
        let token_ids = graph.add_input("input_ids", input());
        let mask = graph.add_input("attention_mask", input());
        let mut model = Self { graph, token_ids, mask, rows: token_ids };
        let table = model.wave(&[16, WIDTH]);
        model.rows = model.node("Gather", &[], &[table, token_ids]);
        model
    }

    /// A constant of different numbers.
    fn wave(&mut self, shape: &[usize]) -> ValueId {
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| (i as f32 * 1.7).sin() + 1.1).collect();
        self.constant(Array::new::<f32>(shape, values).unwrap())
    }

    fn constant(&mut self, array: Array) -> ValueId {
        self.graph.add_constant("", array)
    }

    fn vector(&mut self, values: &[i64]) -> ValueId {
        self.constant(Array::vector(values.to_vec()))
    }

    fn node(&mut self, name: &str, attributes: &[(&str, Attribute)], inputs: &[ValueId]) -> ValueId {
        self.nodes(17, name, attributes, inputs, 1)[0]
    }

    fn nodes(
        &mut self,
        opset: i64,
        name: &str,
        attributes: &[(&str, Attribute)],
        inputs: &[ValueId],
        num_outputs: usize,
    ) -> Vec<ValueId> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let attributes = Attributes::new(attributes);
        let reader = NodeReader { opset, num_inputs: inputs.len(), num_outputs, attributes: &attributes };
        let entry = ops::find("", name).or_else(|| ops::find("com.microsoft", name)).expect(name);
        // Values are told apart by their names.
        let index = self.graph.nodes.len();
        let output = |output: usize| self.graph.add_value(format!("{name} {index} {output}"));
        let outputs: Vec<ValueId> = (0..num_outputs).map(output).collect();
        self.graph.nodes.push(Node {
            name: name.to_owned(),
            operator: entry.read(&reader).expect(name).into(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: outputs.iter().copied().map(Some).collect(),
        });
        outputs
    }

    fn reduce(&mut self, name: &str, axes: &[i64], keepdims: i64) -> ValueId {
        let attributes = [("axes", ints(axes)), ("keepdims", Attribute::Int(keepdims))];
        self.nodes(12, name, &attributes, &[self.rows], 1)[0]
    }

    /// Why it is not packed, if it is not; a packed graph must give what the graph gives for each text alone.
    fn outcome(mut self, output: ValueId) -> Result<(), String> {
        self.graph.outputs = vec![output];
        let roles = Roles {
            token_ids: self.token_ids,
            attention_mask: Some(self.mask),
            type_ids: None,
            positions: None,
        };
        let (packed, layouts) = pack(&self.graph, &roles, &[output], Precision::F32, false)?;
        let padded = Session::new(self.graph).unwrap();
        let packed = Session::new(packed).unwrap();
        let total: usize = TEXTS.iter().sum();
        let ids: Vec<i64> = (0..total).map(|i| (i * i % 13) as i64).collect();
        let (mut expected, mut start) = (Vec::new(), 0);
        let mut cu_seqlens = vec![0];
        for len in TEXTS {
            let text = ids[start..start + len].to_vec();
            let inputs = [("input_ids", text), ("attention_mask", vec![1; len])]
                .map(|(name, values)| (name, Array::new([1, len], values).unwrap()));
            expected.extend(padded.run(inputs).unwrap()[0].to_floats().unwrap().iter().copied());
            start += len;
            cu_seqlens.push(start as i64);
        }
        let positions = TEXTS.iter().flat_map(|len| 0..*len as i64).collect();
        let found = packed.run([
            (TOKEN_IDS, Array::new([1, total], ids).unwrap()),
            (TYPE_IDS, Array::new([1, total], vec![0i64; total]).unwrap()),
            (POSITIONS, Array::vector(positions)),
            (CU_SEQLENS, Array::vector(cu_seqlens)),
        ]);
        let mut found = found.unwrap().remove(0).into_floats().unwrap();
        if layouts == [OutputLayout::TokensButFirst] {
            // Rows of first tokens mean nothing.
            let width = found.len() / total;
            let starts: Vec<usize> =
                TEXTS.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
            let kept = (0..total).filter(|row| !starts.contains(row));
            found = kept.flat_map(|row| found[row * width..][..width].to_vec()).collect();
        }
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "packed {found}, not {expected}");
        }
        Ok(())
    }
}

#[track_caller]
fn packs(build: impl FnOnce(&mut Model) -> ValueId) {
    let mut model = Model::new();
    let output = build(&mut model);
    model.outcome(output).unwrap();
}

#[track_caller]
fn is_refused(build: impl FnOnce(&mut Model) -> ValueId) {
    let mut model = Model::new();
    let output = build(&mut model);
    let reason = model.outcome(output).expect_err("it mixes tokens");
    assert!(reason.starts_with("node `"), "{reason}");
}

#[test]
fn normalisations_go_along_rows() {
    for name in ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"] {
        for axis in [-1, 2] {
            packs(|model| model.node(name, &[("axis", Attribute::Int(axis))], &[model.rows]));
        }
        for axis in [0, 1, -2, -3] {
            is_refused(|model| model.node(name, &[("axis", Attribute::Int(axis))], &[model.rows]));
        }
    }
    for name in ["Softmax", "LogSoftmax", "Hardmax"] {
        // Before version 13, the axis is the first of those that are one, and the second if there is none.
        packs(|model| model.nodes(12, name, &[("axis", Attribute::Int(2))], &[model.rows], 1)[0]);
        is_refused(|model| model.nodes(12, name, &[("axis", Attribute::Int(1))], &[model.rows], 1)[0]);
        is_refused(|model| model.nodes(12, name, &[], &[model.rows], 1)[0]);
    }
    packs(|model| model.node("MeanVarianceNormalization", &[("axes", ints(&[2]))], &[model.rows]));
    is_refused(|model| model.node("MeanVarianceNormalization", &[("axes", ints(&[1]))], &[model.rows]));
    is_refused(|model| model.node("MeanVarianceNormalization", &[("axes", ints(&[0, 2]))], &[model.rows]));
}

#[test]
fn normalisations_of_all_behind_an_axis_go_along_rows() {
    for name in ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"] {
        let norm = |model: &mut Model, axis: i64, scale: &[usize]| {
            let scale = model.wave(scale);
            model.nodes(23, name, &[("axis", Attribute::Int(axis))], &[model.rows, scale], 1)[0]
        };
        for axis in [-1, 2] {
            packs(|model| norm(model, axis, &[WIDTH]));
        }
        for axis in [1, -2, 0] {
            is_refused(|model| norm(model, axis, &[1]));
        }
        // A scale with a row for each token.
        is_refused(|model| norm(model, -1, &[3, WIDTH]));
    }
    // Further outputs are those of the same rows.
    for index in [0, 1, 2] {
        packs(|model| {
            let scale = model.wave(&[WIDTH]);
            model.nodes(17, "LayerNormalization", &[], &[model.rows, scale], 3)[index]
        });
    }
    for index in [0, 1, 2, 3] {
        packs(|model| {
            let scale = model.wave(&[WIDTH]);
            let skip = model.node("Neg", &[], &[model.rows]);
            let skip = model.node("Exp", &[], &[skip]);
            model.nodes(17, "SkipLayerNormalization", &[], &[model.rows, skip, scale], 4)[index]
        });
    }
    is_refused(|model| {
        let (scale, skip) = (model.wave(&[WIDTH]), model.wave(&[3, WIDTH]));
        model.node("SkipLayerNormalization", &[], &[model.rows, skip, scale])
    });
}

#[test]
fn reductions_go_along_rows_or_along_sequences() {
    for name in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp"] {
        for keepdims in [0, 1] {
            packs(|model| {
                let rows = model.reduce(name, &[-1], keepdims);
                model.node("Abs", &[], &[rows])
            });
            is_refused(|model| model.reduce(name, &[0], keepdims));
            is_refused(|model| model.reduce(name, &[1, 2], keepdims));
            is_refused(|model| model.reduce(name, &[], keepdims));
        }
    }
    for name in ["ReduceSum", "ReduceMean", "ReduceMax"] {
        packs(|model| model.reduce(name, &[1], 0));
        packs(|model| model.reduce(name, &[-2], 1));
    }
    for name in ["ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceProd"] {
        is_refused(|model| model.reduce(name, &[1], 0));
    }
    // Reduced over tokens, a square of tokens looks as if it had been reduced over its last dimension.
    is_refused(|model| {
        let row = model.reduce("ReduceSum", &[-1], 1);
        let shape = model.node("Shape", &[], &[model.token_ids]);
        let (one, two) = (model.vector(&[1]), model.vector(&[2]));
        let len = model.node("Slice", &[], &[shape, one, two]);
        let shape = model.node("Concat", &[("axis", Attribute::Int(0))], &[shape, len]);
        let square = model.node("Expand", &[], &[row, shape]);
        let attributes = [("axes", ints(&[1])), ("keepdims", Attribute::Int(0))];
        model.nodes(12, "ReduceMin", &attributes, &[square], 1)[0]
    });
}

#[test]
fn gathers_are_from_tables_of_rows_or_of_first_tokens() {
    let gather = |model: &mut Model, axis: i64, index: Array| {
        let index = model.constant(index);
        model.node("Gather", &[("axis", Attribute::Int(axis))], &[model.rows, index])
    };
    packs(|model| gather(model, 1, Array::scalar(0i64)));
    packs(|model| gather(model, -1, Array::vector(vec![3i64, 0, 0])));
    packs(|model| {
        let one = gather(model, 2, Array::scalar(1i64));
        model.node("Abs", &[], &[one])
    });
    for index in [Array::scalar(1i64), Array::scalar(-1i64), Array::vector(vec![0i64])] {
        is_refused(|model| gather(model, 1, index));
    }
    is_refused(|model| gather(model, 0, Array::scalar(0i64)));
    // A column of a table for each token.
    is_refused(|model| {
        let table = model.wave(&[WIDTH, 16]);
        model.node("Gather", &[("axis", Attribute::Int(1))], &[table, model.token_ids])
    });
}

#[test]
fn factors_are_the_same_for_all_tokens() {
    for shape in [&[WIDTH, 3][..], &[1, WIDTH, 3]] {
        packs(|model| {
            let factor = model.wave(shape);
            model.node("MatMul", &[], &[model.rows, factor])
        });
    }
    is_refused(|model| {
        let factor = model.wave(&[2, WIDTH, 3]);
        model.node("MatMul", &[], &[model.rows, factor])
    });
    is_refused(|model| {
        let factor = model.wave(&[5, 3]);
        model.node("MatMul", &[], &[factor, model.rows])
    });
    for (shape, is_same) in
        [(&[WIDTH][..], true), (&[1, 1, 1], true), (&[3, WIDTH], false), (&[2, 1, 1], false)]
    {
        let add = |model: &mut Model| {
            let constant = model.wave(shape);
            model.node("Add", &[], &[model.rows, constant])
        };
        if is_same { packs(add) } else { is_refused(add) }
    }
}

#[test]
fn scales_are_the_same_for_all_tokens() {
    for (axis, shape, is_same) in
        [(1, &[][..], true), (1, &[1], true), (2, &[WIDTH], true), (-1, &[WIDTH], true), (1, &[3], false)]
    {
        let quantize = |model: &mut Model| {
            let len = shape.iter().product();
            let scale = model.wave(shape);
            let zero = model.constant(Array::new::<u8>(shape, vec![100; len]).unwrap());
            let attributes = [("axis", Attribute::Int(axis))];
            let quantized = model.node("QuantizeLinear", &attributes, &[model.rows, scale, zero]);
            model.node("DequantizeLinear", &attributes, &[quantized, scale, zero])
        };
        if is_same { packs(quantize) } else { is_refused(quantize) }
    }
}

#[test]
fn what_is_expanded_stays_in_its_place() {
    let shape = |model: &mut Model, batch: i64| {
        let shape = model.node("Shape", &[], &[model.token_ids]);
        let batch = model.vector(&[batch]);
        model.node("Concat", &[("axis", Attribute::Int(0))], &[batch, shape])
    };
    // [batch_size, seq_len] put into a larger shape is somewhere else.
    is_refused(|model| {
        let sums = model.reduce("ReduceSum", &[-1], 0);
        let shape = shape(model, 2);
        model.node("Expand", &[], &[sums, shape])
    });
    is_refused(|model| {
        let sums = model.reduce("ReduceSum", &[-1], 0);
        let own = model.node("Shape", &[], &[model.token_ids]);
        let twice = model.node("Concat", &[("axis", Attribute::Int(0))], &[own, own]);
        let expanded = model.node("Expand", &[], &[sums, twice]);
        model.node("Neg", &[], &[expanded])
    });
}

#[test]
fn other_operators_are_not_packed() {
    is_refused(|model| model.node("Trilu", &[], &[model.rows]));
    is_refused(|model| model.node("Transpose", &[("perm", ints(&[0, 2, 1]))], &[model.rows]));
    is_refused(|model| {
        let index = model.node("ArgMax", &[("axis", Attribute::Int(1))], &[model.rows]);
        model.node("Cast", &[("to", Attribute::Int(1))], &[index])
    });
    is_refused(|model| {
        let axis = model.constant(Array::scalar(1i64));
        model.node("CumSum", &[], &[model.rows, axis])
    });
    is_refused(|model| {
        let two = model.vector(&[1]);
        model.nodes(17, "TopK", &[("axis", Attribute::Int(1))], &[model.rows, two], 2)[0]
    });
    is_refused(|model| {
        let (scale, bias) = (model.wave(&[3]), model.wave(&[3]));
        model.node("InstanceNormalization", &[], &[model.rows, scale, bias])
    });
}

#[test]
fn inputs_have_types_that_hold_what_they_are_for() {
    let declared = |role: usize, dtype: DataType| {
        let mut graph = Graph::default();
        let ids: Vec<ValueId> = (0..4)
            .map(|index| {
                let dtype = if index == role { dtype } else { DataType::I64 };
                graph.add_input(format!("{index}"), Some(Info::unknown(dtype)))
            })
            .collect();
        let roles = Roles {
            token_ids: ids[0],
            attention_mask: Some(ids[1]),
            type_ids: Some(ids[2]),
            positions: Some(ids[3]),
        };
        declare(&mut graph, &roles).is_ok()
    };
    use DataType::{Bool, F32, I32, I64, String, U8};
    for (role, dtypes) in
        [(0, &[I32, I64][..]), (1, &[I32, I64, Bool, F32, U8]), (2, &[I32, I64, U8]), (3, &[I32, I64])]
    {
        for dtype in [Bool, F32, I32, I64, String, U8] {
            assert_eq!(declared(role, dtype), dtypes.contains(&dtype), "input {role} of {dtype}");
        }
    }
}

/// Two heads of two numbers, `[batch_size, 2, seq_len, 2]`, of a linear layer of the rows.
fn heads(model: &mut Model) -> ValueId {
    let weight = model.wave(&[WIDTH, WIDTH]);
    let rows = model.node("MatMul", &[], &[model.rows, weight]);
    let shape = model.vector(&[0, 0, 2, 2]);
    let split = model.node("Reshape", &[], &[rows, shape]);
    model.node("Transpose", &[("perm", ints(&[0, 2, 1, 3]))], &[split])
}

/// Attention of two heads under a mask of padding, its heads side by side.
fn attend(model: &mut Model, [queries, keys, values]: [ValueId; 3]) -> ValueId {
    let keys = model.node("Transpose", &[("perm", ints(&[0, 1, 3, 2]))], &[keys]);
    let scores = model.node("MatMul", &[], &[queries, keys]);
    let is_real = model.node("Cast", &[("to", Attribute::Int(9))], &[model.mask]);
    let axes = model.vector(&[1, 2]);
    let is_real = model.node("Unsqueeze", &[], &[is_real, axes]);
    let hidden = model.constant(Array::scalar(f32::MIN));
    let scores = model.node("Where", &[], &[is_real, scores, hidden]);
    let weights = model.node("Softmax", &[("axis", Attribute::Int(-1))], &[scores]);
    let sums = model.node("MatMul", &[], &[weights, values]);
    let sums = model.node("Transpose", &[("perm", ints(&[0, 2, 1, 3]))], &[sums]);
    let shape = model.vector(&[0, 0, -1]);
    model.node("Reshape", &[], &[sums, shape])
}

#[test]
fn heads_may_be_in_any_order_and_shared() {
    for order in [[0, 1], [1, 0], [1, 1]] {
        packs(|model| {
            let [queries, keys, values] = [(); 3].map(|()| heads(model));
            let order = model.vector(&order);
            let axis = [("axis", Attribute::Int(1))];
            let [keys, values] = [keys, values].map(|heads| model.node("Gather", &axis, &[heads, order]));
            attend(model, [queries, keys, values])
        });
    }
}

#[test]
fn heads_may_be_normalised_before_they_attend() {
    packs(|model| {
        let [queries, keys] = [(); 2].map(|()| {
            let shape = model.vector(&[0, 0, 2, 2]);
            let split = model.node("Reshape", &[], &[model.rows, shape]);
            let norm = model.node("LpNormalization", &[], &[split]);
            model.node("Transpose", &[("perm", ints(&[0, 2, 1, 3]))], &[norm])
        });
        let values = heads(model);
        attend(model, [queries, keys, values])
    });
}

#[test]
fn keys_of_other_tokens_are_no_keys() {
    let parameters = |model: &mut Model| [-1, i64::MIN, 2, -1].map(|value| model.vector(&[value]));
    for backwards in 0..3 {
        is_refused(|model| {
            let mut operands = [(); 3].map(|()| heads(model));
            let parameters = parameters(model);
            operands[backwards] =
                model.node("Slice", &[], &[&[operands[backwards]], &parameters[..]].concat());
            attend(model, operands)
        });
    }
    // Half of a token and half of the one on its other side.
    is_refused(|model| {
        let [queries, keys, values] = [(); 3].map(|()| heads(model));
        let parameters = parameters(model);
        let backwards = model.node("Slice", &[], &[&[keys], &parameters[..]].concat());
        let keys = model.node("Add", &[], &[keys, backwards]);
        attend(model, [queries, keys, values])
    });
}

#[test]
fn attention_of_one_node_is_packed() {
    packs(|model| {
        let operands = [(); 3].map(|()| {
            let weight = model.wave(&[WIDTH, WIDTH]);
            model.node("MatMul", &[], &[model.rows, weight])
        });
        let bias = model.wave(&[3 * WIDTH]);
        let inputs = [&operands[..], &[bias]].concat();
        model.node("MultiHeadAttention", &[("num_heads", Attribute::Int(2))], &inputs)
    });
    for (is_causal, softcap, is_packed) in [(0, 0.0, true), (1, 0.0, true), (0, 3.0, false)] {
        let attention = |model: &mut Model| {
            let operands = [(); 3].map(|()| heads(model));
            let attributes =
                [("is_causal", Attribute::Int(is_causal)), ("softcap", Attribute::Float(softcap))];
            let sums = model.nodes(23, "Attention", &attributes, &operands, 1)[0];
            let sums = model.node("Transpose", &[("perm", ints(&[0, 2, 1, 3]))], &[sums]);
            let shape = model.vector(&[0, 0, -1]);
            model.node("Reshape", &[], &[sums, shape])
        };
        if is_packed { packs(attention) } else { is_refused(attention) }
    }
}

#[test]
fn sizes_of_what_tokens_select_depend_on_tokens() {
    let depends_of = |select: &dyn Fn(&mut Model) -> ValueId| {
        let mut model = Model::new();
        let value = select(&mut model);
        let size = model.node("Size", &[], &[value]);
        let infos = model.graph.infer(&[]).unwrap();
        let roles = Roles {
            token_ids: model.token_ids,
            attention_mask: Some(model.mask),
            type_ids: None,
            positions: None,
        };
        dependencies(&model.graph, &infos, &roles)[size.index()]
    };
    assert_eq!(depends_of(&|model| model.rows), depends::SIZES);
    assert_eq!(depends_of(&|model| model.node("NonZero", &[], &[model.token_ids])), depends::TOKENS);
    assert_eq!(depends_of(&|model| model.node("NonZero", &[], &[model.mask])), depends::MASK);
}

#[test]
fn long_windows_are_seen() {
    for size in [64, 4096] {
        let mut model = Model::new();
        let shape = model.node("Shape", &[], &[model.token_ids]);
        let index = model.constant(Array::scalar(1i64));
        let len = model.node("Gather", &[], &[shape, index]);
        let [zero, one] = [0i64, 1].map(|value| model.constant(Array::scalar(value)));
        let keys = model.node("Range", &[], &[zero, len, one]);
        let axis = model.vector(&[1]);
        let queries = model.node("Unsqueeze", &[], &[keys, axis]);
        let distances = model.node("Sub", &[], &[queries, keys]);
        let distances = model.node("Abs", &[], &[distances]);
        let size_of = model.constant(Array::scalar(size as i64));
        let is_near = model.node("LessOrEqual", &[], &[distances, size_of]);
        let is_real = model.node("Cast", &[("to", Attribute::Int(9))], &[model.mask]);
        let axes = model.vector(&[1, 2]);
        let is_real = model.node("Unsqueeze", &[], &[is_real, axes]);
        let seen = model.node("And", &[], &[is_real, is_near]);
        let infos = model.graph.infer(&[]).unwrap();
        let found = mask::meaning(&model.graph, &infos, Some(model.mask), seen, mask::Kind::Seen, None);
        assert_eq!(found, Ok(mask::Meaning::Window(size)));
    }
}

/// Products of queries and keys of two heads, `[batch_size, 2, seq_len, seq_len]`.
fn scores(model: &mut Model) -> ValueId {
    let heads = model.vector(&[0, 0, 2, 2]);
    let mut turned = |order: &[i64]| {
        let weight = model.wave(&[WIDTH, WIDTH]);
        let bias = model.wave(&[WIDTH]);
        let rows = model.node("MatMul", &[], &[model.rows, weight]);
        let rows = model.node("Add", &[], &[rows, bias]);
        let rows = model.node("Sin", &[], &[rows]);
        let rows = model.node("Reshape", &[], &[rows, heads]);
        model.node("Transpose", &[("perm", ints(order))], &[rows])
    };
    let (queries, keys) = (turned(&[0, 2, 1, 3]), turned(&[0, 2, 3, 1]));
    let product = model.node("MatMul", &[], &[queries, keys]);
    let root = model.constant(Array::scalar(1.4f32));
    model.node("Div", &[], &[product, root])
}

fn first_token(model: &mut Model, probabilities: ValueId) -> ValueId {
    model.graph.add_node("first token", FirstTokenAttention, &[probabilities])
}

#[test]
fn what_the_first_token_pays_is_packed_behind_a_plain_softmax() {
    let softmax = |model: &mut Model, scores, axis| {
        let scores = model.node("Softmax", &[("axis", Attribute::Int(axis))], &[scores]);
        first_token(model, scores)
    };
    packs(|model| {
        let scores = scores(model);
        softmax(model, scores, 3)
    });
    is_refused(|model| {
        let scores = scores(model);
        softmax(model, scores, 2)
    });
    is_refused(|model| {
        let scores = scores(model);
        first_token(model, scores)
    });
    // Of the transposed probabilities the first row is what the first token is paid.
    is_refused(|model| {
        let scores = scores(model);
        let scores = model.node("Softmax", &[("axis", Attribute::Int(3))], &[scores]);
        let scores = model.node("Transpose", &[("perm", ints(&[0, 1, 3, 2]))], &[scores]);
        first_token(model, scores)
    });
    is_refused(|model| {
        let scores = scores(model);
        let doubled = model.node("Mul", &[], &[scores, scores]);
        softmax(model, doubled, 3)
    });
}

//! Cuts and joins: along rows, and those that leave out the first token of each sequence, behind which what treats rows
//! alike is packed.

use super::*;

/// `[start..end..step]` along an axis.
fn slice(model: &mut Model, x: ValueId, axis: i64, [start, end, step]: [i64; 3]) -> ValueId {
    let parameters = [start, end, axis, step].map(|value| model.vector(&[value]));
    model.node("Slice", &[], &[&[x], &parameters[..]].concat())
}

/// Rows of all tokens but the first.
fn but_first(model: &mut Model) -> ValueId {
    slice(model, model.rows, 1, [1, i64::MAX, 1])
}

#[track_caller]
fn layout(build: impl FnOnce(&mut Model) -> ValueId) -> OutputLayout {
    let mut model = Model::new();
    let output = build(&mut model);
    model.graph.outputs = vec![output];
    let roles = Roles {
        token_ids: model.token_ids,
        attention_mask: Some(model.mask),
        type_ids: None,
        positions: None,
    };
    pack(&model.graph, &roles, &[output], Precision::F32, false).unwrap().1[0]
}

#[test]
fn cuts_and_joins_go_along_rows() {
    let slice = |model: &mut Model, axis, range| slice(model, model.rows, axis, range);
    packs(|model| slice(model, -1, [1, 3, 1]));
    packs(|model| slice(model, 2, [-1, i64::MIN, -1]));
    // The order of tokens backwards has the shape of the tokens.
    is_refused(|model| slice(model, 1, [-1, i64::MIN, -1]));
    is_refused(|model| slice(model, 0, [1, i64::MAX, 1]));
    is_refused(|model| slice(model, 1, [0, 1, 1]));
    let attributes = |axes: &[i64]| {
        let ends = vec![2; axes.len()];
        [("starts", ints(&vec![0; axes.len()])), ("ends", ints(&ends)), ("axes", ints(axes))]
    };
    packs(|model| model.nodes(9, "Slice", &attributes(&[2]), &[model.rows], 1)[0]);
    is_refused(|model| model.nodes(9, "Slice", &attributes(&[1]), &[model.rows], 1)[0]);
    is_refused(|model| model.nodes(9, "Slice", &attributes(&[1])[..2], &[model.rows], 1)[0]);

    for (axis, is_of_rows) in [(-1, true), (2, true), (1, false), (0, false), (-3, false)] {
        let join = |model: &mut Model| {
            let other = model.node("Neg", &[], &[model.rows]);
            model.node("Concat", &[("axis", Attribute::Int(axis))], &[model.rows, other])
        };
        let split = |model: &mut Model| {
            model.nodes(17, "Split", &[("axis", Attribute::Int(axis))], &[model.rows], 2)[1]
        };
        if is_of_rows {
            packs(join);
            packs(split);
        } else {
            is_refused(join);
            is_refused(split);
        }
    }
}

#[test]
fn rows_are_treated_alike_behind_the_cut() {
    assert_eq!(layout(but_first), OutputLayout::TokensButFirst);
    packs(but_first);
    // Before version 10, ranges are attributes.
    packs(|model| {
        let attributes =
            [("starts", ints(&[0, 1])), ("ends", ints(&[i64::MAX, i64::MAX])), ("axes", ints(&[2, 1]))];
        model.nodes(9, "Slice", &attributes, &[model.rows], 1)[0]
    });
    // All of an axis is no cut.
    assert_eq!(layout(|model| slice(model, model.rows, 0, [0, i64::MAX, 1])), OutputLayout::Tokens);
    packs(|model| {
        let all = slice(model, model.rows, 0, [0, i64::MAX, 1]);
        slice(model, all, 1, [1, i64::MAX, 1])
    });
    packs(|model| {
        let (rows, weight) = (but_first(model), model.wave(&[WIDTH, 3]));
        let bias = model.wave(&[3]);
        let rows = model.node("MatMul", &[], &[rows, weight]);
        let rows = model.node("Add", &[], &[rows, bias]);
        // The mask is cut alike.
        let mask = slice(model, model.mask, 1, [1, i64::MAX, 1]);
        let axis = model.vector(&[2]);
        let mask = model.node("Cast", &[("to", Attribute::Int(1))], &[mask]);
        let mask = model.node("Unsqueeze", &[], &[mask, axis]);
        let rows = model.node("Mul", &[], &[rows, mask]);
        // Unit length, as PyTorch's exporter writes it.
        let attributes = [("axes", ints(&[-1])), ("keepdims", Attribute::Int(1))];
        let norm = model.nodes(17, "ReduceL2", &attributes, &[rows], 1)[0];
        let least = model.constant(Array::new::<f32>([0usize; 0], vec![1e-12]).unwrap());
        let norm = model.node("Clip", &[], &[norm, least]);
        let shape = model.node("Shape", &[], &[rows]);
        let norm = model.node("Expand", &[], &[norm, shape]);
        model.node("Div", &[], &[rows, norm])
    });
}

#[test]
fn other_cuts_are_refused() {
    for range in [[0, -1, 1], [2, i64::MAX, 1], [1, -1, 1], [-1, 0, -1], [-1, i64::MIN, -1], [1, i64::MAX, 2]]
    {
        is_refused(|model| slice(model, model.rows, 1, range));
    }
    is_refused(|model| slice(model, model.rows, 0, [1, i64::MAX, 1]));
    // The first two.
    is_refused(|model| {
        let rows = but_first(model);
        slice(model, rows, 1, [1, i64::MAX, 1])
    });
}

#[test]
fn what_mixes_tokens_is_refused_behind_the_cut() {
    for name in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"] {
        for keepdims in [0, 1] {
            is_refused(|model| {
                let attributes = [("axes", ints(&[1])), ("keepdims", Attribute::Int(keepdims))];
                let rows = but_first(model);
                model.nodes(12, name, &attributes, &[rows], 1)[0]
            });
        }
    }
    is_refused(|model| {
        let rows = but_first(model);
        model.node("Softmax", &[("axis", Attribute::Int(1))], &[rows])
    });
    // The second token.
    is_refused(|model| {
        let index = model.constant(Array::new::<i64>([0usize; 0], vec![0]).unwrap());
        let rows = but_first(model);
        model.node("Gather", &[("axis", Attribute::Int(1))], &[rows, index])
    });
    // Rows of other tokens.
    is_refused(|model| {
        let rows = but_first(model);
        let last = slice(model, model.rows, 1, [0, -1, 1]);
        model.node("Add", &[], &[rows, last])
    });
    is_refused(|model| {
        let rows = but_first(model);
        model.node("Concat", &[("axis", Attribute::Int(1))], &[model.rows, rows])
    });
    is_refused(|model| {
        let (rows, shape) = (but_first(model), model.vector(&[-1, WIDTH as i64]));
        model.node("Reshape", &[], &[rows, shape])
    });
}

/// Whether a graph that cannot be packed has rows of all tokens but the first.
fn is_proven(build: impl FnOnce(&mut Model, ValueId) -> ValueId) -> bool {
    let mut model = Model::new();
    // What is done to tokens before the cut is of no interest.
    let mixed = model.node("Softmax", &[("axis", Attribute::Int(1))], &[model.rows]);
    let output = build(&mut model, mixed);
    model.graph.outputs = vec![output];
    let roles = Roles {
        token_ids: model.token_ids,
        attention_mask: Some(model.mask),
        type_ids: None,
        positions: None,
    };
    pack(&model.graph, &roles, &[output], Precision::F32, false).expect_err("it mixes tokens");
    crate::packing::but_first::check(&model.graph, &roles, output).is_ok()
}

#[test]
fn the_cut_is_proven_where_the_rest_is_not_packed() {
    assert!(is_proven(|model, mixed| {
        let rows = slice(model, mixed, 1, [1, i64::MAX, 1]);
        model.node("Tanh", &[], &[rows])
    }));
    assert!(!is_proven(|model, mixed| slice(model, mixed, 1, [0, -1, 1])));
    assert!(!is_proven(|_, mixed| mixed));
    assert!(!is_proven(|model, mixed| {
        let rows = slice(model, mixed, 1, [1, i64::MAX, 1]);
        model.node("Softmax", &[("axis", Attribute::Int(1))], &[rows])
    }));
    assert!(!is_proven(|model, mixed| {
        let rows = slice(model, mixed, 1, [1, i64::MAX, 1]);
        let others = slice(model, mixed, 1, [0, -1, 1]);
        model.node("Mul", &[], &[rows, others])
    }));
}

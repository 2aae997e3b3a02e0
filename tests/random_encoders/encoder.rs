//! Random text encoders: what exporters write, and the same along other axes.

use super::model::{Attribute::Int, Attribute::Ints, BOOL, F32, Model};

/// Ids are below this.
pub(super) const VOCABULARY: usize = 23;
/// Sequences are at most this long.
pub(super) const MAX_LEN: usize = 9;
const HIDDEN: usize = 8;
const HEADS: usize = 2;

/// A graph, by the choices that made it.
pub(super) struct Encoder {
    pub(super) file: Vec<u8>,
    pub(super) inputs: Vec<&'static str>,
    /// Its nodes.
    pub(super) text: String,
}

/// The encoder of these choices: fewer or smaller ones make a simpler encoder.
pub(super) fn encoder(choices: &[u8]) -> Encoder {
    let mut maker = Maker { model: Model::default(), choices: choices.iter(), seed: 1, reads_mask: false };
    let table = maker.weights(&[VOCABULARY, HIDDEN], 1.0);
    let mut x = maker.model.node("Gather", &[&table, "input_ids"], &[]);
    if maker.choose(2) == 1 {
        x = maker.positions(&x);
    }
    let layers = 1 + maker.choose(4);
    for _ in 0..layers {
        x = maker.layer(&x);
    }
    let output = maker.pooling(&x);
    let inputs = if maker.reads_mask { vec!["input_ids", "attention_mask"] } else { vec!["input_ids"] };
    let text = maker.model.lines.join("\n");
    Encoder { file: maker.model.file(&inputs, &output), inputs, text }
}

struct Maker<'a> {
    model: Model,
    choices: std::slice::Iter<'a, u8>,
    seed: u32,
    reads_mask: bool,
}

impl Maker<'_> {
    /// A choice among so many; the first where choices have run out.
    fn choose(&mut self, among: u8) -> u8 {
        self.choices.next().map_or(0, |choice| choice % among)
    }

    fn weights(&mut self, shape: &[usize], scale: f32) -> String {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                // Knuth's multiplicative generator, whose high bits are good enough for weights.
                self.seed = self.seed.wrapping_mul(2_891_336_453).wrapping_add(12_345);
                ((self.seed >> 16) as f32 / 32_768.0 - 1.0) * scale
            })
            .collect();
        self.model.floats(shape, &values)
    }

    fn unsqueezed(&mut self, x: &str, axes: &[i64]) -> String {
        let axes = self.model.ints(&[axes.len()], axes);
        self.model.node("Unsqueeze", &[x, &axes], &[])
    }

    /// The embeddings of positions, added.
    fn positions(&mut self, x: &str) -> String {
        let table = self.weights(&[MAX_LEN, HIDDEN], 0.5);
        let shape = self.model.node("Shape", &["input_ids"], &[]);
        let rows = if self.choose(2) == 0 {
            let one = self.model.ints(&[], &[1]);
            let len = self.model.node("Gather", &[&shape, &one], &[]);
            let zero = self.model.ints(&[], &[0]);
            let range = self.model.node("Range", &[&zero, &len, &one], &[]);
            self.model.node("Gather", &[&table, &range], &[])
        } else {
            let (one, zero) = (self.model.ints(&[1], &[1]), self.model.ints(&[1], &[0]));
            let len = self.model.node("Gather", &[&shape, &one], &[]);
            self.model.node("Slice", &[&table, &zero, &len, &zero], &[])
        };
        let rows = if self.choose(2) == 0 { self.unsqueezed(&rows, &[0]) } else { rows };
        self.model.node("Add", &[x, &rows], &[])
    }

    fn layer(&mut self, x: &str) -> String {
        // Two thirds of the layers are what encoders are made of, or nothing would run packed.
        let kind = if self.choose(3) < 2 { self.choose(6) } else { self.choose(21) };
        match kind {
            0 => self.linear(x, HIDDEN, HIDDEN),
            1 | 2 => {
                let y = self.attention(x);
                let y = self.linear(&y, HIDDEN, HIDDEN);
                let sum = self.model.node("Add", &[&y, x], &[]);
                self.norm(&sum)
            }
            3 => {
                let y = self.linear(x, HIDDEN, 2 * HIDDEN);
                let y = self.activation(&y);
                let y = self.linear(&y, 2 * HIDDEN, HIDDEN);
                self.model.node("Add", &[&y, x], &[])
            }
            4 => self.norm(x),
            5 => self.activation(x),
            6 => {
                let axis = [-1, 2, 1, -2, 0][usize::from(self.choose(5))];
                let name = ["Softmax", "LogSoftmax"][usize::from(self.choose(2))];
                self.model.node(name, &[x], &[("axis", Int(axis))])
            }
            7 => {
                let mean = self.reduced(x, 1);
                let name = ["Sub", "Add", "Mul", "Max"][usize::from(self.choose(4))];
                self.model.node(name, &[x, &mean], &[])
            }
            8 => {
                let axis = [1, 2, -1, 0][usize::from(self.choose(4))];
                let axis = self.model.ints(&[], &[axis]);
                let flags =
                    [("exclusive", Int(self.choose(2).into())), ("reverse", Int(self.choose(2).into()))];
                self.model.node("CumSum", &[x, &axis], &flags)
            }
            9 => self.shifted(x),
            10 => self.reversed(x),
            11 => {
                let shape = self.model.node("Shape", &[x], &[]);
                let flat = self.model.ints(&[2], &[-1, HIDDEN as i64]);
                let rows = self.model.node("Reshape", &[x, &flat], &[]);
                let rows = self.linear(&rows, HIDDEN, HIDDEN);
                let rows = if self.choose(3) == 2 { self.norm(&rows) } else { rows };
                self.model.node("Reshape", &[&rows, &shape], &[])
            }
            12 => {
                let mask = self.mask_column();
                self.model.node("Mul", &[x, &mask], &[])
            }
            13 => {
                let first = self.first_token(x, true);
                self.model.node("Add", &[x, &first], &[])
            }
            14 => {
                let turned = self.model.node("Transpose", &[x], &[("perm", Ints(&[0, 2, 1]))]);
                let axis = [-1, 1][usize::from(self.choose(2))];
                let y = self.model.node("Softmax", &[&turned], &[("axis", Int(axis))]);
                self.model.node("Transpose", &[&y], &[("perm", Ints(&[0, 2, 1]))])
            }
            15 => self.whole_layer_norm(x),
            16 => {
                let turned = self.model.node("Transpose", &[x], &[("perm", Ints(&[1, 0, 2]))]);
                let y = self.linear(&turned, HIDDEN, HIDDEN);
                let y = if self.choose(2) == 1 {
                    self.model.node("Softmax", &[&y], &[("axis", Int(0))])
                } else {
                    y
                };
                self.model.node("Transpose", &[&y], &[("perm", Ints(&[1, 0, 2]))])
            }
            17 => {
                // Interleaves rows of heads, or of tokens.
                let split = self.model.ints(&[4], &[0, 0, HEADS as i64, (HIDDEN / HEADS) as i64]);
                let heads = self.model.node("Reshape", &[x, &split], &[]);
                let axis = [-1, 2, 3, 1][usize::from(self.choose(4))];
                let y = self.model.node("Softmax", &[&heads], &[("axis", Int(axis))]);
                let merge = self.model.ints(&[3], &[0, 0, HIDDEN as i64]);
                self.model.node("Reshape", &[&y, &merge], &[])
            }
            18 => {
                let axis = [-1, 1, 2][usize::from(self.choose(3))];
                let p = 1 + i64::from(self.choose(2));
                self.model.node("LpNormalization", &[x], &[("axis", Int(axis)), ("p", Int(p))])
            }
            19 => {
                let norm = self.reduced(x, 0);
                let (least, norm) = (self.model.number(0.5), self.model.node("Abs", &[&norm], &[]));
                let norm = self.model.node("Max", &[&norm, &least], &[]);
                self.model.node("Div", &[x, &norm], &[])
            }
            _ => {
                // A constant for each position.
                let weights = self.weights(&[1, MAX_LEN, HIDDEN], 1.0);
                let (zero, one) = (self.model.ints(&[1], &[0]), self.model.ints(&[1], &[1]));
                let shape = self.model.node("Shape", &[x], &[]);
                let len = self.model.node("Gather", &[&shape, &one], &[]);
                let rows = self.model.node("Slice", &[&weights, &zero, &len, &one], &[]);
                self.model.node("Mul", &[x, &rows], &[])
            }
        }
    }

    /// A reduction to one number of each row, or along some other axis; dimensions are kept.
    fn reduced(&mut self, x: &str, first: usize) -> String {
        let axes: &[i64] = [&[-1][..], &[1], &[2], &[-2], &[1, 2], &[0], &[-1, 1]]
            [(usize::from(self.choose(7)) + first) % 7];
        let name = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"][usize::from(self.choose(4))];
        self.model.node(name, &[x], &[("axes", Ints(axes)), ("keepdims", Int(1))])
    }

    fn linear(&mut self, x: &str, from: usize, to: usize) -> String {
        let (weight, bias) = (self.weights(&[from, to], 0.6), self.weights(&[to], 0.5));
        let y = self.model.node("MatMul", &[x, &weight], &[]);
        match self.choose(3) {
            0 => self.model.node("Add", &[&y, &bias], &[]),
            1 => self.model.node("Add", &[&bias, &y], &[]),
            _ => y,
        }
    }

    fn activation(&mut self, x: &str) -> String {
        match self.choose(4) {
            0 => self.model.node("Tanh", &[x], &[]),
            1 => self.model.node("Relu", &[x], &[]),
            2 => {
                let gate = self.model.node("Sigmoid", &[x], &[]);
                self.model.node("Mul", &[x, &gate], &[])
            }
            _ => {
                let root = self.model.number(std::f32::consts::SQRT_2);
                let scaled = self.model.node("Div", &[x, &root], &[]);
                let erf = self.model.node("Erf", &[&scaled], &[]);
                let (one, half) = (self.model.number(1.0), self.model.number(0.5));
                let plus = self.model.node("Add", &[&erf, &one], &[]);
                let product = self.model.node("Mul", &[x, &plus], &[]);
                self.model.node("Mul", &[&product, &half], &[])
            }
        }
    }

    /// Layer normalisation over rows, mostly.
    fn norm(&mut self, x: &str) -> String {
        let (weight, bias) = (self.weights(&[HIDDEN], 1.0), self.weights(&[HIDDEN], 0.3));
        let axes: &[i64] = if self.choose(5) == 4 { &[1] } else { &[-1] };
        if self.choose(2) == 0 && axes == [-1] {
            return self.model.node("LayerNormalization", &[x, &weight, &bias], &[("axis", Int(-1))]);
        }
        let reduction = [("axes", Ints(axes)), ("keepdims", Int(1))];
        let mean = self.model.node("ReduceMean", &[x], &reduction);
        let difference = self.model.node("Sub", &[x, &mean], &[]);
        let two = self.model.number(2.0);
        let square = self.model.node("Pow", &[&difference, &two], &[]);
        let variance = self.model.node("ReduceMean", &[&square], &reduction);
        let epsilon = self.model.number(1e-3);
        let stable = self.model.node("Add", &[&variance, &epsilon], &[]);
        let deviation = self.model.node("Sqrt", &[&stable], &[]);
        let quotient = self.model.node("Div", &[&difference, &deviation], &[]);
        let scaled = self.model.node("Mul", &[&quotient, &weight], &[]);
        self.model.node("Add", &[&scaled, &bias], &[])
    }

    /// The standard's layer normalisation, over rows or over all tokens of a text.
    fn whole_layer_norm(&mut self, x: &str) -> String {
        let (weight, bias) = (self.weights(&[HIDDEN], 1.0), self.weights(&[HIDDEN], 0.3));
        let axis = [-1, -2, 1, 2][usize::from(self.choose(4))];
        self.model.node("LayerNormalization", &[x, &weight, &bias], &[("axis", Int(axis))])
    }

    /// The mask as `[batch_size, seq_len, 1]` of numbers.
    fn mask_column(&mut self) -> String {
        self.reads_mask = true;
        let mask = self.unsqueezed("attention_mask", &[-1]);
        self.model.node("Cast", &[&mask], &[("to", Int(F32.into()))])
    }

    /// Each token's row beside, or in place of, the row before it.
    fn shifted(&mut self, x: &str) -> String {
        let axis = [1, 2][usize::from(self.choose(2))];
        let ints = |maker: &mut Self, value| maker.model.ints(&[1], &[value]);
        let (zero, one, last, axes) = (ints(self, 0), ints(self, 1), ints(self, -1), ints(self, axis));
        let first = self.model.node("Slice", &[x, &zero, &one, &axes], &[]);
        let rest = self.model.node("Slice", &[x, &zero, &last, &axes], &[]);
        self.model.node("Concat", &[&first, &rest], &[("axis", Int(axis))])
    }

    fn reversed(&mut self, x: &str) -> String {
        let axis = [1, 2, -2, -1][usize::from(self.choose(4))];
        let ints = |maker: &mut Self, value| maker.model.ints(&[1], &[value]);
        let (start, end, axes, step) =
            (ints(self, -1), ints(self, i64::MIN), ints(self, axis), ints(self, -1));
        self.model.node("Slice", &[x, &start, &end, &axes, &step], &[])
    }

    /// The row of each text's first token, or of another.
    fn first_token(&mut self, x: &str, is_kept: bool) -> String {
        let index = [0, 0, -1][usize::from(self.choose(3))];
        if is_kept {
            let index = self.model.ints(&[1], &[index]);
            return self.model.node("Gather", &[x, &index], &[("axis", Int(1))]);
        }
        let index = self.model.ints(&[], &[index]);
        self.model.node("Gather", &[x, &index], &[("axis", Int(1))])
    }

    fn heads(&mut self, x: &str, perm: &[i64]) -> String {
        let shape = self.model.ints(&[4], &[0, 0, HEADS as i64, (HIDDEN / HEADS) as i64]);
        let split = self.model.node("Reshape", &[x, &shape], &[]);
        self.model.node("Transpose", &[&split], &[("perm", Ints(perm))])
    }

    fn attention(&mut self, x: &str) -> String {
        let parts = [0; 3].map(|_| self.linear(x, HIDDEN, HIDDEN));
        let queries = self.heads(&parts[0], &[0, 2, 1, 3]);
        let keys = self.heads(&parts[1], &[0, 2, 3, 1]);
        let values = self.heads(&parts[2], &[0, 2, 1, 3]);
        let product = self.model.node("MatMul", &[&queries, &keys], &[]);
        let root = self.model.number(((HIDDEN / HEADS) as f32).sqrt());
        let scores = self.model.node("Div", &[&product, &root], &[]);
        let scores = self.masked(&scores);
        let axis = if self.choose(6) == 5 { 2 } else { -1 };
        let weights = self.model.node("Softmax", &[&scores], &[("axis", Int(axis))]);
        let mixed = self.model.node("MatMul", &[&weights, &values], &[]);
        let turned = self.model.node("Transpose", &[&mixed], &[("perm", Ints(&[0, 2, 1, 3]))]);
        let shape = self.model.ints(&[3], &[0, 0, HIDDEN as i64]);
        self.model.node("Reshape", &[&turned, &shape], &[])
    }

    /// Scores of which padding is hidden, in one of the ways of saying so.
    fn masked(&mut self, scores: &str) -> String {
        let kind = self.choose(6);
        if kind == 0 {
            return scores.to_owned();
        }
        self.reads_mask = true;
        let mask = self.unsqueezed("attention_mask", &[1, 2]);
        let (lowest, one) = (self.model.number(-1e9), self.model.number(1.0));
        if kind <= 2 {
            let numbers = self.model.node("Cast", &[&mask], &[("to", Int(F32.into()))]);
            let hidden = self.model.node("Sub", &[&one, &numbers], &[]);
            let bias = self.model.node("Mul", &[&hidden, &lowest], &[]);
            return self.model.node("Add", &[scores, &bias], &[]);
        }
        if kind <= 4 {
            let seen = self.model.node("Cast", &[&mask], &[("to", Int(BOOL.into()))]);
            return self.model.node("Where", &[&seen, scores, &lowest], &[]);
        }
        // Not a mask: scores are scaled by it, and tokens that are real see each other a little more.
        let numbers = self.model.node("Cast", &[&mask], &[("to", Int(F32.into()))]);
        self.model.node("Add", &[scores, &numbers], &[])
    }

    fn pooling(&mut self, x: &str) -> String {
        match self.choose(9) {
            0 | 1 => self.model.node("Identity", &[x], &[]),
            2 => self.first_token(x, false),
            3 => {
                let mask = self.mask_column();
                let mask = if self.choose(2) == 1 {
                    let shape = self.model.node("Shape", &[x], &[]);
                    self.model.node("Expand", &[&mask, &shape], &[])
                } else {
                    mask
                };
                let product = self.model.node("Mul", &[x, &mask], &[]);
                let sum = self.summed(&product);
                let count = self.summed(&mask);
                let least = self.model.number(1e-9);
                let count = self.model.node("Max", &[&count, &least], &[]);
                self.model.node("Div", &[&sum, &count], &[])
            }
            4 => {
                let name = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"][usize::from(self.choose(4))];
                self.model.node(name, &[x], &[("axes", Ints(&[1])), ("keepdims", Int(0))])
            }
            5 => {
                let name = ["ReduceMean", "ReduceMax"][usize::from(self.choose(2))];
                let pooled = self.model.node(name, &[x], &[("axes", Ints(&[1])), ("keepdims", Int(0))]);
                let pooled = self.linear(&pooled, HIDDEN, HIDDEN);
                let axis = [-1, 0, 1][usize::from(self.choose(3))];
                self.model.node("Softmax", &[&pooled], &[("axis", Int(axis))])
            }
            6 => {
                let pooled = self.first_token(x, false);
                let axes: &[i64] = [&[-1][..], &[1], &[0]][usize::from(self.choose(3))];
                let norm =
                    self.model.node("ReduceL2", &[&pooled], &[("axes", Ints(axes)), ("keepdims", Int(1))]);
                self.model.node("Div", &[&pooled, &norm], &[])
            }
            7 => {
                let mask = self.mask_column();
                let seen = self.model.node("Cast", &[&mask], &[("to", Int(BOOL.into()))]);
                let lowest = self.model.number(-1e9);
                let hidden = self.model.node("Where", &[&seen, x, &lowest], &[]);
                self.model.node("ReduceMax", &[&hidden], &[("axes", Ints(&[1])), ("keepdims", Int(0))])
            }
            _ => {
                let axis = i64::from(self.choose(2));
                let pooled =
                    self.model.node("ReduceMean", &[x], &[("axes", Ints(&[1])), ("keepdims", Int(0))]);
                let pooled = self.model.node("Softmax", &[&pooled], &[("axis", Int(axis))]);
                self.linear(&pooled, HIDDEN, HIDDEN)
            }
        }
    }

    fn summed(&mut self, x: &str) -> String {
        let axes = self.model.ints(&[1], &[1]);
        self.model.node("ReduceSum", &[x, &axes], &[("keepdims", Int(0))])
    }
}

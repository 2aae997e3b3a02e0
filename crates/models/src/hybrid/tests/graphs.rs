//! Graphs that give all three embeddings: exports of BGE-M3 in small, and tiny graphs with something wrong.

use candlewick_engine::{ImportOptions, ImportPlan};

use super::*;

const EXPORTS: [&str; 3] = ["model.onnx", "model_dynamo.onnx", "model_optimized.onnx"];

fn export(name: &str) -> LoadOptions {
    LoadOptions::new().weights(fixture().join("onnx").join(name))
}

#[test]
fn all_three_are_flag_embeddings() {
    let (texts, reference) = (super::texts(), Reference::read());
    for name in EXPORTS {
        let model = HybridModel::from_folder(&fixture(), export(name)).unwrap();
        assert_eq!((model.dim(), model.multi_vector_dim()), (24, 24), "{name}");
        let embeddings = model.embed(&texts, TextRole::Plain).unwrap();
        reference.check_dense(&dense(&embeddings));
        reference.check_sparse(&sparse(&embeddings));
        reference.check_multi_vector(&multi_vector(&embeddings));
        for (text, together) in texts.iter().zip(&embeddings) {
            assert_eq!(&model.embed(&[text], TextRole::Query).unwrap()[0], together, "{name}: {text}");
        }
    }
}

#[test]
fn exports_run_packed() {
    for name in EXPORTS {
        let options = ["dense_vecs", "sparse_vecs", "colbert_vecs"].map(str::to_owned);
        let mut import = ImportOptions::default();
        import.outputs = options.to_vec();
        let plan = ImportPlan::read(&fixture().join("onnx").join(name), &import).unwrap();
        assert_eq!(plan.unpacked_because(), None, "{name}");
    }
}

#[test]
fn one_run_gives_all() {
    check_one_pass(export("model.onnx"));
}

/// A folder with a graph and a tokenizer, and nothing else that says what it is.
fn folder_of(graph: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"] {
        fs::copy(fixture().join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), graph).unwrap();
    folder
}

#[test]
fn a_graph_needs_nothing_beside_it() {
    let folder = folder_of(&fs::read(fixture().join("onnx/model.onnx")).unwrap());
    let (folder, texts, reference) = (folder.path(), super::texts(), Reference::read());
    let model = HybridModel::from_folder(folder, LoadOptions::new()).unwrap();
    let together = model.embed(&texts, TextRole::Plain).unwrap();
    reference.check_dense(&dense(&together));
    let alone = DenseModel::from_folder(folder, LoadOptions::new()).unwrap();
    assert_eq!(alone.embed(&texts, TextRole::Plain).unwrap(), dense(&together));
    let alone = SparseModel::from_folder(folder, LoadOptions::new()).unwrap();
    assert_eq!(alone.embed(&texts, TextRole::Plain).unwrap(), sparse(&together));
    let alone = LateInteractionModel::from_folder(folder, LoadOptions::new()).unwrap();
    for role in [TextRole::Passage, TextRole::Query] {
        assert_eq!(alone.embed(&texts, role).unwrap(), multi_vector(&together));
    }
    // A name is a choice of one.
    let alone =
        DenseModel::from_folder(folder, LoadOptions::new().output("dense_vecs").normalize(true)).unwrap();
    assert_eq!(alone.embed(&texts, TextRole::Plain).unwrap(), dense(&together));
}

/// A field of a protocol buffer that holds bytes.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let (content, mut bytes) = (content.as_ref(), vec![number << 3 | 2]);
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// A graph whose hidden states are rows of a table of tokens: what is wrong with it is said in fields.
struct Export<'a> {
    /// Names of outputs; a node writes each of `dense`, `sparse`, `colbert` and `hidden`.
    outputs: &'a [&'a str],
    /// Tokens from here to there have vectors.
    range: [i64; 2],
    /// Of which hidden states are multiplied, sparse weights and tokens' vectors made.
    scales: [f32; 3],
    /// Whether tokens are mixed in a way that no encoder has.
    mixed: bool,
}

const EXPORT: Export<'static> =
    Export { outputs: &["dense", "sparse", "colbert"], range: [1, i64::MAX], scales: [1.0; 3], mixed: false };

const WIDTH: usize = 3;

impl Export<'_> {
    fn bytes(&self) -> Vec<u8> {
        let value = |number: u8, name: &str, elem_type: u8, dims: &[&str]| {
            let dims: Vec<u8> = dims.iter().flat_map(|name| field(1, field(2, name))).collect();
            let tensor = [vec![0x08, elem_type], field(2, dims)].concat();
            field(number, [field(1, name), field(2, field(1, tensor))].concat())
        };
        let node = |operator: &str, inputs: &[&str], output: &str, axis: Option<u8>| {
            let inputs: Vec<u8> = inputs.iter().flat_map(|name| field(1, name)).collect();
            let axis =
                axis.map(|axis| field(5, [field(1, "axis"), vec![0x18, axis], vec![0xa0, 0x01, 2]].concat()));
            field(1, [inputs, field(2, output), field(4, operator), axis.unwrap_or_default()].concat())
        };
        let constant = |name: &str, dims: &[u16], data_type: u8, data: Vec<u8>| {
            let dims: Vec<u8> =
                dims.iter().flat_map(|dim| [0x08, (dim & 0x7f) as u8 | 0x80, (dim >> 7) as u8]).collect();
            field(5, [dims, vec![0x10, data_type], field(8, name), field(9, data)].concat())
        };
        let floats =
            |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let ints = |value: i64| value.to_le_bytes().to_vec();
        let table: Vec<f32> = (0..274 * WIDTH).map(|index| (index as f32 * 0.7).sin()).collect();
        let [hidden, sparse, colbert] = self.scales;
        let mut graph = [
            value(11, "input_ids", 7, &["batch", "length"]),
            value(11, "attention_mask", 7, &["batch", "length"]),
            constant("table", &[274, WIDTH as u16], 1, floats(&table)),
            constant("scale", &[1], 1, floats(&[hidden])),
            constant("to_sparse", &[WIDTH as u16, 1], 1, floats(&[sparse, 0.5, -0.5])),
            constant("to_colbert", &[WIDTH as u16, WIDTH as u16], 1, floats(&[colbert; WIDTH * WIDTH])),
            constant("zero", &[], 7, ints(0)),
            constant("from", &[1], 7, ints(self.range[0])),
            constant("to", &[1], 7, ints(self.range[1])),
            constant("axes", &[1], 7, ints(1)),
            node("Gather", &["table", "input_ids"], "rows", Some(0)),
            node("Mul", &["rows", "scale"], if self.mixed { "scaled" } else { "hidden" }, None),
        ]
        .concat();
        if self.mixed {
            graph.extend(node("Softmax", &["scaled"], "hidden", Some(1)));
        }
        let heads = [
            node("Gather", &["hidden", "zero"], "dense", Some(1)),
            node("MatMul", &["hidden", "to_sparse"], "weights", None),
            node("Relu", &["weights"], "sparse", None),
            node("Slice", &["hidden", "from", "to", "axes"], "kept", None),
            node("MatMul", &["kept", "to_colbert"], "colbert", None),
        ];
        graph.extend(heads.concat());
        graph.extend(self.outputs.iter().flat_map(|name| value(12, name, 1, &[])));
        [vec![0x08, 8], field(7, graph), field(8, [0x10, 17])].concat()
    }

    #[track_caller]
    fn check_error(&self, expected: &[&str]) {
        let folder = folder_of(&self.bytes());
        super::check_error(folder.path(), &[&["model.onnx"], expected].concat());
    }
}

#[test]
fn graphs_that_cannot_be_packed_give_all_in_one_run_too() {
    for (mixed, outputs) in
        [(false, EXPORT.outputs), (true, EXPORT.outputs), (true, &["colbert", "dense", "sparse"])]
    {
        let folder = folder_of(&Export { mixed, outputs, ..EXPORT }.bytes());
        let options = || LoadOptions::new().batch_tokens(1 << 20);
        let mut model = HybridModel::from_folder(folder.path(), options()).unwrap();
        let forwards = Arc::new(AtomicUsize::new(0));
        model.model.wrap_encoders(|encoder| Arc::new(Counting(encoder, forwards.clone())));
        let texts = &texts()[..3];
        let together = model.embed(texts, TextRole::Plain).unwrap();
        assert_eq!(forwards.load(Ordering::Relaxed), 1);
        for (text, together) in texts.iter().zip(&together) {
            assert_eq!(&model.embed(&[text], TextRole::Query).unwrap()[0], together, "{text}");
            let tokens = model.token_count(&[text]).unwrap();
            assert_eq!(together.multi_vector.as_ref().unwrap().len(), tokens - 1);
            // The graph itself does not normalise.
            let norm: f32 = together.dense.as_ref().unwrap().iter().map(|value| value * value).sum();
            assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        }
        let alone = SparseModel::from_folder(folder.path(), options()).unwrap();
        assert_eq!(alone.embed(texts, TextRole::Plain).unwrap(), sparse(&together));
    }
}

#[test]
fn the_first_token_has_no_vector_whether_the_graph_leaves_it_out_or_not() {
    let embed = |range| {
        let folder = folder_of(&Export { range, ..EXPORT }.bytes());
        let model = HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
        model.embed(&texts(), TextRole::Plain).unwrap()
    };
    assert_eq!(embed([0, i64::MAX]), embed([1, i64::MAX]));
}

#[test]
fn outputs_that_are_missing_are_said_at_load() {
    for (outputs, expected) in [
        (&["dense", "sparse"], "none of them is the multi-vector embedding"),
        (&["sparse", "colbert"], "none of them is the dense embedding"),
        (&["dense", "colbert"], "none of them is the sparse embedding"),
    ] {
        let export = Export { outputs, ..EXPORT };
        export.check_error(&[
            expected,
            &format!("`{}` [batch_size, ", outputs[0]),
            &format!("`{}` [", outputs[1]),
        ]);
    }
    // Who wants what is there gets it.
    let folder = folder_of(&Export { outputs: &["dense", "sparse"], ..EXPORT }.bytes());
    fs::copy(fixture().join("sparse_linear.pt"), folder.path().join("sparse_linear.pt")).unwrap();
    SparseModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    let outputs = &["dense", "sparse", "colbert", "hidden"];
    let folder = folder_of(&Export { outputs, ..EXPORT }.bytes());
    HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    // A name tells which of two.
    let outputs = &["dense", "sparse", "colbert", "kept"];
    let folder = folder_of(&Export { outputs, ..EXPORT }.bytes());
    HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    Export { outputs: &["dense", "sparse", "hidden", "rows"], ..EXPORT }.check_error(&[
        "it is open which of them is the multi-vector embedding",
        "`rows` [batch_size, seq_len, 3]",
    ]);
}

#[test]
fn vectors_of_strange_tokens_are_refused() {
    for mixed in [false, true] {
        let export = |range| Export { range, mixed, ..EXPORT };
        let shape = "`colbert` [batch_size, max(seq_len - 2, 0), 3]";
        export([2, i64::MAX]).check_error(&["none of them is the multi-vector embedding", shape]);
        export([0, 1])
            .check_error(&["none of them is the multi-vector embedding", "`colbert` [batch_size, "]);
        // As many as all but the first, but all but the last.
        export([0, -1]).check_error(&["output `colbert`", "may not be those of all tokens but the first"]);
    }
}

#[test]
fn what_is_no_number_is_found_at_load() {
    for mixed in [false, true] {
        let export = |scales| Export { scales, mixed, ..EXPORT };
        export([1.0, f32::NAN, 1.0]).check_error(&["output `sparse`: it is NaN"]);
        export([1.0, 1.0, f32::NAN]).check_error(&["output `colbert`: it is NaN"]);
        export([1.0, 1.0, f32::INFINITY]).check_error(&["output `colbert`: it is "]);
        export([f32::NAN, 1.0, 1.0]).check_error(&["output `dense`: it is NaN"]);
    }
    // It is not looked for before the weights are read.
    let folder = folder_of(&Export { scales: [1.0, f32::NAN, 1.0], ..EXPORT }.bytes());
    let model = HybridModel::from_folder(folder.path(), LoadOptions::new().lazy_load(true)).unwrap();
    let error = model.embed(&["a"], TextRole::Plain).unwrap_err().to_string();
    assert!(error.contains("output `sparse`: it is NaN"), "{error}");
}

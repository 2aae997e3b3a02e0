//! ONNX files against ONNX Runtime's outputs of the same files.
//!
//! Each file runs in two ways: as the graph that it is, on exactly the inputs that ONNX Runtime got, and, where it is a
//! text encoder, as one, on the token ids of each case's texts. The second must give what the first gives for real
//! tokens.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick::Precision;
use candlewick_engine::graph::{Array, DataType, Session};
use candlewick_engine::{Batch, ImportOptions, ImportedEncoder, Int8Scales, TextEncoder, onnx};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{Agreement, Row, Verdict, agreement};

#[derive(Deserialize)]
struct Manifest {
    file: Vec<File>,
}

/// A file and how it came to be.
#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Below the manifest.
    pub path: String,
    reference: String,
    /// The model's architecture, as transformers calls it.
    pub architecture: String,
    /// Which exporter, optimiser and types made it.
    pub dialect: String,
    cases: Vec<String>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    operators: BTreeMap<String, usize>,
}

/// An input or an output.
#[derive(Clone, Debug, Deserialize)]
struct Value {
    name: String,
    /// Numbers, or names of what varies.
    shape: Vec<toml::Value>,
}

/// Cases of texts whose inputs that are a single number have the same values.
struct Choice {
    inputs: BTreeMap<String, f64>,
    cases: Vec<String>,
}

impl File {
    /// The cases of one text, by what is given besides it.
    fn choices(&self, reference: &Tensors) -> Result<Vec<Choice>, String> {
        let is_one = |size: &toml::Value| size.as_integer() == Some(1);
        let numbers: Vec<&Value> =
            self.inputs.iter().filter(|input| input.shape.iter().all(is_one)).collect();
        let mut choices: Vec<Choice> = Vec::new();
        for case in self.cases.iter().filter(|case| case.starts_with("single")) {
            let mut inputs = BTreeMap::new();
            for Value { name, .. } in &numbers {
                let array = reference.get(&format!("{case}.input.{name}"));
                let ints = array.and_then(|array| array.to_ints().ok()).unwrap_or_default();
                let [value] = ints[..] else {
                    return Err(format!("{case}: there is no single number `{name}`"));
                };
                inputs.insert(name.clone(), value as f64);
            }
            match choices.iter_mut().find(|choice| choice.inputs == inputs) {
                Some(choice) => choice.cases.push(case.clone()),
                None => choices.push(Choice { inputs, cases: vec![case.clone()] }),
            }
        }
        Ok(choices)
    }
}

/// The files that a folder's manifest lists.
///
/// # Errors
///
/// When there is no such manifest.
pub fn files(folder: &Path) -> Result<Vec<File>> {
    let path = folder.join("manifest.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let manifest: Manifest = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    Ok(manifest.file)
}

/// Runs a file; what it is compared with lies beside it. A file that was quantised dynamically has a second row, for
/// inputs with a scale for each token.
pub fn verify(folder: &Path, file: &File) -> Vec<Row> {
    let exact = verify_with(folder, file, Int8Scales::Exact);
    let is_text = file.cases.iter().any(|case| case.starts_with("single"));
    if !is_text || !file.operators.keys().any(|name| DYNAMIC.contains(&name.as_str())) {
        return vec![exact];
    }
    vec![exact, verify_with(folder, file, Int8Scales::PerToken)]
}

/// What only files have that were quantised dynamically.
const DYNAMIC: &[&str] = &["DynamicQuantizeLinear", "com.microsoft:DynamicQuantizeMatMul"];

/// The least cosine between rows with a scale for each token and ONNX Runtime's, whose error is the larger one.
const PER_TOKEN_COSINE: f64 = 0.99;

fn verify_with(folder: &Path, file: &File, int8: Int8Scales) -> Row {
    let mut row = Row {
        model: format!("onnx/{}", file.path.trim_end_matches(".onnx")),
        format: "onnx",
        dtype: "graph".to_owned(),
        precision: Precision::F32,
        max_abs: f64::NAN,
        min_cosine: f64::NAN,
        verdict: Verdict::Ok,
    };
    if int8 == Int8Scales::PerToken {
        row.precision = Precision::Int8;
    }
    if let Err(error) = compare(folder, file, int8, &mut row) {
        row.verdict = Verdict::Failed(error);
    }
    row
}

/// How far a file may be from ONNX Runtime: int8 rounds to steps that a last bit can decide.
fn tolerance(file: &File) -> (f64, f64) {
    let has = |words: &[&str]| words.iter().any(|word| file.dialect.contains(word));
    if has(&["4bit-qdq"]) {
        // ONNX Runtime quantises the inputs too, to 8 bits.
        (f64::INFINITY, 0.999)
    } else if has(&["fp16", "bf16"]) {
        (5e-2, 0.999)
    } else if has(&["quantized", "qdq", "qoperator", "per-channel"]) {
        (f64::INFINITY, 0.9999)
    } else {
        (1e-5, 1.0 - 1e-6)
    }
}

type Tensors = BTreeMap<String, Array>;

fn compare(folder: &Path, file: &File, int8: Int8Scales, row: &mut Row) -> Result<(), String> {
    let reference = read(&folder.join(&file.reference)).map_err(|error| format!("{error:#}"))?;
    let (max_abs, min_cosine) = match int8 {
        Int8Scales::PerToken => (f64::INFINITY, PER_TOKEN_COSINE),
        _ => tolerance(file),
    };
    let check = |found: Agreement, what: &str| {
        // NaN fails both.
        let is_close = found.max_abs <= max_abs && found.min_cosine >= min_cosine;
        let problem = format!("{what}: off by {:.1e}, cosine {:.7}", found.max_abs, found.min_cosine);
        if is_close { Ok(()) } else { Err(problem) }
    };
    let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    if int8 == Int8Scales::Exact {
        worst = compare_graph(session_of(folder, file)?, file, &reference)?;
        (row.max_abs, row.min_cosine) = (worst.max_abs, worst.min_cosine);
        check(worst, "the graph")?;
    }
    if reference.keys().any(|name| name.ends_with(".input.pixel_values")) {
        return Ok(());
    }
    let choices = file.choices(&reference)?;
    let mut options = ImportOptions::default();
    options.int8 = int8;
    options.inputs = choices.first().ok_or("there are no cases")?.inputs.clone();
    let encoder = ImportedEncoder::load(&folder.join(&file.path), &options);
    let encoder = encoder.map_err(|error| format!("as an encoder: {error}"))?;
    row.dtype = if encoder.unpacked_because().is_some() { "padded" } else { "packed" }.to_owned();
    let mut encoded = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    for Choice { inputs, cases } in choices {
        let encoder = encoder.with_inputs(&inputs).map_err(|error| format!("{inputs:?}: {error}"))?;
        encoded.merge(compare_encoder(&encoder, file, &cases, &reference)?);
    }
    worst.merge(encoded);
    (row.max_abs, row.min_cosine) = (worst.max_abs, worst.min_cosine);
    check(encoded, "the encoder")
}

fn session_of(folder: &Path, file: &File) -> Result<Session, String> {
    let model = onnx::read(&folder.join(&file.path)).map_err(|error| error.to_string())?;
    Session::new(model.graph).map_err(|error| error.to_string())
}

/// The graph on exactly what ONNX Runtime got.
fn compare_graph(session: Session, file: &File, reference: &Tensors) -> Result<Agreement, String> {
    let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    for case in &file.cases {
        let prefix = format!("{case}.input.");
        let given =
            reference.iter().filter_map(|(name, array)| Some((name.strip_prefix(&prefix)?, array.clone())));
        let outputs = session.run(given).map_err(|error| format!("{case}: {error}"))?;
        for (name, found) in session.output_names().zip(outputs) {
            let Some(expected) = reference.get(&format!("{case}.output.{name}")) else {
                return Err(format!("{case}: there is no reference of `{name}`"));
            };
            let found =
                compare_arrays(&found, expected).ok_or(format!("{case}: `{name}` is of another shape"))?;
            worst.merge(found);
        }
    }
    Ok(worst)
}

/// The encoder on the texts of each of `cases`, which are real tokens under the mask.
fn compare_encoder(
    encoder: &ImportedEncoder,
    file: &File,
    cases: &[String],
    reference: &Tensors,
) -> Result<Agreement, String> {
    let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    let (mut texts, mut alone) = (Vec::new(), Vec::new());
    for case in cases {
        let ints = |name: &str| {
            let array = reference.get(&format!("{case}.input.{name}"))?;
            Some(array.to_ints().ok()?.into_iter().map(|id| id as u32).collect::<Vec<u32>>())
        };
        // An encoder counts positions itself.
        if ints("position_ids").is_some_and(|ids| !ids.iter().copied().eq(0..ids.len() as u32)) {
            continue;
        }
        let ids = ints("input_ids").ok_or("there are no input_ids")?;
        let batch = Batch::pack([(ids.as_slice(), ints("token_type_ids").as_deref())]);
        let found = encoder.forward(&batch.map_err(|error| error.to_string())?);
        let found =
            found.and_then(|rows| Ok(rows.to_vec2::<f32>()?)).map_err(|error| format!("{case}: {error}"))?;
        let expected = expected_rows(encoder, file, reference, case)?;
        worst.merge(agreement(&found, &expected));
        texts.push((ids, ints("token_type_ids")));
        alone.extend(found);
    }
    let together = Batch::pack(texts.iter().map(|(ids, types)| (ids.as_slice(), types.as_deref())))
        .and_then(|batch| Ok(encoder.forward(&batch)?.to_vec2::<f32>()?))
        .map_err(|error| format!("all texts: {error}"))?;
    let bits = |rows: &[Vec<f32>]| rows.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
    if bits(&together) != bits(&alone) {
        return Err("texts have other bits together than alone".to_owned());
    }
    Ok(worst)
}

fn expected_rows(
    encoder: &ImportedEncoder,
    file: &File,
    reference: &Tensors,
    case: &str,
) -> Result<Vec<Vec<f32>>, String> {
    let rank = if encoder.is_pooled() { 2 } else { 3 };
    let output = file.outputs.iter().find_map(|output| {
        let array = reference.get(&format!("{case}.output.{}", output.name))?;
        (array.rank() == rank && array.dtype().is_float()).then_some(array)
    });
    let output = output.ok_or("there is no such output")?;
    let rows = output.to_floats().map_err(|problem| problem.to_string())?;
    Ok(rows.chunks(encoder.hidden_size()).map(<[f32]>::to_vec).collect())
}

fn compare_arrays(found: &Array, expected: &Array) -> Option<Agreement> {
    // References of what ONNX Runtime cannot run are of wider types.
    let is_same_type = found.dtype() == expected.dtype() || found.dtype() == DataType::Bf16;
    if found.shape() != expected.shape() || !is_same_type {
        return None;
    }
    let floats = |array: &Array| match array.to_floats() {
        Ok(values) => Some(values.into_owned()),
        Err(_) => Some(array.to_ints().ok()?.into_iter().map(|value| value as f32).collect()),
    };
    let (found, expected) = (floats(found)?, floats(expected)?);
    if found == expected {
        return Some(Agreement { max_abs: 0.0, min_cosine: 1.0 });
    }
    Some(agreement(&[found], &[expected]))
}

fn read(path: &Path) -> Result<Tensors> {
    let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{}", path.display()))?;
    let array = |view: &safetensors::tensor::TensorView| -> Result<Array> {
        let dtype = match view.dtype() {
            Dtype::F32 => DataType::F32,
            Dtype::F16 => DataType::F16,
            Dtype::BF16 => DataType::Bf16,
            Dtype::F64 => DataType::F64,
            Dtype::I64 => DataType::I64,
            Dtype::I32 => DataType::I32,
            Dtype::BOOL => DataType::Bool,
            Dtype::U8 => DataType::U8,
            Dtype::I8 => DataType::I8,
            other => anyhow::bail!("tensors of {other:?} are not read"),
        };
        Ok(Array::from_le_bytes(dtype, view.shape().to_vec(), view.data().to_vec())?)
    };
    tensors.iter().map(|(name, view)| Ok((name.to_owned(), array(&view)?))).collect()
}

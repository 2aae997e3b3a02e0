//! `cargo xtask verify`: every model against the outputs of its original implementation.
//!
//! Three kinds of evidence. A fixture is a tiny checkpoint with its references, all committed: token ids must
//! be equal, hidden states and embeddings within tolerance. A real model with committed references needs its
//! weights, from the cache or a source. A registry row with published figures (`--all`) is compared as far as
//! these go. Fixtures below `heads` are of sparse, late interaction and hybrid models and of cross-encoders. Weights that cannot be had make a row `unavailable`, never `ok`.
//!
//! Models with references are also run in the precisions below f32, which are no parity but a choice: their rows
//! say how far from the original they are, and fail where that is farther than the precision promises.

pub(crate) mod evidence;
pub mod graphs;
mod heads;
mod real_graphs;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::{Embedding, Error, LoadOptions, ModelSpec, Precision, Registry, State};
use candlewick_models::{DenseModel, TextRole};

pub use evidence::{Provenance, Reference};

/// What to verify.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Also every registry row that has published figures and can be loaded; fetches what is not cached.
    #[arg(long)]
    pub all: bool,
    /// Only fixtures and models whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Instead: a folder of ONNX files of real weights with ONNX Runtime's outputs, as minilm_onnx.py makes it.
    #[arg(long, value_name = "DIR")]
    pub graphs: Option<PathBuf>,
    /// Never touch the network.
    #[arg(long)]
    pub offline: bool,
    /// Where models are cached.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// The fixture or model.
    pub model: String,
    /// The weights' format.
    pub format: &'static str,
    /// The weights' element type, as stored.
    pub dtype: String,
    /// What linear layers computed in.
    pub precision: Precision,
    /// The largest difference of any component.
    pub max_abs: f64,
    /// The smallest cosine of any pair.
    pub min_cosine: f64,
    /// The judgement.
    pub verdict: Verdict,
}

/// The judgement on a model.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Agrees within tolerance.
    Ok,
    /// Does not, and why.
    Failed(String),
    /// Its weights cannot be had.
    Unavailable(String),
}

/// How far found vectors are from expected ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The largest difference of any component; NaN if any component is NaN.
    pub max_abs: f64,
    /// The smallest cosine of any pair; NaN if any component is NaN.
    pub min_cosine: f64,
}

/// Prints the table.
///
/// # Errors
///
/// When a model does not agree with its reference.
pub fn main(options: &Options) -> Result<()> {
    let rows = run(options)?;
    print_table(&rows)?;
    let failed = rows.iter().filter(|row| matches!(row.verdict, Verdict::Failed(_))).count();
    if failed > 0 {
        bail!("{failed} of {} failed", rows.len());
    }
    if !rows.iter().any(|row| row.verdict == Verdict::Ok) {
        bail!("nothing was verified");
    }
    Ok(())
}

/// Verifies, without printing.
///
/// # Errors
///
/// When the evidence itself cannot be read. A model that fails is a row, not an error.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    if let Some(folder) = &options.graphs {
        return real_graphs::rows(folder);
    }
    let is_wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut load_options = LoadOptions::new().threads(1).offline(options.offline);
    load_options.cache_dir.clone_from(&options.cache_dir);
    let mut rows = Vec::new();
    let mut referenced = Vec::new();
    let fixtures = crate::root().join("tests/fixtures");
    for reference in evidence::read_all(&fixtures)? {
        let model = reference.provenance.model.clone();
        if is_wanted(&model) {
            let verify = |precision| verify_reference(&reference, load_options.clone().precision(precision));
            rows.extend(Precision::ALL.map(verify));
        }
        referenced.push(model);
    }
    let graphs = fixtures.join("onnx");
    for file in graphs::files(&graphs)? {
        if is_wanted(&format!("onnx/{}", file.path)) {
            rows.extend(graphs::verify(&graphs, &file));
        }
    }
    rows.extend(heads::rows(&fixtures.join("heads"), is_wanted, &load_options)?);
    for spec in Registry::built_in().models() {
        let has_reference = referenced.iter().any(|name| spec.id.ends_with(name.as_str()));
        let is_loadable = spec.state() == State::Loadable;
        if options.all && spec.reference.is_some() && is_loadable && !has_reference && is_wanted(&spec.id) {
            rows.push(verify_figures(spec, &load_options));
        }
    }
    Ok(rows)
}

/// Compares vectors; more or fewer of them, or of another length, count as NaN.
pub fn agreement(found: &[Embedding], expected: &[Embedding]) -> Agreement {
    let has_same_shape =
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| a.len() == b.len());
    if !has_same_shape {
        return Agreement { max_abs: f64::NAN, min_cosine: f64::NAN };
    }
    let mut agreement = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    for (found, expected) in found.iter().zip(expected) {
        let pairs = || found.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let dot: f64 = pairs().map(|(a, b)| a * b).sum();
        let norms = pairs().map(|(a, _)| a * a).sum::<f64>() * pairs().map(|(_, b)| b * b).sum::<f64>();
        agreement.min_cosine = min_or_nan(agreement.min_cosine, dot / norms.sqrt());
        for (a, b) in pairs() {
            agreement.max_abs = -min_or_nan(-agreement.max_abs, -(a - b).abs());
        }
    }
    agreement
}

impl Agreement {
    /// The worse of both.
    fn merge(&mut self, other: Self) {
        self.max_abs = -min_or_nan(-self.max_abs, -other.max_abs);
        self.min_cosine = min_or_nan(self.min_cosine, other.min_cosine);
    }
}

/// Unlike `f64::min`, NaN wins.
fn min_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

fn verify_reference(reference: &Reference, options: LoadOptions) -> Row {
    let provenance = &reference.provenance;
    let precision = options.precision;
    let mut row = Row {
        model: provenance.model.clone(),
        format: "safetensors",
        dtype: provenance.dtype.clone(),
        precision,
        max_abs: f64::NAN,
        min_cosine: f64::NAN,
        verdict: Verdict::Ok,
    };
    let loaded = if reference.has_weights() {
        let options = match reference.has_modules() {
            true => options,
            // The folder does not say what follows the encoder, so the reference was told.
            false => options.pooling(provenance.pooling).normalize(provenance.normalize),
        };
        DenseModel::from_folder(&reference.folder, options)
    } else {
        DenseModel::load(&provenance.model, options)
    };
    let result = match loaded {
        Ok(model) if precision == Precision::F32 => compare_reference(&model, reference, &mut row),
        Ok(model) => compare_approximation(&model, reference, &mut row),
        Err(error @ Error::Unavailable { .. }) => {
            row.verdict = Verdict::Unavailable(one_line(&error.to_string()));
            return row;
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(problem) = result {
        row.verdict = Verdict::Failed(problem);
    }
    row
}

/// The least cosine between an embedding in this precision and the original's. The fixtures, few and random weights
/// whose roundings do not average out, set it; of the real model's embeddings, bf16 keeps 0.9999 and int8 0.995.
fn cosine_floor(precision: Precision) -> f64 {
    match precision {
        Precision::F16 => 0.99999,
        Precision::Bf16 => 0.9995,
        _ => 0.99,
    }
}

/// Fills in the row's figures; what is farther from the original than the precision promises is the error.
fn compare_approximation(model: &DenseModel, reference: &Reference, row: &mut Row) -> Result<(), String> {
    let found = model.embed(&reference.texts, TextRole::Plain).map_err(|error| error.to_string())?;
    let found = agreement(&found, &reference.embeddings);
    (row.max_abs, row.min_cosine) = (found.max_abs, found.min_cosine);
    let floor = cosine_floor(row.precision);
    let is_close = found.min_cosine >= floor;
    if is_close { Ok(()) } else { Err(format!("{} promises a cosine of {floor}", row.precision)) }
}

/// Fills in the row's figures; what disagrees is the error.
fn compare_reference(model: &DenseModel, reference: &Reference, row: &mut Row) -> Result<(), String> {
    let (texts, tolerance) = (&reference.texts, reference.provenance.tolerance);
    let embed = |role| model.embed(texts, role).map_err(|error| error.to_string());
    let batch = model.tokenize(texts).map_err(|error| error.to_string())?;
    let found = agreement(&embed(TextRole::Plain)?, &reference.embeddings);
    (row.max_abs, row.min_cosine) = (found.max_abs, found.min_cosine);
    found.check("embeddings", tolerance)?;
    if batch.token_ids() != reference.token_ids || batch.cu_seqlens() != reference.cu_seqlens {
        return Err("token ids differ".into());
    }
    if model.max_length() != reference.provenance.max_length {
        let expected = reference.provenance.max_length;
        return Err(format!("reads {} tokens, the original {expected}", model.max_length()));
    }
    let alone: Result<Vec<Vec<Embedding>>, _> =
        texts.iter().map(|text| model.embed(&[text], TextRole::Plain)).collect();
    let alone = alone.map_err(|error| error.to_string())?.concat();
    agreement(&alone, &reference.embeddings).check("embeddings of single texts", tolerance)?;
    if let Some(expected) = &reference.hidden_states {
        let states = model.encoder().map_err(|error| error.to_string())?.forward(&batch);
        let states =
            states.and_then(|states| Ok(states.to_vec2::<f32>()?)).map_err(|error| error.to_string())?;
        // Hidden states are not normalised, and several times larger than an embedding's components.
        agreement(&states, expected).check("hidden states", 2.0 * tolerance)?;
    }
    for (role, expected) in &reference.prompted {
        agreement(&embed(*role)?, expected).check(&format!("{role:?} embeddings"), tolerance)?;
    }
    Ok(())
}

impl Agreement {
    /// NaN fails first, as no comparison with it is true.
    fn check(self, what: &str, tolerance: f64) -> Result<(), String> {
        if self.max_abs.is_nan() || self.min_cosine.is_nan() {
            return Err(format!("{what}: NaN, or another shape"));
        }
        if self.max_abs > tolerance || self.min_cosine < 1.0 - 1e-6 {
            return Err(format!("{what}: off by {:.1e}, cosine {:.7}", self.max_abs, self.min_cosine));
        }
        Ok(())
    }
}

/// Compares a dense model with the figures that its row states.
fn verify_figures(spec: &ModelSpec, options: &LoadOptions) -> Row {
    let mut row = Row {
        model: spec.id.clone(),
        format: "safetensors",
        dtype: "?".into(),
        precision: Precision::F32,
        max_abs: f64::NAN,
        min_cosine: f64::NAN,
        verdict: Verdict::Ok,
    };
    let compared = DenseModel::load(&spec.id, options.clone())
        .map_err(|error| match error {
            Error::Unavailable { .. } => Verdict::Unavailable(one_line(&error.to_string())),
            error => Verdict::Failed(error.to_string()),
        })
        .and_then(|model| compare_figures(&model, spec, &mut row).map_err(Verdict::Failed));
    if let Err(verdict) = compared {
        row.verdict = verdict;
    }
    row
}

/// Fills in the row's figures, the worse of a plain text's and a query's; what disagrees is the error.
fn compare_figures(model: &DenseModel, spec: &ModelSpec, row: &mut Row) -> Result<(), String> {
    let of_roles = [(TextRole::Plain, &spec.reference), (TextRole::Query, &spec.query_reference)];
    let mut worst = Agreement { max_abs: 0.0, min_cosine: 1.0 };
    for (role, figures) in of_roles {
        let Some(figures) = figures else { continue };
        let text = figures.text.as_ref().ok_or("its figures are of no text")?;
        let found = model.embed(&[text], role).map_err(|error| error.to_string())?;
        let length = figures.values.len().min(found[0].len());
        let found = agreement(&[found[0][..length].to_vec()], std::slice::from_ref(&figures.values));
        worst.max_abs = -min_or_nan(-worst.max_abs, -found.max_abs);
        worst.min_cosine = min_or_nan(worst.min_cosine, found.min_cosine);
        (row.max_abs, row.min_cosine) = (worst.max_abs, worst.min_cosine);
        let is_close = found.max_abs <= f64::from(figures.tolerance);
        if !is_close {
            return Err(format!("not the figures of {}", figures.source));
        }
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn print_table(rows: &[Row]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<62} {:<12} {:<6} {:<9} {:>9} {:>12}  verdict",
        "model", "format", "dtype", "precision", "max abs", "min cosine"
    )?;
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let figure = |value: f64, text: String| if value.is_nan() { "-".into() } else { text };
        let (verdict, detail) = match &row.verdict {
            Verdict::Ok => ("ok", String::new()),
            Verdict::Failed(problem) => ("FAILED", format!(": {problem}")),
            Verdict::Unavailable(reason) => ("unavailable", format!(": {reason}")),
        };
        *totals.entry(verdict).or_default() += 1;
        writeln!(
            out,
            "{:<62} {:<12} {:<6} {:<9} {:>9} {:>12}  {verdict}{detail}",
            row.model,
            row.format,
            row.dtype,
            row.precision,
            figure(row.max_abs, format!("{:.1e}", row.max_abs)),
            figure(row.min_cosine, format!("{:.8}", row.min_cosine)),
        )?;
    }
    let totals: Vec<String> = totals.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    writeln!(out, "{}", totals.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_wrong_shapes_never_agree() {
        let expected = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        assert!(agreement(&expected, &expected).check("x", 1e-5).is_ok());
        for wrong in [
            vec![vec![1.0, 0.0], vec![f32::NAN, 1.0]],
            vec![vec![1.0, 0.0]],
            vec![vec![1.0, 0.0], vec![0.0]],
            vec![vec![1.0, 0.0], vec![0.0, 0.0]],
            vec![vec![1.0, 1e-4], vec![0.0, 1.0]],
        ] {
            assert!(agreement(&wrong, &expected).check("x", 1e-5).is_err(), "{wrong:?}");
        }
    }
}

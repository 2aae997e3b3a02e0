//! `candlewick inspect`: what is in an ONNX file, and how it would run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::{EncoderInspection, Inspection, LoadOptions, ValueType};

use crate::args::InspectArgs;
use crate::output::to_stdout;

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let path = find(args)?;
    let mut options = LoadOptions::new().int8(args.int8);
    options.inputs = args.graph_input.iter().cloned().collect();
    let inspection = candlewick::inspect(&path, &options)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&inspection)? + "\n",
        false => table(&inspection),
    };
    Ok(to_stdout(|out| out.write_all(text.as_bytes()))?)
}

/// The file, or the one ONNX file of the folder.
fn find(args: &InspectArgs) -> Result<PathBuf> {
    if !args.path.is_dir() {
        return Ok(args.path.clone());
    }
    let mut files = Vec::new();
    for folder in [args.path.clone(), args.path.join("onnx")] {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "onnx") {
                files.push(path);
            }
        }
    }
    files.sort();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] => bail!("{} has no ONNX file", args.path.display()),
        several => {
            let names: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
            bail!("{} has several ONNX files, name one: {}", args.path.display(), names.join(", "))
        }
    }
}

fn table(inspection: &Inspection) -> String {
    let mut text = format!("{}\n", inspection.file);
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<12} {value}\n"));
    line("producer", &inspection.producer);
    let opsets = inspection.opsets.iter().map(|(domain, version)| format!("{domain} {version}"));
    line("opsets", &opsets.collect::<Vec<_>>().join(", "));
    for input in &inspection.inputs {
        line("input", &value_type(input));
    }
    for output in &inspection.outputs {
        line("output", &value_type(output));
    }
    for (dtype, size) in &inspection.weights {
        line("weights", &format!("{dtype}: {} tensors, {:.1} MB", size.tensors, size.bytes as f64 / 1e6));
    }
    line("operators", &counts(&inspection.operators));
    match &inspection.encoder {
        EncoderInspection::Runs {
            unpacked_because,
            hidden_size,
            is_pooled,
            max_positions,
            operators,
            ..
        } => {
            let rows = if *is_pooled { "text" } else { "token" };
            line("encoder", &format!("one row of {hidden_size} for each {rows}"));
            match unpacked_because {
                None => line("runs", "packed: nothing is computed for padding"),
                Some(reason) => line("runs", &format!("texts of equal length together: {reason}")),
            }
            if let Some(positions) = max_positions {
                line("positions", &positions.to_string());
            }
            line("fused", &counts(operators));
        }
        EncoderInspection::Cannot { reason, .. } => {
            line("encoder", &format!("cannot run as a text encoder: {reason}"))
        }
        _ => {}
    }
    text
}

fn value_type(value: &ValueType) -> String {
    let dtype = value.dtype.as_deref().unwrap_or("?");
    match &value.shape {
        Some(shape) => format!("{}: {dtype} [{}]", value.name, shape.join(", ")),
        None => format!("{}: {dtype}", value.name),
    }
}

fn counts(operators: &BTreeMap<String, usize>) -> String {
    let counts: Vec<String> = operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
    counts.join(", ")
}

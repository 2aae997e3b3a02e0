//! Scratch: `cargo run --example conformance -- DIR [-v] OP...`: official cases whose operators are all among OP...
//! (or all cases that load, without OP). Prints failures, and counts by first operator.
use candlewick_engine::graph::{Array, DataType, Session};
use candlewick_engine::{Error, onnx};
use std::collections::BTreeMap;
use std::path::Path;
fn close(a: &Array, b: &Array, rtol: f64, atol: f64) -> Result<(), String> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Err(format!("got {}{:?}, expected {}{:?}", a.dtype(), a.shape(), b.dtype(), b.shape()));
    }
    let f = |x: &Array| -> Option<Vec<f64>> {
        if x.dtype() == DataType::F64 {
            return x.values::<f64>().ok().map(<[f64]>::to_vec);
        }
        if x.dtype().is_float() {
            return Some(x.to_floats().ok()?.iter().map(|v| f64::from(*v)).collect());
        }
        Some(x.to_ints().ok()?.iter().map(|v| *v as f64).collect())
    };
    match (f(a), f(b)) {
        (Some(x), Some(y)) => {
            for (i, (p, q)) in x.iter().zip(&y).enumerate() {
                let same = p == q || (p.is_nan() && q.is_nan()) || (p - q).abs() <= atol + rtol * q.abs();
                if !same {
                    return Err(format!("element {i}: got {p}, expected {q}"));
                }
            }
            Ok(())
        }
        _ if a == b => Ok(()),
        _ => Err("differs".into()),
    }
}
fn run(dir: &Path, rtol: f64, atol: f64) -> Result<(), String> {
    let model = match onnx::read(&dir.join("model.onnx")) {
        Err(Error::UnsupportedOperators { operators, .. }) => {
            return Err(format!("UNSUPPORTED {}", operators.join(", ")));
        }
        other => other.map_err(|e| format!("read: {e}"))?,
    };
    let session = Session::new(model.graph).map_err(|e| format!("session: {e}"))?;
    for set in 0.. {
        if !dir.join(format!("output_{set}_0.pb")).exists() {
            break;
        }
        let load = |kind: &str, names: Vec<String>| -> Result<Vec<(String, Array)>, String> {
            let mut all = vec![];
            for (i, name) in names.into_iter().enumerate() {
                let path = dir.join(format!("{kind}_{set}_{i}.pb"));
                all.push((name, onnx::read_tensor(&path).map_err(|e| format!("tensor: {e}"))?.1));
            }
            Ok(all)
        };
        let inputs = load("input", session.input_names().map(str::to_owned).collect())?;
        let expected = load("output", session.output_names().map(str::to_owned).collect())?;
        let got = session.run(inputs).map_err(|e| format!("run: {e}"))?;
        for ((name, expected), got) in expected.iter().zip(&got) {
            close(got, expected, rtol, atol).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let verbose = args.iter().any(|a| a == "-v");
    let ops: Vec<&str> = args[1..].iter().map(String::as_str).filter(|a| *a != "-v").collect();
    let mut counts: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let mut dirs: Vec<_> = std::fs::read_dir(&args[0]).unwrap().map(|d| d.unwrap().path()).collect();
    dirs.sort();
    std::panic::set_hook(Box::new(|_| {}));
    for dir in dirs {
        let text = std::fs::read_to_string(dir.join("case.txt")).unwrap();
        let mut lines = text.lines();
        let used: Vec<&str> = lines.next().unwrap().split(' ').collect();
        if !ops.is_empty() && !used.iter().any(|o| ops.contains(o)) {
            continue;
        }
        let tol: Vec<f64> = lines.next().unwrap().split(' ').map(|x| x.parse().unwrap()).collect();
        let result = std::panic::catch_unwind(|| run(&dir, tol[0], tol[1]))
            .unwrap_or_else(|e| Err(format!("PANIC {:?}", e.downcast_ref::<String>())));
        let entry = counts.entry(used.join("+")).or_default();
        match &result {
            Ok(()) => entry.0 += 1,
            Err(e) if e.starts_with("UNSUPPORTED") => entry.2 += 1,
            Err(_) => entry.1 += 1,
        }
        if let Err(e) = result {
            if verbose || !e.starts_with("UNSUPPORTED") {
                if !ops.is_empty() || !e.starts_with("UNSUPPORTED") {
                    println!("{}: {e}", dir.file_name().unwrap().to_string_lossy());
                }
            }
        }
    }
    let total = counts.values().fold((0, 0, 0), |t, c| (t.0 + c.0, t.1 + c.1, t.2 + c.2));
    for (op, (ok, bad, un)) in &counts {
        if *ok + *bad > 0 {
            println!("{op}: {ok} passed, {bad} failed, {un} unsupported");
        }
    }
    println!("total: {} passed, {} failed, {} unsupported", total.0, total.1, total.2);
}

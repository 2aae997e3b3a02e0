//! Running this program's own work under `valgrind --tool=callgrind`.
//!
//! Collecting is toggled by the name of a function. Where it can be, instrumentation is off until the work begins
//! as well, which takes minutes off loading a model: that needs one of callgrind's client requests, a sequence
//! of instructions that does nothing on a processor and that valgrind recognises.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use super::record::Tools;
use super::work::COUNTED_SYMBOL;

/// The instructions of a piece of work.
///
/// # Errors
///
/// When valgrind or the work fails, or nothing was collected.
pub(super) fn count(work: &str) -> Result<u64> {
    let program = std::env::current_exe().context("could not find this program's own file")?;
    let folder = crate::root().join("target/callgrind");
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let file = folder.join(format!("{}.out", work.replace(' ', "-")));
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--instr-atstart={}", if CAN_START_INSTRUMENTATION { "no" } else { "yes" }))
        .arg(format!("--toggle-collect={COUNTED_SYMBOL}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["instructions", "--work", work]);
    check(&output(&mut valgrind)?)?;
    read_total(&file)
}

const CAN_START_INSTRUMENTATION: bool = cfg!(target_arch = "x86_64");

/// CALLGRIND_START_INSTRUMENTATION of callgrind.h. Does nothing outside of valgrind.
pub(super) fn start_instrumentation() {
    #[cfg(target_arch = "x86_64")]
    {
        // VG_USERREQ_TOOL_BASE('C', 'T') + 4, and five arguments, which this request has none of.
        let request: [u64; 6] = [0x4354_0004, 0, 0, 0, 0, 0];
        // SAFETY: valgrind.h's sequence for amd64. The rotations add up to 128, so rdi is what it was; rbx is
        // exchanged with itself. Valgrind reads the six words at rax and writes its answer to rdx.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") request.as_ptr(),
                inout("rdx") 0u64 => _,
                options(nostack),
            );
        }
    }
}

/// What the counts depend on, beside the code.
///
/// # Errors
///
/// When valgrind or rustc is not there.
pub(super) fn tools() -> Result<Tools> {
    let version = |program: &str| -> Result<String> {
        let output = output(Command::new(program).arg("--version"))?;
        check(&output)?;
        // "valgrind-3.19.0", "rustc 1.95.0 (59807616e 2026-04-14)"
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.trim_start_matches(program).trim_start_matches(['-', ' ']);
        Ok(version.split_whitespace().next().unwrap_or_default().to_owned())
    };
    Ok(Tools {
        arch: std::env::consts::ARCH.to_owned(),
        rustc: version("rustc")?,
        valgrind: version("valgrind")?,
    })
}

fn output(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().with_context(|| match program.as_str() {
        "valgrind" => "could not start valgrind, which counts the instructions: is it installed?".into(),
        _ => format!("could not start {program}"),
    })
}

fn check(output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn read_total(file: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    let total = total(&text).with_context(|| format!("{} has no total", file.display()))?;
    ensure!(total > 0, "callgrind never saw the function {COUNTED_SYMBOL}");
    Ok(total)
}

/// Format: <https://valgrind.org/docs/manual/cl-format.html>; the only event is Ir, instructions read.
fn total(text: &str) -> Option<u64> {
    let totals =
        |line: &str| line.strip_prefix("totals:").or(line.strip_prefix("summary:"))?.trim().parse().ok();
    text.lines().find_map(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_valgrind_the_request_does_nothing() {
        let before = [1, 2, 3].map(std::hint::black_box);
        start_instrumentation();
        assert_eq!(before, [1, 2, 3]);
    }

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("version: 1\nevents: Ir\nfn=(1) f\n0 7\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("events: Ir\nsummary: 5\n"), Some(5));
        assert_eq!(total("events: Ir\n"), None);
    }
}

//! `cargo xtask instructions`: how many instructions fixed pieces of work take, counted by callgrind.
//!
//! Seconds on a shared machine differ by more than most regressions; counts of instructions do not. They say
//! nothing about caches and little about vector width: valgrind has no AVX-512 and hides it from CPUID, so what
//! is counted are the AVX2 paths. A change that costs instructions there is worth a look, no more; speed itself
//! is measured by `cargo xtask roofline` and `compare`.
//!
//! Each piece of work is done in a process of its own. It is prepared and done once outside the count, so that
//! loading, detection of the processor and first allocations are left out.

mod callgrind;
mod record;
mod work;

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};

use record::{Record, Verdict};
use work::Work;

/// What to count.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only work whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Write the counts to xtask/instructions.toml instead of comparing with it.
    #[arg(long)]
    bless: bool,
    /// Count everything so often, and print how far the counts are apart.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Do this work, under callgrind.
    #[arg(long, value_name = "NAME", hide = true)]
    work: Option<String>,
}

/// A piece of work, counted.
struct Row {
    name: &'static str,
    /// The fewest of all runs.
    count: u64,
    /// From the fewest to the most, relative to the fewest.
    spread: f64,
    /// What is committed.
    expected: Option<u64>,
    verdict: Verdict,
}

/// Counts, prints, and compares or blesses.
///
/// # Errors
///
/// When valgrind is missing, work cannot be done, or takes more instructions than are committed.
pub fn main(options: &Options) -> Result<()> {
    if let Some(name) = &options.work {
        return Work::find(name)?.run();
    }
    ensure!(
        !cfg!(debug_assertions),
        "the committed counts are those of a release build: use `cargo xtask`, which makes one"
    );
    let all: Vec<Work> = Work::all().into_iter().filter(|work| work.name.contains(&options.only)).collect();
    ensure!(!all.is_empty(), "no work's name contains `{}`", options.only);
    let tools = callgrind::tools()?;
    let mut record = Record::read(&Record::path())?;
    let mut out = std::io::stdout().lock();
    let differing = record.differing_tools(&tools);
    if !options.bless && !differing.is_empty() {
        writeln!(out, "The committed counts are of other tools: {}.\n", differing.join(", "))?;
    }
    heading(&mut out)?;
    let mut rows = Vec::new();
    for work in &all {
        let row = count(work, &record, options.runs)?;
        print(&mut out, &row)?;
        out.flush()?;
        rows.push(row);
    }
    if options.bless {
        record.bless(tools, rows.iter().map(|row| (row.name.to_owned(), row.count)));
        // Work that no longer exists is forgotten.
        let names: Vec<&str> = Work::all().iter().map(|work| work.name).collect();
        record.retain(&names);
        record.write(&Record::path())?;
        writeln!(out, "\nWritten to xtask/instructions.toml.")?;
        return Ok(());
    }
    check(&rows, record.tolerance())
}

fn count(work: &Work, record: &Record, runs: u32) -> Result<Row> {
    work.provide().with_context(|| format!("could not prepare `{}`", work.name))?;
    let counts: Vec<u64> = (0..runs)
        .map(|_| callgrind::count(work.name))
        .collect::<Result<_>>()
        .with_context(|| format!("could not count the instructions of `{}`", work.name))?;
    let (fewest, most) = (*counts.iter().min().context("one run at least")?, counts.iter().max());
    let spread = most.map_or(0.0, |&most| (most - fewest) as f64 / fewest as f64);
    let expected = record.count(work.name);
    Ok(Row { name: work.name, count: fewest, spread, expected, verdict: record.verdict(work.name, fewest) })
}

fn heading(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "| work | instructions | runs differ by | committed | change | verdict |\n|---|---:|---:|---:|---:|---|"
    )
}

fn print(out: &mut impl Write, row: &Row) -> std::io::Result<()> {
    let change = row.expected.map(|expected| 100.0 * (row.count as f64 / expected as f64 - 1.0));
    writeln!(
        out,
        "| {} | {} | {:.4} % | {} | {} | {} |",
        row.name,
        grouped(row.count),
        100.0 * row.spread,
        row.expected.map_or_else(|| "-".into(), grouped),
        change.map_or_else(|| "-".into(), |change| format!("{change:+.2} %")),
        row.verdict,
    )
}

fn check(rows: &[Row], tolerance: f64) -> Result<()> {
    let named = |verdict: Verdict| -> Vec<&str> {
        rows.iter().filter(|row| row.verdict == verdict).map(|row| row.name).collect()
    };
    let (regressions, unknown) = (named(Verdict::Regression), named(Verdict::New));
    if !regressions.is_empty() {
        bail!(
            "more instructions than committed, by over {:.1} %: {} (`--bless` commits to them)",
            100.0 * tolerance,
            regressions.join(", ")
        );
    }
    if !unknown.is_empty() {
        bail!("no count is committed of {} (`--bless` adds it)", unknown.join(", "));
    }
    Ok(())
}

/// Digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!([7, 123, 1234, 1_234_567].map(grouped), ["7", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn regressions_and_unknown_work_fail() {
        let row = |verdict| Row { name: "linear", count: 2, spread: 0.0, expected: Some(1), verdict };
        assert!(check(&[row(Verdict::Ok), row(Verdict::Fewer)], 0.03).is_ok());
        let error = check(&[row(Verdict::Regression)], 0.03).unwrap_err().to_string();
        assert!(error.contains("3.0 %") && error.contains("linear"), "{error}");
        assert!(check(&[row(Verdict::New)], 0.03).unwrap_err().to_string().contains("no count"));
    }
}

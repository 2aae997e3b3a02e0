//! The table, and what one must know to read it.

use std::io::{self, Write};

use anyhow::{Context, Result};

use super::setting::Setting;
use super::stats::{median, percentile, range, speedups};
use super::{Figures, Race, Row, machine};
use crate::corpus;

/// Prints everything to standard output.
pub(super) fn print(race: &Race, setting: &Setting) -> Result<()> {
    let mut out = io::stdout().lock();
    let write = |out: &mut io::StdoutLock<'_>| {
        facts(out, &race.rows, setting)?;
        table(out, &race.rows, setting)?;
        legend(out)?;
        for library in ["fastembed", "sentence-transformers"] {
            best_of(out, library, &race.rows)?;
        }
        disturbances(out, race)
    };
    write(&mut out).context("could not write to standard output")
}

fn facts(out: &mut impl Write, rows: &[Row], setting: &Setting) -> io::Result<()> {
    writeln!(out, "machine   {}", machine::describe())?;
    writeln!(out, "versions  {}", versions(rows).join(", "))?;
    writeln!(
        out,
        "model     {}, f32, {} threads, at most {} tokens of a text",
        setting.spec.id, setting.threads, setting.max_length
    )?;
    let lengths: Vec<f64> = setting.lengths.iter().map(|&length| length as f64).collect();
    let texts = lengths.len() as f64;
    let cut = setting.lengths.iter().filter(|&&length| length > setting.max_length).count() as f64;
    writeln!(
        out,
        "corpus    {} doc comments of {} crates, fingerprint {:016x}; tokens of a text: mean {:.1}, median {:.0}, \
         p90 {:.0}, p99 {:.0}; {:.1} % are cut at the limit, which leaves a mean of {:.1}",
        setting.texts(),
        corpus::CRATES.len(),
        setting.fingerprint,
        lengths.iter().sum::<f64>() / texts,
        median(&lengths),
        percentile(&lengths, 90),
        percentile(&lengths, 99),
        100.0 * cut / texts,
        setting.tokens_read as f64 / texts,
    )?;
    writeln!(out)
}

/// Each package once.
fn versions(rows: &[Row]) -> Vec<String> {
    let revision = machine::revision().unwrap_or_else(|| "of an unknown commit".into());
    let mut versions = vec![format!("candlewick {revision}")];
    for (package, version) in
        rows.iter().filter_map(|row| row.outcome.as_ref().ok()).flat_map(|f| &f.versions)
    {
        let version = format!("{package} {version}");
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

fn table(out: &mut impl Write, rows: &[Row], setting: &Setting) -> io::Result<()> {
    writeln!(
        out,
        "{:<42} {:>7} {:>15} {:>9} {:>13} {:>6} {:>9} {:>7} {:>8} {:>11}",
        "contestant",
        "docs/s",
        "min - max",
        "tokens/s",
        "candlewick is",
        "cores",
        "peak MiB",
        "load s",
        "max abs",
        "min cosine"
    )?;
    let ours = ours(rows);
    for Row { name, outcome } in rows {
        let figures = match outcome {
            Ok(figures) => figures,
            Err(reason) => {
                writeln!(out, "{name:<42} unavailable: {}", reason.replace('\n', " "))?;
                continue;
            }
        };
        let rates: Vec<f64> = seconds(figures).iter().map(|s| setting.texts() as f64 / s).collect();
        let (min, max) = range(&rates);
        let tokens = median(&rates) * setting.tokens_read as f64 / setting.texts() as f64;
        let ratio = median(&speedups(&ours, &seconds(figures)));
        writeln!(
            out,
            "{name:<42} {:>7.1} {:>15} {tokens:>9.0} {:>13} {:>6} {:>9} {:>7.2} {:>8.1e} {:>11.7}",
            median(&rates),
            format!("{min:.1} - {max:.1}"),
            format!("{ratio:.2}x"),
            cores(figures).map_or_else(|| "?".into(), |cores| format!("{cores:.2}")),
            figures.peak_memory.map_or_else(|| "?".into(), |bytes| (bytes >> 20).to_string()),
            figures.load_seconds,
            figures.agreement.max_abs,
            figures.agreement.min_cosine,
        )?;
    }
    writeln!(out)
}

fn legend(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "docs/s, tokens/s: median of the rounds; tokens without padding. candlewick is: its speed over this \
         one's, median of the rounds' ratios.\ncores: CPU seconds per second; less than the threads means \
         waiting, for each other or for other programs. peak: VmHWM of the process.\nload: from the start of \
         the process to a model in memory, imports included. max abs, min cosine: against candlewick."
    )
}

/// The configuration in which a library comes closest to candlewick.
fn best_of(out: &mut impl Write, library: &str, rows: &[Row]) -> io::Result<()> {
    let ours = ours(rows);
    let measured = rows.iter().filter(|row| row.name.starts_with(library)).filter_map(|row| {
        let figures = row.outcome.as_ref().ok()?;
        Some((&row.name, speedups(&ours, &seconds(figures))))
    });
    let Some((name, ratios)) = measured.min_by(|a, b| median(&a.1).total_cmp(&median(&b.1))) else {
        return Ok(());
    };
    let (ratio, (min, max)) = (median(&ratios), range(&ratios));
    writeln!(out, "best of {library}: {name}; candlewick is {ratio:.2}x ({min:.2} - {max:.2}) as fast")
}

/// Whether anything but the contestant whose turn it was used the processor.
fn disturbances(out: &mut impl Write, race: &Race) -> io::Result<()> {
    let figures: Vec<&Figures> = race.rows.iter().filter_map(|row| row.outcome.as_ref().ok()).collect();
    let idle = figures.iter().map(|figures| figures.idle_cpu_seconds).sum::<Option<f64>>();
    let busy = figures.iter().map(|figures| cpu_seconds(figures)).sum::<Option<f64>>();
    let (Some(idle), Some(busy), Some(all)) = (idle, busy, race.machine_cpu_seconds) else {
        return Ok(());
    };
    // The accounts are rounded, each for itself.
    let others = (all - busy - idle).max(0.0);
    writeln!(
        out,
        "disturbances: waiting contestants kept {:.2} cores busy, other programs {:.2}",
        idle / race.seconds,
        others / race.seconds
    )
}

/// candlewick's own seconds.
fn ours(rows: &[Row]) -> Vec<f64> {
    rows.first().and_then(|row| row.outcome.as_ref().ok()).map(seconds).unwrap_or_default()
}

fn seconds(figures: &Figures) -> Vec<f64> {
    figures.passes.iter().map(|pass| pass.seconds).collect()
}

/// How many cores were busy with it, on average.
fn cores(figures: &Figures) -> Option<f64> {
    Some(cpu_seconds(figures)? / seconds(figures).iter().sum::<f64>())
}

fn cpu_seconds(figures: &Figures) -> Option<f64> {
    figures.passes.iter().map(|pass| pass.cpu_seconds).sum()
}

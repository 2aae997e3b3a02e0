//! The tables, in Markdown.

use std::io::{self, Write};

use super::{JobRow, LayerRow, Peaks};

/// The processor's peaks.
pub(super) fn peaks(out: &mut impl Write, peaks: &Peaks) -> io::Result<()> {
    writeln!(out, "## Peak\n\n{}\n", peaks.machine)?;
    heading(out, &["arithmetic", "instruction"], "Gop/s", &peaks.threads)?;
    for (arithmetic, instruction, rates) in &peaks.arithmetic {
        writeln!(out, "| {} | {instruction} |{}", arithmetic.name(), cells(rates))?;
    }
    writeln!(out)?;
    heading(out, &["memory", "size"], "GB/s", &peaks.threads)?;
    for (level, rates) in &peaks.bandwidth {
        let size = format!("{:.2} MiB{}", mebibytes(level.bytes), if level.is_shared { "" } else { " each" });
        writeln!(out, "| {} | {size} |{}", level.name, cells(rates))?;
    }
    writeln!(out)
}

fn heading(out: &mut impl Write, names: &[&str], unit: &str, threads: &[usize]) -> io::Result<()> {
    let columns = names.iter().map(|name| (*name).to_owned());
    let measured = threads.iter().map(|threads| format!("{unit}, {}", plural(*threads, "thread")));
    let columns: Vec<String> = columns.chain(measured).collect();
    let rule: String =
        (0..columns.len()).map(|index| if index < names.len() { "---|" } else { "---:|" }).collect();
    writeln!(out, "| {} |\n|{rule}", columns.join(" | "))
}

/// Rates in units of 10^9 per second; none stands for what this processor, or Rust, does not offer.
fn cells(rates: &[Option<f64>]) -> String {
    let cell =
        |rate: &Option<f64>| rate.map_or_else(|| " n/a |".into(), |rate| format!(" {:.0} |", rate / 1e9));
    rates.iter().map(cell).collect()
}

/// The heads of both tables of jobs come with the first row, so that rows can be printed as they are measured.
pub(super) fn job_heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "| model | job | precision | threads | tokens/s | Gop | Gop/s | peak | of peak | range |\n\
         |---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    )
}

pub(super) fn job(out: &mut impl Write, row: &JobRow) -> io::Result<()> {
    let rate = row.operations / row.seconds;
    writeln!(
        out,
        "| {} | {} | {} | {} | {:.0} | {:.1} | {:.1} | {:.0} | {:.1} % | {:.1} - {:.1} % |",
        row.shape,
        row.job,
        row.precision,
        row.threads,
        row.tokens as f64 / row.seconds,
        row.operations / 1e9,
        rate / 1e9,
        rate / row.share / 1e9,
        100.0 * row.share,
        100.0 * row.range.0,
        100.0 * row.range.1,
    )
}

pub(super) fn layers(out: &mut impl Write, rows: &[JobRow]) -> io::Result<()> {
    if rows.iter().all(|row| row.layers.is_empty()) {
        return Ok(());
    }
    writeln!(
        out,
        "\n## Layers, each kind alone, one thread\n\n\
         | model | job | precision | layers | ms | of the job's time | Gop/s | of peak |\n\
         |---|---|---|---|---:|---:|---:|---:|"
    )?;
    for row in rows.iter().filter(|row| !row.layers.is_empty()) {
        let rest = row.seconds - row.layers.iter().map(|layer| layer.seconds).sum::<f64>();
        let rest = LayerRow { name: "rest", seconds: rest, operations: None, share: None };
        for layer in row.layers.iter().chain([&rest]) {
            let rate = layer
                .operations
                .map_or_else(|| "-".into(), |count| format!("{:.1}", count / layer.seconds / 1e9));
            let share = layer.share.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share));
            writeln!(
                out,
                "| {} | {} | {} | {} | {:.2} | {:.1} % | {rate} | {share} |",
                row.shape,
                row.job,
                row.precision,
                layer.name,
                1e3 * layer.seconds,
                100.0 * layer.seconds / row.seconds,
            )?;
        }
    }
    Ok(())
}

pub(super) fn legend(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\nGop: 2 m n k of every linear layer and 4 len^2 hidden_size of every layer's attention, in 10^9; there is \
         no padding.\nPeak: what the fastest instructions for linear layers of this precision and for attention, \
         which is bf16 in bf16 and int8, else f32, do on\nas many threads, measured right before and after each round \
         of a job. of peak: median of the rounds; range: smallest and\nlargest. Times are without what the measuring \
         thread waited while other programs had its processor, where\nLinux tells. Layers are timed apart from the \
         job, so their times need not add up; rest is what they leave: embeddings,\nallocation, and that error."
    )
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_what_is_left_are_computed_from_the_row() {
        let linear = LayerRow { name: "linear", seconds: 0.75, operations: Some(3e9), share: Some(0.5) };
        let row = JobRow {
            shape: "tiny",
            job: "1x16",
            precision: candlewick_engine::Precision::F32,
            threads: 1,
            tokens: 16,
            seconds: 1.0,
            operations: 4e9,
            share: 0.5,
            range: (0.4, 0.6),
            layers: vec![linear],
        };
        let mut out = Vec::new();
        job(&mut out, &row).unwrap();
        layers(&mut out, &[row]).unwrap();
        let out = String::from_utf8(out).unwrap();
        let has = |line: &str| assert!(out.lines().any(|found| found == line), "{line}\n{out}");
        has("| tiny | 1x16 | f32 | 1 | 16 | 4.0 | 4.0 | 8 | 50.0 % | 40.0 - 60.0 % |");
        has("| tiny | 1x16 | f32 | linear | 750.00 | 75.0 % | 4.0 | 50.0 % |");
        has("| tiny | 1x16 | f32 | rest | 250.00 | 25.0 % | - | - |");
    }
}

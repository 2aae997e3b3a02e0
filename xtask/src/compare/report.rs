//! A cell's table in Markdown: every contestant, and what one must know to read it.

use std::fmt::Write;

use anyhow::Result;
use candlewick::Kind;

use super::cell::Workload;
use super::contestant::Library;
use super::race::{Figures, Race, Row};
use super::stats::{median, range};

/// Prints a cell to standard output.
pub(super) fn print(race: &Race) -> Result<()> {
    let mut text = format!("### {}\n\n{}.\n\n", race.cell.title(), race.input.description);
    table(&mut text, race)?;
    disturbances(&mut text, race)?;
    write_out(&text)
}

/// Writes to standard output, which may be a pipe that someone closed.
pub(super) fn write_out(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())?;
    Ok(())
}

fn table(text: &mut String, race: &Race) -> Result<()> {
    // candlewick int8 has a column too, to be compared with a rival's of the same precision.
    let is_int8 = |row: &&Row| is_candlewick(row) && row.identity.precision == "int8";
    let mut ours = vec![race.candlewick()];
    ours.extend(race.rows.iter().find(is_int8));
    let unit = unit(race.cell.workload);
    write!(text, "| contestant | {unit} | min\u{2013}max |")?;
    for row in &ours {
        write!(text, " {} is |", row.identity.name)?;
    }
    write!(text, " cores | peak MiB | load s | min cosine |")?;
    writeln!(text, "{}", if is_sparse(race) { " entries a text |" } else { "" })?;
    let columns = 6 + usize::from(is_sparse(race)) + ours.len();
    writeln!(text, "|---|{}", "---:|".repeat(columns))?;
    for row in &race.rows {
        let name = &row.identity.name;
        match &row.outcome {
            Ok(figures) => measured(text, race, row, figures, &ours)?,
            Err(reason) => {
                let reason = reason.replace(['\n', '|'], " ");
                writeln!(text, "| {name} | unavailable: {reason} |{}", " |".repeat(columns - 1))?;
            }
        }
    }
    writeln!(text)?;
    Ok(())
}

fn measured(text: &mut String, race: &Race, row: &Row, figures: &Figures, ours: &[&Row]) -> Result<()> {
    let values: Vec<f64> = figures.seconds().iter().map(|&s| in_unit(s, race)).collect();
    let (min, max) = range(&values);
    let (middle, min, max) = (number(in_unit(median(&figures.seconds()), race)), number(min), number(max));
    write!(text, "| {} | {middle} | {min}\u{2013}{max} |", row.identity.name)?;
    for own in ours {
        match row.ratio_to(own) {
            Some(ratio) => write!(text, " {ratio} |")?,
            None => write!(text, " |")?,
        }
    }
    let unknown = || "?".to_owned();
    write!(
        text,
        " {} | {} | {:.2} | {:.7} |",
        figures.cores().map_or_else(unknown, |cores| format!("{cores:.2}")),
        figures.peak_memory.map_or_else(unknown, |bytes| (bytes >> 20).to_string()),
        figures.load_seconds,
        figures.agreement.min_cosine,
    )?;
    if is_sparse(race) {
        write!(text, " {:.2} |", figures.entries as f64 / race.input.sequences as f64)?;
    }
    writeln!(text)?;
    Ok(())
}

fn is_sparse(race: &Race) -> bool {
    race.cell.model.kind == Kind::Sparse
}

fn disturbances(text: &mut String, race: &Race) -> Result<()> {
    let Some(disturbances) = race.disturbances() else {
        return Ok(());
    };
    let spoilt = race.spoilt_rounds();
    let worst = disturbances.iter().copied().fold(0.0, f64::max);
    let rounds = if race.rounds == 1 { "1 round".into() } else { format!("{} rounds", race.rounds) };
    write!(text, "{rounds}; other programs used at most {worst:.2} cores during a pass")?;
    if !spoilt.is_empty() {
        let rounds = spoilt.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        write!(text, "; **spoilt: {rounds}**")?;
    }
    writeln!(text, ".")?;
    Ok(())
}

pub(super) fn is_candlewick(row: &Row) -> bool {
    row.identity.library == Library::Candlewick
}

/// What times are shown as.
pub(super) fn unit(workload: Workload) -> &'static str {
    match workload {
        Workload::Tokens { .. } | Workload::Start => "ms",
        Workload::EqualTexts { .. } | Workload::Text => "texts/s",
    }
}

/// The seconds of a call, in that unit.
pub(super) fn in_unit(seconds: f64, race: &Race) -> f64 {
    match race.cell.workload {
        Workload::Tokens { .. } | Workload::Start => 1e3 * seconds,
        Workload::EqualTexts { .. } | Workload::Text => race.input.sequences as f64 / seconds,
    }
}

/// Three digits, or all before the point.
pub(super) fn number(value: f64) -> String {
    let decimals = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([1.234, 12.34, 123.4, 1234.0].map(number), ["1.23", "12.3", "123", "1234"]);
    }
}

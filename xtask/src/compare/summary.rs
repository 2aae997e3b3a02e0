//! All cells in two tables, one for token ids and one for texts: a column per rival, its fastest configuration
//! in each. This is what the README shows.

use std::fmt::Write;

use anyhow::Result;

use super::cell::Workload;
use super::contestant::Library;
use super::machine;
use super::race::{Race, Row};
use super::report::{in_unit, is_candlewick, number, unit, write_out};
use super::stats::median;

/// Prints the tables, and what they were measured on and with.
pub(super) fn print(races: &[Race]) -> Result<()> {
    let takes_tokens = |race: &&Race| matches!(race.cell.workload, Workload::Tokens { .. });
    let (tokens, texts): (Vec<&Race>, Vec<&Race>) = races.iter().partition(takes_tokens);
    let mut text = String::from("## Summary\n\n");
    for races in [tokens, texts].iter().filter(|races| !races.is_empty()) {
        table(&mut text, races)?;
    }
    legend(&mut text, races)?;
    write_out(&text)
}

/// A column: everything of a library in one precision.
type Column = (Library, &'static str);

fn column(row: &Row) -> Column {
    (row.identity.library, row.identity.precision)
}

fn table(text: &mut String, races: &[&Race]) -> Result<()> {
    let mut columns: Vec<Column> = Vec::new();
    for row in races.iter().flat_map(|race| &race.rows) {
        if !columns.contains(&column(row)) {
            columns.push(column(row));
        }
    }
    // candlewick's first, in whichever cell they appeared.
    columns.sort_by_key(|(library, _)| *library != Library::Candlewick);
    write!(text, "| model | job | threads |")?;
    for (library, precision) in &columns {
        write!(text, " {} {precision} |", library.title())?;
    }
    writeln!(text, "\n|---|---|---:|{}", "---:|".repeat(columns.len()))?;
    for race in races {
        let mark = if race.spoilt_rounds().is_empty() { "" } else { "\\*" };
        write!(text, "| {} | {}{mark} | {} |", race.cell.model.title, race.cell.job, race.cell.threads)?;
        for &column in &columns {
            write!(text, " {} |", entry(race, column))?;
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(())
}

/// A time for candlewick; for a rival, how many times candlewick's of the same precision.
fn entry(race: &Race, (library, precision): Column) -> String {
    let Some((row, seconds)) = fastest(race, (library, precision)) else {
        return "\u{2013}".into();
    };
    if library == Library::Candlewick {
        return format!("{} {}", number(in_unit(seconds, race)), unit(race.cell.workload));
    }
    let ours = fastest(race, (Library::Candlewick, precision)).map_or(race.candlewick(), |(row, _)| row);
    row.ratio_to(ours).map_or_else(|| "\u{2013}".into(), |ratio| ratio.to_string())
}

/// The configuration with the smallest median; candlewick's first, which is its default.
fn fastest(race: &Race, wanted: Column) -> Option<(&Row, f64)> {
    let rows = race.rows.iter().filter(|row| column(row) == wanted);
    let mut measured = rows.filter_map(|row| Some((row, median(&row.outcome.as_ref().ok()?.seconds()))));
    if wanted.0 == Library::Candlewick {
        return measured.next();
    }
    measured.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn legend(text: &mut String, races: &[Race]) -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has_int8 = races
        .iter()
        .flat_map(|race| &race.rows)
        .any(|row| is_candlewick(row) && row.identity.precision == "int8" && row.outcome.is_ok());
    let int8 = if has_int8 { "int8 with int8" } else { "int8 too" };
    writeln!(
        text,
        "A rival's figure is its time over candlewick f32's ({int8}), median over median, with the range of the \
         rounds' own ratios; more than 1 means that candlewick is faster. It is the rival's fastest \
         configuration. A dash: not measured, or not possible.{}\n",
        if races.iter().any(|race| !race.spoilt_rounds().is_empty()) {
            " An asterisk: other programs were in the way."
        } else {
            ""
        }
    )?;
    writeln!(text, "- machine: {}", machine::describe())?;
    writeln!(text, "- versions: {}", versions(races).join(", "))?;
    writeln!(text, "- command: `cargo xtask {}`", arguments.join(" "))?;
    Ok(())
}

/// Each package once.
fn versions(races: &[Race]) -> Vec<String> {
    let revision = machine::revision().unwrap_or_else(|| "of an unknown commit".into());
    let mut versions = vec![format!("candlewick {revision}")];
    let figures = races.iter().flat_map(|race| &race.rows).filter_map(|row| row.outcome.as_ref().ok());
    for (package, version) in figures.flat_map(|figures| &figures.versions) {
        let version = format!("{package} {version}");
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

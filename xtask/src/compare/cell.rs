//! What is measured: every workload on every model, at given numbers of threads.

use anyhow::{Result, ensure};

use super::Options;
use super::model::{MODELS, Model};

/// What a contestant computes when it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Sequences of token ids of one length; nobody tokenizes or pads.
    Tokens { batch: usize, length: usize },
    /// Real texts that are all cut at the same length, end to end; nobody has anything to pad.
    EqualTexts { texts: usize, length: usize },
    /// Real texts of mixed lengths, end to end.
    Text,
    /// From the start of a process to the embedding of its first text.
    Start,
}

/// Name, workload, and numbers of threads unless the options say otherwise.
const WORKLOADS: [(&str, Workload, &[usize]); 8] = [
    ("query-8", Workload::Tokens { batch: 1, length: 8 }, &[1, 2]),
    ("query-16", Workload::Tokens { batch: 1, length: 16 }, &[1, 2]),
    ("query-32", Workload::Tokens { batch: 1, length: 32 }, &[1, 2]),
    ("32x128", Workload::Tokens { batch: 32, length: 128 }, &[2]),
    ("8x512", Workload::Tokens { batch: 8, length: 512 }, &[2]),
    ("256x128", Workload::EqualTexts { texts: 256, length: 128 }, &[2]),
    ("text", Workload::Text, &[2]),
    ("start", Workload::Start, &[2]),
];

/// One measurement: a table of all contestants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) model: &'static Model,
    pub(super) job: &'static str,
    pub(super) workload: Workload,
    pub(super) threads: usize,
}

impl Cell {
    /// For headings and messages.
    pub(super) fn title(&self) -> String {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        format!("{}, {}, {threads}", self.model.title, self.job)
    }
}

/// The cells that the options ask for, model by model.
pub(super) fn cells(options: &Options) -> Result<Vec<Cell>> {
    let names = WORKLOADS.map(|(name, ..)| name);
    check(&options.job, &names, "job")?;
    check(&options.model, &MODELS.each_ref().map(|model| model.name), "model")?;
    let mut cells = Vec::new();
    for model in MODELS.iter().filter(|model| is_wanted(&options.model, model.name)) {
        for &(job, workload, threads) in WORKLOADS.iter().filter(|(name, ..)| is_wanted(&options.job, name)) {
            if !model.is_measured_with(workload) {
                continue;
            }
            let threads = if options.threads.is_empty() { threads } else { &options.threads };
            cells.extend(threads.iter().map(|&threads| Cell { model, job, workload, threads }));
        }
    }
    Ok(cells)
}

/// A filter is the beginning of a name, so that `query` stands for all queries; none at all wants everything.
fn is_wanted(filters: &[String], name: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.starts_with(filter.as_str()))
}

fn check(filters: &[String], names: &[&str], what: &str) -> Result<()> {
    for filter in filters {
        let is_known = names.iter().any(|name| name.starts_with(filter.as_str()));
        ensure!(is_known, "unknown {what} `{filter}`; there are {}", names.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn titles(arguments: &str) -> Result<Vec<String>> {
        let arguments = ["compare"].into_iter().chain(arguments.split_whitespace());
        Ok(cells(&Command::parse_from(arguments).options)?.iter().map(Cell::title).collect())
    }

    #[test]
    fn without_options_every_cell_is_measured() {
        // Dense: three queries at two numbers of threads, two batches and texts. Sparse: equal and mixed texts.
        // Processes start with real weights.
        let all = titles("").unwrap();
        assert_eq!(all.len(), 3 * (3 * 2 + 2 + 1) + 1 + (2 + 1), "{all:?}");
    }

    #[test]
    fn sparse_models_take_texts_only() {
        let of_splade = titles("--model splade").unwrap();
        assert_eq!(
            of_splade,
            [
                "cognition-splade, 256x128, 2 threads",
                "cognition-splade, text, 2 threads",
                "cognition-splade, start, 2 threads"
            ]
        );
        assert_eq!(titles("--job 256x128").unwrap(), of_splade[..1]);
        assert!(titles("--model splade --job query").unwrap().is_empty());
    }

    #[test]
    fn filters_are_beginnings_of_names() {
        assert_eq!(
            titles("--job query-3,8x --model minilm --threads 1").unwrap(),
            ["all-MiniLM-L6-v2, query-32, 1 thread", "all-MiniLM-L6-v2, 8x512, 1 thread"]
        );
        assert_eq!(titles("--job query --model minilm").unwrap().len(), 6);
        assert!(titles("--job start --model base").unwrap().is_empty());
        let error = titles("--job 16x16").unwrap_err().to_string();
        assert!(error.contains("16x16") && error.contains("32x128"), "{error}");
        assert!(titles("--model tiny").is_err());
    }
}

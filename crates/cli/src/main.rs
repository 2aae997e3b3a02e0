//! The `candlewick` command. Data goes to standard output, everything else to standard error.
//!
//! The exit code is 0 when all went well, 2 when the command line is wrong (an unknown flag or model, a flag that is not
//! for this kind of model, a value that the model refuses), and 1 when something failed at work.

mod args;
mod embed;
mod embedder;
mod fetch;
mod flags;
mod input;
mod inspect;
mod jsonl;
mod model;
mod models;
mod output;
mod progress;
mod pull;
mod queue;
mod rerank;
mod texts;
mod writer;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use output::WriteError;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Embed(args) => embed::run(*args),
        Command::Rerank(args) => rerank::run(*args),
        Command::Models(args) => models::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref().is_some_and(WriteError::is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere to report that this fails.
            let _ = writeln!(std::io::stderr().lock(), "error: {}", message(&error));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// A command line that makes no sense.
#[derive(Debug)]
struct Usage(String);

impl Usage {
    #[allow(clippy::new_ret_no_self, reason = "it is only ever an error")]
    fn new(problem: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Usage(problem.into()))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn is_usage(error: &anyhow::Error) -> bool {
    use candlewick::{EngineError, Error};
    let refused = |error: &Error| match error {
        Error::UnknownModel { .. } | Error::InvalidOption { .. } | Error::WrongKind { .. } => true,
        Error::Engine { source, .. } => matches!(**source, EngineError::DeviceNotBuilt { .. }),
        _ => false,
    };
    error.is::<Usage>() || error.downcast_ref().is_some_and(refused)
}

/// The error with its causes, less those that an error quotes itself.
fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    if let Some(candlewick::Error::UnknownModel { .. }) = error.downcast_ref() {
        message.push_str(" (`candlewick models` lists all)");
    }
    message
}

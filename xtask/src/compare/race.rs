//! The measurement of one cell: contestants take turns.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use candlewick::Embedding;

use super::cell::{Cell, Workload};
use super::contestant::{Contestant, Identity};
use super::input::Input;
use super::process::{Pass, Worker};
use super::progress;
use super::stats::Ratio;
use crate::verify::{Agreement, agreement};

/// Below this a rival's f32 embeddings are not those of the same model.
const MIN_COSINE: f64 = 0.9999;

/// Between two passes, for the thread pool of the one before to fall asleep.
const PAUSE: Duration = Duration::from_millis(200);

/// Cores: a round in which other programs used more than this during any pass is spoilt. Less than this is
/// within the rounding of the accounts.
const SPOILT: f64 = 0.1;

/// What was measured of a cell.
#[derive(Debug)]
pub(super) struct Race {
    pub(super) cell: Cell,
    pub(super) input: Input,
    pub(super) rounds: usize,
    /// The first is candlewick in f32, which was measured.
    pub(super) rows: Vec<Row>,
}

/// One line of the table: a contestant, and what was measured or why it could not be.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) identity: Identity,
    pub(super) outcome: Result<Figures, String>,
}

/// What was measured of one contestant.
#[derive(Debug)]
pub(super) struct Figures {
    /// Of the rounds, in order.
    pub(super) passes: Vec<Pass>,
    /// From the start of the process to a model in memory.
    pub(super) load_seconds: f64,
    /// The largest amount of memory that was resident, in bytes, where the system tells.
    pub(super) peak_memory: Option<u64>,
    /// With candlewick's f32 embeddings.
    pub(super) agreement: Agreement,
    /// Of the packages that did the work.
    pub(super) versions: Vec<(String, String)>,
}

impl Figures {
    /// Of a call, in each round.
    pub(super) fn seconds(&self) -> Vec<f64> {
        self.passes.iter().map(|pass| pass.seconds).collect()
    }

    /// How many cores were busy with it, on average.
    pub(super) fn cores(&self) -> Option<f64> {
        let busy = self.passes.iter().map(|pass| pass.cpu_seconds).sum::<Option<f64>>()?;
        Some(busy / self.passes.iter().map(|pass| pass.wall_seconds).sum::<f64>())
    }
}

impl Row {
    /// How many times this one's time is another's.
    pub(super) fn ratio_to(&self, other: &Self) -> Option<Ratio> {
        let (own, other) = (self.outcome.as_ref().ok()?, other.outcome.as_ref().ok()?);
        Some(Ratio::of(&own.seconds(), &other.seconds()))
    }
}

impl Race {
    /// candlewick in f32.
    pub(super) fn candlewick(&self) -> &Row {
        &self.rows[0]
    }

    /// Those that claim f32 but compute something else.
    pub(super) fn disagreeing(&self) -> Vec<String> {
        let is_wrong = |row: &&Row| match &row.outcome {
            // NaN is not enough either.
            Ok(figures) if row.identity.precision == "f32" => {
                !matches!(figures.agreement.min_cosine.partial_cmp(&MIN_COSINE), Some(order) if order.is_ge())
            }
            _ => false,
        };
        let message =
            |row: &Row| format!("{}: {}: not candlewick's embeddings", self.cell.title(), row.identity.name);
        self.rows.iter().filter(is_wrong).map(message).collect()
    }

    /// For each round, how many cores other programs kept busy during its most disturbed pass.
    pub(super) fn disturbances(&self) -> Option<Vec<f64>> {
        let figures: Vec<&Figures> = self.rows.iter().filter_map(|row| row.outcome.as_ref().ok()).collect();
        let of_round = |round: usize| {
            let cores = figures.iter().filter_map(|figures| figures.passes.get(round)?.others_cores());
            cores.reduce(f64::max)
        };
        (0..self.rounds).map(of_round).collect()
    }

    /// Numbers of the rounds, from 1, in which other programs were in the way.
    pub(super) fn spoilt_rounds(&self) -> Vec<usize> {
        let disturbances = self.disturbances().unwrap_or_default();
        let is_spoilt = |&(_, cores): &(usize, &f64)| *cores > SPOILT;
        disturbances.iter().enumerate().filter(is_spoilt).map(|(round, _)| round + 1).collect()
    }
}

/// A contestant during the race.
struct Runner {
    identity: Identity,
    /// Starts its worker; or why that is impossible.
    command: Result<Command, String>,
    /// Or why it is not, or no longer, in the race.
    worker: Result<Worker, String>,
    passes: Vec<Pass>,
}

/// Runs all contestants. The first is candlewick in f32, and must work.
pub(super) fn run(
    cell: Cell,
    folder: &Path,
    input: Input,
    contestants: Vec<Contestant>,
    rounds: usize,
) -> Result<Race> {
    let start = |(index, contestant)| Runner::start(contestant, &folder.join(format!("worker-{index}.log")));
    let mut runners = contestants.into_iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
    let count = runners.len();
    for round in 0..rounds {
        for turn in 0..count {
            // Everybody gets to be first, and last.
            let runner = &mut runners[(turn + round) % count];
            let pass = if cell.workload == Workload::Start { runner.restart() } else { runner.pass() };
            if let Some(pass) = pass {
                let (name, milliseconds) = (&runner.identity.name, 1e3 * pass.seconds);
                progress(&format!("round {} of {rounds}: {name}: {milliseconds:.2} ms", round + 1))?;
            }
        }
    }
    let candlewick = runners.first_mut().context("there is always candlewick")?;
    let expected = match &mut candlewick.worker {
        Ok(worker) => worker.embeddings(&folder.join("candlewick.f32"))?,
        Err(reason) => bail!("{}: {reason}", candlewick.identity.name),
    };
    let file = folder.join("rival.f32");
    let finish =
        |runner: Runner| Row { identity: runner.identity.clone(), outcome: runner.finish(&expected, &file) };
    Ok(Race { cell, input, rounds, rows: runners.into_iter().map(finish).collect() })
}

impl Runner {
    fn start(contestant: Contestant, log: &Path) -> Result<Self> {
        let Contestant { identity, mut command } = contestant;
        progress(&format!("loading and warming up {}", identity.name))?;
        let worker = match &mut command {
            Ok(command) => Worker::start(command, log).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.clone()),
        };
        if let Err(reason) = &worker {
            progress(&format!("unavailable: {reason}"))?;
        }
        Ok(Self { identity, command, worker, passes: Vec::new() })
    }

    /// One pass. A worker that fails is out of the race, and its place is taken by the reason.
    fn pass(&mut self) -> Option<Pass> {
        self.turn(|worker, _| worker.pass())
    }

    /// Replaces the worker by a new one.
    fn restart(&mut self) -> Option<Pass> {
        self.turn(|worker, command| worker.restart(command))
    }

    fn turn(&mut self, pass: impl FnOnce(&mut Worker, &mut Command) -> Result<Pass>) -> Option<Pass> {
        let (worker, command) = (self.worker.as_mut().ok()?, self.command.as_mut().ok()?);
        std::thread::sleep(PAUSE);
        match pass(worker, command) {
            Ok(pass) => {
                self.passes.push(pass);
                Some(pass)
            }
            Err(error) => {
                self.worker = Err(format!("{error:#}"));
                None
            }
        }
    }

    fn finish(self, expected: &[Embedding], file: &Path) -> Result<Figures, String> {
        figures(self.worker?, self.passes, expected, file).map_err(|error| format!("{error:#}"))
    }
}

fn figures(mut worker: Worker, passes: Vec<Pass>, expected: &[Embedding], file: &Path) -> Result<Figures> {
    // Before it makes one large array of its embeddings.
    let peak_memory = worker.peak_memory();
    let found = worker.embeddings(file)?;
    ensure!(found.len() == expected.len(), "{} embeddings of {} sequences", found.len(), expected.len());
    let agreement = agreement(&found, expected);
    let (load_seconds, versions) = (worker.load_seconds(), worker.versions()?);
    Ok(Figures { passes, load_seconds, peak_memory, agreement, versions })
}

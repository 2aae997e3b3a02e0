//! The measurement of one cell: contestants take turns. All are in memory and warm meanwhile, except where that is
//! more than a machine has: then a worker is there, and warm, for its own turns only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candlewick::{Embedding, Kind};

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
    /// Numbers of all embeddings together that are not zero.
    pub(super) entries: usize,
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
        let candlewick = self.candlewick().outcome.as_ref();
        let is_sparse = self.cell.model.kind == Kind::Sparse;
        let is_wrong = |row: &&Row| match (&row.outcome, candlewick) {
            (Ok(figures), Ok(candlewick)) if row.identity.precision == "f32" => {
                // NaN is not enough either.
                let cosine = figures.agreement.min_cosine.partial_cmp(&MIN_COSINE);
                let is_near = matches!(cosine, Some(order) if order.is_ge());
                !is_near || is_sparse && figures.entries != candlewick.entries
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
    /// Of its worker.
    log: PathBuf,
    state: State,
    passes: Vec<Pass>,
    /// Of the workers that were ended already.
    peak_memory: Option<u64>,
}

enum State {
    /// Its worker is yet to start.
    Waiting,
    Running(Worker),
    /// All its passes are done.
    Finished(Findings),
    /// It is not, or no longer, in the race; and why.
    Out(String),
}

/// What a worker leaves.
struct Findings {
    embeddings: Vec<Embedding>,
    load_seconds: f64,
    versions: Vec<(String, String)>,
}

/// Runs all contestants. The first is candlewick in f32, and must work.
pub(super) fn run(
    cell: Cell,
    folder: &Path,
    input: Input,
    contestants: Vec<Contestant>,
    rounds: usize,
) -> Result<Race> {
    let new = |(index, contestant)| Runner::new(contestant, folder.join(format!("worker-{index}.log")));
    let mut runners: Vec<Runner> = contestants.into_iter().enumerate().map(new).collect();
    let is_alone = needs_all_memory(&cell);
    if !is_alone {
        runners.iter_mut().try_for_each(Runner::start)?;
    }
    let (count, file) = (runners.len(), folder.join("embeddings.f32"));
    for round in 0..rounds {
        for turn in 0..count {
            // Everybody gets to be first, and last.
            let runner = &mut runners[(turn + round) % count];
            if is_alone {
                runner.start()?;
            }
            let pass = if cell.workload == Workload::Start { runner.restart()? } else { runner.pass()? };
            if let Some(pass) = pass {
                let (name, milliseconds) = (&runner.identity.name, 1e3 * pass.seconds);
                progress(&format!("round {} of {rounds}: {name}: {milliseconds:.2} ms", round + 1))?;
            }
            if round + 1 == rounds {
                runner.finish(&file);
            } else if is_alone {
                runner.pause();
            }
        }
    }
    let candlewick = runners.first().context("there is always candlewick")?;
    let expected = match &candlewick.state {
        State::Finished(findings) => findings.embeddings.clone(),
        state => bail!("{}: {}", candlewick.identity.name, state.reason()),
    };
    let row = |runner: Runner| Row { identity: runner.identity.clone(), outcome: runner.outcome(&expected) };
    Ok(Race { cell, input, rounds, rows: runners.into_iter().map(row).collect() })
}

/// Whether only the worker whose turn it is may be there: logits are gigabytes, which some keep for their next pass.
fn needs_all_memory(cell: &Cell) -> bool {
    cell.model.kind == Kind::Sparse && cell.workload != Workload::Start
}

impl Runner {
    fn new(contestant: Contestant, log: PathBuf) -> Self {
        let Contestant { identity, command } = contestant;
        Self { identity, command, log, state: State::Waiting, passes: Vec::new(), peak_memory: None }
    }

    /// Starts its worker, unless it is out of the race.
    fn start(&mut self) -> Result<()> {
        if !matches!(self.state, State::Waiting) {
            return Ok(());
        }
        progress(&format!("loading and warming up {}", self.identity.name))?;
        let worker = match &mut self.command {
            Ok(command) => Worker::start(command, &self.log).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.clone()),
        };
        match worker {
            Ok(worker) => self.state = State::Running(worker),
            Err(reason) => self.drop_out(reason)?,
        }
        Ok(())
    }

    /// What it has measured so far does not count.
    fn drop_out(&mut self, reason: String) -> Result<()> {
        progress(&format!("{}: unavailable: {reason}", self.identity.name))?;
        self.state = State::Out(reason);
        Ok(())
    }

    /// One pass. A worker that fails is out of the race, and its place is taken by the reason.
    fn pass(&mut self) -> Result<Option<Pass>> {
        self.turn(|worker, _| worker.pass())
    }

    /// Replaces the worker by a new one.
    fn restart(&mut self) -> Result<Option<Pass>> {
        self.turn(|worker, command| worker.restart(command))
    }

    fn turn(&mut self, pass: impl FnOnce(&mut Worker, &mut Command) -> Result<Pass>) -> Result<Option<Pass>> {
        let (State::Running(worker), Ok(command)) = (&mut self.state, &mut self.command) else {
            return Ok(None);
        };
        std::thread::sleep(PAUSE);
        match pass(worker, command) {
            Ok(pass) => {
                self.passes.push(pass);
                Ok(Some(pass))
            }
            Err(error) => {
                self.drop_out(format!("{error:#}"))?;
                Ok(None)
            }
        }
    }

    /// Ends its worker, until the next round.
    fn pause(&mut self) {
        if let State::Running(worker) = &self.state {
            self.peak_memory = self.peak_memory.max(worker.peak_memory());
            self.state = State::Waiting;
        }
    }

    /// Ends its worker, and keeps what it has found; through the file at `path`.
    fn finish(&mut self, path: &Path) {
        if let State::Running(worker) = &mut self.state {
            // Before it makes one large array of its embeddings.
            self.peak_memory = self.peak_memory.max(worker.peak_memory());
            self.state = match findings(worker, path) {
                Ok(findings) => State::Finished(findings),
                Err(error) => State::Out(format!("{error:#}")),
            };
        }
    }

    fn outcome(self, expected: &[Embedding]) -> Result<Figures, String> {
        let (passes, peak_memory) = (self.passes, self.peak_memory);
        let Findings { embeddings, load_seconds, versions } = match self.state {
            State::Finished(findings) => findings,
            state => return Err(state.reason()),
        };
        if embeddings.len() != expected.len() {
            return Err(format!("{} embeddings of {} sequences", embeddings.len(), expected.len()));
        }
        let agreement = agreement(&embeddings, expected);
        let entries = embeddings.iter().flatten().filter(|value| **value != 0.0).count();
        Ok(Figures { passes, load_seconds, peak_memory, agreement, entries, versions })
    }
}

impl State {
    /// Why there are no findings.
    fn reason(&self) -> String {
        match self {
            Self::Out(reason) => reason.clone(),
            _ => "it was never asked".to_owned(),
        }
    }
}

fn findings(worker: &mut Worker, path: &Path) -> Result<Findings> {
    let embeddings = worker.embeddings(path)?;
    Ok(Findings { embeddings, load_seconds: worker.load_seconds(), versions: worker.versions()? })
}

//! Several threads inside one forward, by fork and join.
//!
//! A thread that runs a forward leads a team. [`share`], called by a kernel, opens a fork: parts of one
//! operation that the leader and whoever has joined the team claim one by one, until none is left. Joining is
//! never waited for. The leader starts at once, and a member that arrives late, or never, costs nothing but
//! its share; so threads that sleep, or are busy elsewhere, do no harm.
//!
//! Members are idle threads of the leader's own pool, enlisted by spawning a job there, so there are never more
//! threads than the pool has. Between forks a member polls, because the parts of an operation take tens of
//! microseconds and waking a thread takes as long. A member that finds nothing to do for [`STAY`] goes back to
//! the pool, and the next fork enlists another.
//!
//! Which thread runs a part is a matter of chance, so parts must compute the same whoever runs them, and be
//! cut by the shape of the operation, not by the number of threads.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::threads::Workers;

/// For this long a thread that waits polls without giving its core away. Longer than what a model does
/// between two forks.
const SPIN: Duration = Duration::from_micros(50);

/// After this long without a part a member leaves.
const STAY: Duration = Duration::from_millis(1);

thread_local! {
    /// The team that this thread leads. `None` while it runs a part, so that a fork inside a part runs inline.
    static LED: Cell<Option<Arc<Team>>> = const { Cell::new(None) };
}

/// Runs `work(0)`, `work(1)` up to `work(parts - 1)`, in any order, on this thread and on those that are in
/// its team; without a team, or inside another fork, in order on this thread. Returns when all are done.
///
/// # Panics
///
/// When a part panics, with its payload, after all others are done.
pub(crate) fn share<F: Fn(usize) + Sync>(parts: usize, work: F) {
    let Some(team) = (if parts > 1 { LED.take() } else { None }) else {
        return (0..parts).for_each(work);
    };
    let led = Restore(Some(team));
    if let Some(team) = &led.0 {
        team.enlist(parts);
        team.fork(parts, &work);
    }
}

/// Runs `work` with this thread as the leader of a team of `workers`' threads.
pub(super) fn lead<R>(workers: &Arc<Workers>, work: impl FnOnce() -> R) -> R {
    let team = Arc::new(Team::new(Arc::clone(workers)));
    let _open = Open(Arc::clone(&team));
    let _outer = Restore(LED.replace(Some(team)));
    work()
}

/// Puts a team back into [`LED`], also when its scope is left by a panic.
struct Restore(Option<Arc<Team>>);

impl Drop for Restore {
    fn drop(&mut self) {
        LED.set(self.0.take());
    }
}

/// Sends the members away at the end of its scope.
struct Open(Arc<Team>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.poll.is_closed.store(true, Relaxed);
    }
}

/// What the leader and the members of a team share.
///
/// A fork is *open* while `unfinished` is not zero. Only the leader opens forks, and it stays in
/// [`Team::fork`] until the fork is over.
struct Team {
    poll: Poll,
    unfinished: Apart<AtomicUsize>,
    /// The fork that is open. The leader writes it while none is; a thread that has claimed a part of the open
    /// fork may read it until it has counted that part as finished.
    fork: UnsafeCell<Fork>,
    /// What parts of the open fork panicked with. All are kept until it is over, because dropping a payload may
    /// itself panic.
    panics: Mutex<Vec<Box<dyn Any + Send>>>,
    workers: Arc<Workers>,
    /// Members, and threads that were asked to join.
    enlisted: AtomicUsize,
    /// Members that the last fork had work for.
    wanted: AtomicUsize,
}

/// What members read while they wait, in one cache line.
#[repr(align(128))]
struct Poll {
    /// Parts of the open fork that nobody has claimed.
    unclaimed: AtomicUsize,
    is_closed: AtomicBool,
}

/// Its own cache line, or rather the pair of them that x86 fetches together.
#[repr(align(128))]
struct Apart<T>(T);

/// A closure `Fn(usize) + Sync` without its type and lifetime.
#[derive(Clone, Copy)]
struct Fork {
    parts: usize,
    closure: *const (),
    /// Calls `closure`, which must be alive and of the type that this was made for.
    call: unsafe fn(*const (), usize),
}

// SAFETY: what is not `Sync` by itself is `fork`. Its pointer is to a closure that is `Sync`, because
// `Team::fork` takes no other, and access to the cell follows the rule at its declaration: the leader's write
// happens before the release store of `unclaimed`, which a claim acquires, and what a claimant reads or does
// happens before its release decrement of `unfinished`, which the leader acquires before it writes again.
unsafe impl Sync for Team {}
// SAFETY: as above; a team owns nothing that is tied to a thread.
unsafe impl Send for Team {}

impl Team {
    fn new(workers: Arc<Workers>) -> Self {
        Self {
            poll: Poll { unclaimed: AtomicUsize::new(0), is_closed: AtomicBool::new(false) },
            unfinished: Apart(AtomicUsize::new(0)),
            fork: UnsafeCell::new(Fork { parts: 0, closure: ptr::null(), call: |_, _| () }),
            panics: Mutex::new(Vec::new()),
            workers,
            enlisted: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
        }
    }

    /// Runs all parts, with the help of members. Only the leader calls this, and not from inside a part: it
    /// holds the team that it took out of its [`LED`].
    fn fork<F: Fn(usize) + Sync>(&self, parts: usize, work: &F) {
        /// # Safety
        ///
        /// `closure` points to a live `F`.
        unsafe fn call<F: Fn(usize)>(closure: *const (), part: usize) {
            // SAFETY: promised by the caller.
            let work = unsafe { &*closure.cast::<F>() };
            work(part);
        }
        let fork = Fork { parts, closure: ptr::from_ref(work).cast(), call: call::<F> };
        // SAFETY: no fork is open, so no other thread has a claim, and without one none reads the cell.
        unsafe { *self.fork.get() = fork };
        self.unfinished.0.store(parts, Relaxed);
        self.poll.unclaimed.store(parts, Release);
        // From here on nothing may unwind or return before `unfinished` is zero: members use `work`.
        while self.run_part() {}
        let wait = Wait::start();
        while self.unfinished.0.load(Acquire) > 0 {
            wait.pause();
        }
        let mut panics = std::mem::take(&mut *self.panics.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(payload) = panics.pop() {
            resume_unwind(payload);
        }
    }

    /// Claims a part and runs it; false when there is none. Never unwinds.
    fn run_part(&self) -> bool {
        let claim = self.poll.unclaimed.fetch_update(Acquire, Relaxed, |parts| parts.checked_sub(1));
        let Ok(unclaimed) = claim else {
            return false;
        };
        // A claim is of the fork that is open now, however long ago this thread last looked: the counter was
        // not zero when it was decremented, and while a claimed part is unfinished no other fork begins.
        // SAFETY: the leader wrote the fork before the store that the claim acquired.
        let fork = unsafe { *self.fork.get() };
        // SAFETY: the leader keeps the closure alive until the part is counted as finished, which is below.
        let run = || unsafe { (fork.call)(fork.closure, fork.parts - unclaimed) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            self.panics.lock().unwrap_or_else(PoisonError::into_inner).push(payload);
        }
        self.unfinished.0.fetch_sub(1, Release);
        true
    }

    /// Asks one idle thread of the pool to join, if there is one and a fork of `parts` has work for it. Only
    /// one, because waking a thread takes the leader a few microseconds; those that join ask more.
    fn enlist(self: &Arc<Self>, parts: usize) {
        self.wanted.store(parts - 1, Relaxed);
        self.enlist_one();
    }

    fn enlist_one(self: &Arc<Self>) {
        let wanted = self.wanted.load(Relaxed);
        let is_wanted = |enlisted| (enlisted < wanted).then_some(enlisted + 1);
        if self.enlisted.fetch_update(Relaxed, Relaxed, is_wanted).is_err() {
            return;
        }
        if !self.workers.engage_idle() {
            self.enlisted.fetch_sub(1, Relaxed);
            return;
        }
        let team = Arc::clone(self);
        self.workers.spawn(move || {
            if !team.poll.is_closed.load(Relaxed) {
                team.enlist_one();
                team.enlist_one();
                team.serve();
            }
            team.enlisted.fetch_sub(1, Relaxed);
            team.workers.release(1);
        });
    }

    /// Runs parts as a member, until the team is closed, other work waits for this thread, or there has been
    /// nothing to do for a while.
    fn serve(&self) {
        // This thread may lead a team of its own further down its stack.
        let _own = Restore(LED.take());
        let mut wait = Wait::start();
        loop {
            if self.run_part() {
                wait = Wait::start();
            } else if wait.pause() > STAY {
                return;
            }
            if self.poll.is_closed.load(Relaxed) || self.workers.has_work_waiting() {
                return;
            }
        }
    }
}

/// Waiting for another thread, politely.
struct Wait {
    since: Instant,
}

impl Wait {
    fn start() -> Self {
        Self { since: Instant::now() }
    }

    /// Waits a little; returns how long it has been in all.
    fn pause(&self) -> Duration {
        let waited = self.since.elapsed();
        if waited < SPIN {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
        waited
    }
}

#[cfg(test)]
mod tests;

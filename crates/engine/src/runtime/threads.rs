//! The threads that run batches.
//!
//! Work is parallel over batches: each runs from start to finish on one thread, with the weights shared, so
//! threads need not wait for each other inside a model. Where there are fewer batches than threads (one query,
//! one long document, the end of a long job), the idle threads join the teams of those that run; see
//! [`team`](super::team). One batch alone is led by the caller's own thread, which saves waking another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;

use super::team;
use crate::{Error, Result};

/// A handle to a pool of threads; clones share the pool.
#[derive(Clone)]
pub struct ThreadPool {
    /// `None` runs everything on the calling thread.
    workers: Option<Arc<Workers>>,
}

/// The threads of a pool, and how many have something to do.
pub(super) struct Workers {
    pool: Arc<rayon::ThreadPool>,
    /// Items of work that run or wait, and threads that are enlisted in teams.
    engaged: AtomicUsize,
}

impl ThreadPool {
    /// A pool of `threads` threads, or of as many as this process may use when `None`: on Linux that is the CPUs
    /// of the calling thread's affinity mask, or fewer where the quota of a control group (v1 or v2) says so.
    ///
    /// # Errors
    ///
    /// [`Error::StartThreads`] when the system refuses.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let threads = match threads {
            Some(threads) => threads.max(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        if threads == 1 {
            return Ok(Self { workers: None });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("candlewick-{index}"))
            .build()
            .map_err(|source| Error::StartThreads { threads, source })?;
        Ok(Self::from_rayon(Arc::new(pool)))
    }

    /// Uses a pool that the caller has already, so that the process does not run more threads than cores.
    pub fn from_rayon(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { workers: Some(Arc::new(Workers { pool, engaged: AtomicUsize::new(0) })) }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.workers.as_ref().map_or(1, |workers| workers.threads())
    }

    /// Applies `f` to every item, and returns the results in the order of the items.
    ///
    /// Items are handed to threads in order, one at a time. While there are fewer items left than threads, the
    /// idle threads take part in the items that run. After an error no further item is started.
    ///
    /// # Errors
    ///
    /// An error of `f`.
    pub fn try_map<T, R, E, F>(&self, items: &[T], f: F) -> Result<Vec<R>, E>
    where
        T: Sync,
        R: Send,
        E: Send,
        F: Fn(&T) -> Result<R, E> + Send + Sync,
    {
        match &self.workers {
            Some(workers) if items.len() > 1 => {
                let engaged = Engaged::new(workers, items.len());
                let run = |item| {
                    let result = team::lead(workers, || f(item));
                    engaged.release_one();
                    result
                };
                workers.pool.install(|| items.par_iter().with_max_len(1).map(run).collect())
            }
            _ => items.iter().map(|item| self.with_team(|| f(item))).collect(),
        }
    }

    /// Runs both, at the same time if a thread is idle.
    pub fn join<A: Send, B: Send>(
        &self,
        first: impl FnOnce() -> A + Send,
        second: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match &self.workers {
            Some(workers) => workers.pool.join(first, second),
            None => (first(), second()),
        }
    }

    /// Runs `work` on the calling thread, and lets the pool's idle threads take part in what its kernels can
    /// split. Does not wait for any thread: where none is idle, `work` runs as if there was no pool.
    pub fn with_team<R>(&self, work: impl FnOnce() -> R) -> R {
        let Some(workers) = &self.workers else {
            return work();
        };
        let _engaged = Engaged::new(workers, 1);
        team::lead(workers, work)
    }

    #[cfg(test)]
    pub(super) fn engaged(&self) -> usize {
        self.workers.as_ref().map_or(0, |workers| workers.engaged.load(Relaxed))
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

impl Workers {
    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub(super) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.spawn(job);
    }

    /// Counts one more thread as engaged, unless all are.
    pub(super) fn engage_idle(&self) -> bool {
        let threads = self.threads();
        let engage = |engaged| (engaged < threads).then_some(engaged + 1);
        self.engaged.fetch_update(Relaxed, Relaxed, engage).is_ok()
    }

    pub(super) fn release(&self, count: usize) {
        self.engaged.fetch_sub(count, Relaxed);
    }

    /// Whether more is to be done than there are threads.
    pub(super) fn has_work_waiting(&self) -> bool {
        self.engaged.load(Relaxed) > self.threads()
    }
}

/// Items of work that are counted as engaged until they are done or given up.
struct Engaged<'a> {
    workers: &'a Workers,
    left: AtomicUsize,
}

impl<'a> Engaged<'a> {
    fn new(workers: &'a Workers, items: usize) -> Self {
        workers.engaged.fetch_add(items, Relaxed);
        Self { workers, left: AtomicUsize::new(items) }
    }

    fn release_one(&self) {
        self.left.fetch_sub(1, Relaxed);
        self.workers.release(1);
    }
}

impl Drop for Engaged<'_> {
    fn drop(&mut self) {
        self.workers.release(*self.left.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_errors_are_returned() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(Some(threads)).unwrap();
            assert_eq!(pool.threads(), threads);
            let items: Vec<usize> = (0..100).collect();
            let doubled: Result<Vec<usize>, String> = pool.try_map(&items, |item| Ok(item * 2));
            assert_eq!(doubled.unwrap(), items.iter().map(|item| item * 2).collect::<Vec<_>>());
            let failed: Result<Vec<usize>, String> =
                pool.try_map(&items, |&item| if item == 50 { Err("fifty".into()) } else { Ok(item) });
            assert_eq!(failed, Err("fifty".to_owned()));
        }
    }

    #[test]
    fn one_item_stays_on_the_calling_thread() {
        let pool = ThreadPool::new(Some(2)).unwrap();
        let ran_on = pool.try_map(&[()], |()| Ok::<_, ()>(std::thread::current().id())).unwrap();
        assert_eq!(ran_on, [std::thread::current().id()]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn affinity_masks_count() {
        // SAFETY: the set is plain data, and its size is the one that is passed. Process 0 is this thread.
        let pin = || unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
            let allowed = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &set));
            libc::CPU_ZERO(&mut set);
            libc::CPU_SET(allowed.unwrap(), &mut set);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
        };
        let pinned = std::thread::spawn(move || {
            pin();
            ThreadPool::new(None).unwrap().threads()
        });
        assert_eq!(pinned.join().unwrap(), 1);
    }
}

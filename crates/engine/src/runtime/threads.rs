//! The threads that run batches.
//!
//! Work is parallel over batches: each runs from start to finish on one thread, with the weights shared, so
//! threads never wait for each other inside a model. One batch alone runs on the caller's own thread, which
//! saves waking another.

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use crate::{Error, Result};

/// A handle to a pool of threads; clones share the pool.
#[derive(Clone)]
pub struct ThreadPool {
    /// `None` runs everything on the calling thread.
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl ThreadPool {
    /// A pool of `threads` threads, or of as many as this process may use when `None`. Control groups' CPU
    /// quotas and affinity masks count.
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
            return Ok(Self { pool: None });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("candlewick-{index}"))
            .build()
            .map_err(|source| Error::StartThreads { threads, source })?;
        Ok(Self { pool: Some(Arc::new(pool)) })
    }

    /// Uses a pool that the caller has already, so that the process does not run more threads than cores.
    pub fn from_rayon(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { pool: Some(pool) }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Applies `f` to every item, and returns the results in the order of the items.
    ///
    /// Items are handed to threads in order, one at a time. After an error no further item is started.
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
        match &self.pool {
            Some(pool) if items.len() > 1 => {
                pool.install(|| items.par_iter().with_max_len(1).map(f).collect())
            }
            _ => items.iter().map(f).collect(),
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
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
}

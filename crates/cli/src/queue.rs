//! Hands texts from the thread that reads to the thread that computes, a window at a time.
//!
//! The computing thread takes all that has been read so far. So a fast producer gets full windows, which
//! compute best, a slow one gets its answers at once, and either way no more than two windows are in memory:
//! the one that is computed and the one that fills up meanwhile.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Texts of one window at most; more would not compute faster.
const WINDOW_TEXTS: usize = 2048;

/// Bytes of one window's lines, about: the line that reaches it is the window's last.
const WINDOW_BYTES: u64 = 4 << 20;

#[derive(Debug)]
struct State<T> {
    window: Vec<T>,
    bytes: u64,
    sender_is_gone: bool,
    receiver_is_gone: bool,
}

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

/// The reading end. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Queue<T>>);

/// The computing end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Queue<T>>);

pub(crate) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { window: Vec::new(), bytes: 0, sender_is_gone: false, receiver_is_gone: false };
    let queue = Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Sender<T> {
    /// Adds an item that takes `bytes` of memory, once there is room. Returns false when nobody wants it.
    pub(crate) fn send(&self, item: T, bytes: u64) -> bool {
        let mut state = self.0.lock();
        while (state.window.len() >= WINDOW_TEXTS || state.bytes >= WINDOW_BYTES) && !state.receiver_is_gone {
            state = self.0.changed.wait(state).expect("nothing panics while it holds the lock");
        }
        if state.receiver_is_gone {
            return false;
        }
        state.window.push(item);
        state.bytes += bytes;
        self.0.changed.notify_one();
        true
    }
}

impl<T> Receiver<T> {
    /// All items that wait, in order; waits for the first. `None` at the end of the stream.
    pub(crate) fn next_window(&self) -> Option<Vec<T>> {
        let mut state = self.0.lock();
        while state.window.is_empty() && !state.sender_is_gone {
            state = self.0.changed.wait(state).expect("nothing panics while it holds the lock");
        }
        if state.window.is_empty() {
            return None;
        }
        state.bytes = 0;
        self.0.changed.notify_one();
        Some(std::mem::take(&mut state.window))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().sender_is_gone = true;
        self.0.changed.notify_one();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.lock().receiver_is_gone = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_over_many_windows() {
        let (sender, receiver) = queue();
        let reader = std::thread::spawn(move || (0..10_000).all(|number| sender.send(number, 1)));
        let mut received = Vec::new();
        while let Some(window) = receiver.next_window() {
            assert!((1..=WINDOW_TEXTS).contains(&window.len()));
            received.extend(window);
        }
        assert!(reader.join().unwrap());
        assert_eq!(received, Vec::from_iter(0..10_000));
    }

    #[test]
    fn full_windows_make_the_sender_wait() {
        for (bytes, expected) in [(0, WINDOW_TEXTS), (WINDOW_BYTES / 2, 2), (10 * WINDOW_BYTES, 1)] {
            let (sender, receiver) = queue();
            let reader = std::thread::spawn(move || (0..expected + 1).all(|item| sender.send(item, bytes)));
            // The reader cannot finish before the full window is taken, so it is full or about to be.
            while receiver.0.lock().window.len() < expected {
                std::thread::yield_now();
            }
            assert!(!reader.is_finished());
            assert_eq!(receiver.next_window().unwrap().len(), expected);
            assert_eq!(receiver.next_window().unwrap().len(), 1);
            assert_eq!(receiver.next_window(), None);
            assert!(reader.join().unwrap());
        }
    }

    #[test]
    fn sender_learns_that_the_receiver_is_gone() {
        let (sender, receiver) = queue();
        let reader = std::thread::spawn(move || (0..usize::MAX).all(|item| sender.send(item, 1)));
        assert!(receiver.next_window().is_some());
        drop(receiver);
        assert!(!reader.join().unwrap());
    }
}

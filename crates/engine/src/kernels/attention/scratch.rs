//! A thread's working memory, reused from one head to the next.

use std::cell::RefCell;

/// Sixteen values that share a cache line, as the widest register loads them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The thread's working memory while it is in use.
///
/// Not a function that takes a closure: closures are compiled without the caller's instruction set.
pub(super) struct Scratch(Vec<Line>);

impl Scratch {
    /// Takes the thread's working memory, which is given back on drop.
    pub(super) fn take() -> Self {
        Self(LINES.take())
    }

    /// Disjoint slices, each starting a cache line. They hold what was last left there.
    pub(super) fn slices<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let total: usize = lens.iter().map(|len| len.div_ceil(LINE)).sum();
        if self.0.len() < total {
            self.0.resize(total, Line([0.0; LINE]));
        }
        let mut rest = self.0.as_mut_slice();
        lens.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len.div_ceil(LINE));
            rest = after;
            // SAFETY: a `Line` is `LINE` f32 and nothing else, and the slice's lifetime is the same.
            unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), len) }
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        LINES.set(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_disjoint_and_reused() {
        for (index, part) in Scratch::take().slices([3, 0, 17, 16]).into_iter().enumerate() {
            assert!(part.as_ptr().cast::<Line>().is_aligned());
            part.fill(index as f32);
        }
        let mut scratch = Scratch::take();
        let [all] = scratch.slices([64]);
        assert_eq!([all[2], all[16], all[32], all[48], all[63]], [0.0, 2.0, 2.0, 3.0, 3.0]);
    }
}

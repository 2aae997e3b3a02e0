//! Which sequences are computed together.
//!
//! Packed batches waste nothing on padding, so sequences are not sorted for that. They are sorted, longest
//! first, for two other reasons: threads that take batches from a common queue finish closest together when
//! the big pieces go first, and sequences of one length use attention scratch of one size. A batch is cut by
//! its number of tokens, so that its activations stay in a core's cache whatever the lengths are.

/// Groups the indices of `lengths` into batches of at most `batch_tokens` tokens.
///
/// A sequence that is longer than that gets a batch of its own. Every index occurs exactly once. The order is
/// deterministic: longest first, equal lengths in input order.
///
/// ```
/// use candlewick_engine::plan;
///
/// assert_eq!(plan(&[2, 9, 3, 2], 5), [vec![1], vec![2, 0], vec![3]]);
/// ```
pub fn plan(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in order {
        // An empty sequence still costs a row of output, so it counts as one token.
        let length = lengths[index].max(1);
        match batches.last_mut() {
            Some(batch) if tokens + length <= batch_tokens => batch.push(index),
            _ => {
                batches.push(vec![index]);
                tokens = 0;
            }
        }
        tokens += length;
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_index_once_within_budget(
            lengths in prop::collection::vec(0usize..40, 0..60),
            batch_tokens in 0usize..64,
        ) {
            let batches = plan(&lengths, batch_tokens);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&index| lengths[index]).sum();
                prop_assert!(batch.len() == 1 || tokens <= batch_tokens);
            }
        }
    }
}

//! Token sequences packed end to end.
//!
//! There is no padding and no attention mask: `cu_seqlens` (cumulative sequence lengths, the layout of
//! FlashAttention's variable-length interface) says where each sequence starts and ends. All invariants are
//! checked once, in the constructor, so that no layer has to.

mod plan;

use std::ops::Range;

pub use plan::plan;

use crate::{Error, Result};

/// Token sequences packed end to end.
///
/// Invariants: `cu_seqlens` starts at 0, never decreases and ends at the number of token ids; type ids are
/// absent (all zero) or one per token. A sequence may be empty. Of a sequence that is not, at least its first token is
/// attended to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    token_ids: Vec<u32>,
    type_ids: Option<Vec<u32>>,
    cu_seqlens: Vec<u32>,
    attended: Option<Vec<u32>>,
}

impl Batch {
    /// Takes parts that are packed already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidBatch`] when an invariant does not hold.
    pub fn new(token_ids: Vec<u32>, type_ids: Option<Vec<u32>>, cu_seqlens: Vec<u32>) -> Result<Self> {
        let invalid = |problem: String| Err(Error::InvalidBatch { problem });
        let (Some(&first), Some(&last)) = (cu_seqlens.first(), cu_seqlens.last()) else {
            return invalid("cu_seqlens is empty, it must at least hold 0".into());
        };
        if first != 0 {
            return invalid(format!("cu_seqlens starts at {first}, not at 0"));
        }
        if let Some(at) = cu_seqlens.windows(2).position(|pair| pair[0] > pair[1]) {
            return invalid(format!("cu_seqlens decreases after sequence {at}"));
        }
        if last as usize != token_ids.len() {
            return invalid(format!(
                "cu_seqlens ends at {last}, but there are {} token ids",
                token_ids.len()
            ));
        }
        if let Some(type_ids) = &type_ids
            && type_ids.len() != token_ids.len()
        {
            return invalid(format!("{} type ids for {} token ids", type_ids.len(), token_ids.len()));
        }
        Ok(Self { token_ids, type_ids, cu_seqlens, attended: None })
    }

    /// Packs sequences of token ids whose type ids are all zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidBatch`] when there are more than `u32::MAX` tokens.
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Result<Self> {
        Self::pack(sequences.into_iter().map(|token_ids| (token_ids, None)))
    }

    /// Packs sequences of token ids, each with its type ids where these are not all zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidBatch`] when a sequence's type ids are not as many as its token ids, or there are more
    /// than `u32::MAX` tokens.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = (&'a [u32], Option<&'a [u32]>)>) -> Result<Self> {
        let mut token_ids = Vec::new();
        let mut type_ids: Option<Vec<u32>> = None;
        let mut cu_seqlens = vec![0];
        for (sequence, types) in sequences {
            if let Some(types) = types {
                type_ids.get_or_insert_with(|| vec![0; token_ids.len()]).extend_from_slice(types);
            } else if let Some(type_ids) = &mut type_ids {
                type_ids.resize(token_ids.len() + sequence.len(), 0);
            }
            token_ids.extend_from_slice(sequence);
            let end = u32::try_from(token_ids.len())
                .map_err(|_| Error::InvalidBatch { problem: "more than u32::MAX tokens".into() })?;
            cu_seqlens.push(end);
        }
        Self::new(token_ids, type_ids, cu_seqlens)
    }

    /// Says how many of each sequence's first tokens are attended to: the others attend to those, and nobody to them.
    /// ColBERT fills queries with such tokens. `[batch_size]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidBatch`] when there is not one length for each sequence, or one is longer than its sequence, or zero
    /// where the sequence is not empty.
    pub fn with_attended(mut self, lengths: Vec<u32>) -> Result<Self> {
        let fits = |(rows, length): (Range<usize>, &u32)| {
            *length as usize <= rows.len() && (*length > 0 || rows.is_empty())
        };
        if lengths.len() != self.batch_size() || !self.sequences().zip(&lengths).all(fits) {
            let problem =
                format!("attended lengths {lengths:?} for sequences that end at {:?}", self.cu_seqlens);
            return Err(Error::InvalidBatch { problem });
        }
        let is_all = self.sequences().zip(&lengths).all(|(rows, length)| rows.len() == *length as usize);
        self.attended = (!is_all).then_some(lengths);
        Ok(self)
    }

    /// How many of each sequence's first tokens are attended to, `[batch_size]`; `None` stands for all.
    pub fn attended(&self) -> Option<&[u32]> {
        self.attended.as_deref()
    }

    /// Number of sequences.
    pub fn batch_size(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens of all sequences together.
    pub fn total_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// The ids of all tokens, `[total_tokens]`.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// The token type (segment) ids, `[total_tokens]`; `None` stands for all zero.
    pub fn type_ids(&self) -> Option<&[u32]> {
        self.type_ids.as_deref()
    }

    /// Where sequences end: sequence `i` is `cu_seqlens[i]..cu_seqlens[i + 1]`. `[batch_size + 1]`.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// The rows of each sequence, in order.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
    }

    /// Each token's place in its own sequence, counted from 0. `[total_tokens]`.
    pub fn position_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.cu_seqlens.windows(2).flat_map(|pair| 0..pair[1] - pair[0])
    }

    /// Length of the longest sequence, in tokens.
    pub fn max_seq_len(&self) -> usize {
        self.sequences().map(|rows| rows.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attended_lengths_fit_their_sequences() {
        let batch = || Batch::from_sequences([[1; 3].as_slice(), &[], &[2; 2]]).unwrap();
        assert_eq!(batch().with_attended(vec![1, 0, 2]).unwrap().attended(), Some([1, 0, 2].as_slice()));
        assert_eq!(batch().with_attended(vec![3, 0, 2]).unwrap().attended(), None, "all");
        for wrong in [vec![3, 0], vec![4, 0, 2], vec![3, 1, 2], vec![0, 0, 2]] {
            assert!(batch().with_attended(wrong).is_err());
        }
    }

    #[track_caller]
    fn check_invalid(token_ids: &[u32], type_ids: Option<&[u32]>, cu_seqlens: &[u32], expected: &str) {
        let error = Batch::new(token_ids.into(), type_ids.map(Into::into), cu_seqlens.into());
        let error = error.expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn invariants_are_checked() {
        check_invalid(&[], None, &[], "empty");
        check_invalid(&[1], None, &[1, 1], "starts at 1");
        check_invalid(&[1, 2], None, &[0, 2, 1], "decreases after sequence 1");
        check_invalid(&[1, 2], None, &[0, 1], "ends at 1");
        check_invalid(&[1, 2], Some(&[0]), &[0, 2], "1 type ids for 2 token ids");
    }

    #[test]
    fn empty_batches_and_sequences_are_valid() {
        let none = Batch::from_sequences([]).unwrap();
        assert_eq!((none.batch_size(), none.total_tokens(), none.max_seq_len()), (0, 0, 0));
        let hollow = Batch::from_sequences([[].as_slice(), &[7], &[]]).unwrap();
        assert_eq!(hollow.sequences().collect::<Vec<_>>(), [0..0, 0..1, 1..1]);
    }

    #[test]
    fn type_ids_are_filled_in_where_only_some_sequences_have_them() {
        let batch =
            Batch::pack([([1, 2].as_slice(), None), (&[3, 4], Some([0, 1].as_slice())), (&[5], None)])
                .unwrap();
        assert_eq!(batch.type_ids(), Some([0, 0, 0, 1, 0].as_slice()));
    }

    proptest! {
        #[test]
        fn packing_then_slicing_is_identity(
            sequences in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..9), 0..9),
        ) {
            let batch = Batch::from_sequences(sequences.iter().map(Vec::as_slice)).unwrap();
            let unpacked: Vec<_> = batch.sequences().map(|rows| batch.token_ids()[rows].to_vec()).collect();
            prop_assert_eq!(&unpacked, &sequences);
            let positions: Vec<u32> = batch.position_ids().collect();
            let expected: Vec<u32> = sequences.iter().flat_map(|s| 0..s.len() as u32).collect();
            prop_assert_eq!(positions, expected);
        }
    }
}

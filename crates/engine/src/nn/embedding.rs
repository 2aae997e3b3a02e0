//! Token, position and token type embeddings.

use candle_core::{Device, Tensor};

use crate::{Batch, Error, Result, View};

/// The sum of a token's, its position's and its type's embedding.
#[derive(Debug)]
pub struct Embeddings {
    tokens: Table,
    positions: Option<Table>,
    /// The padding token, where positions count from behind its id.
    padding_id: Option<u32>,
    token_types: Option<Table>,
    device: Device,
}

/// One row per id, `[rows, hidden_size]`.
#[derive(Debug)]
struct Table {
    name: &'static str,
    rows: usize,
    hidden_size: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Host(Vec<f32>),
    Device(Tensor),
}

impl Embeddings {
    /// Reads `word_embeddings.weight`, `[vocab_size, hidden_size]`.
    ///
    /// # Errors
    ///
    /// When the tensor is missing or malformed.
    pub fn load(view: &View, vocab_size: usize, hidden_size: usize, device: &Device) -> Result<Self> {
        let tokens = Table::load(view, "token", "word_embeddings", vocab_size, hidden_size, device)?;
        Ok(Self { tokens, positions: None, padding_id: None, token_types: None, device: device.clone() })
    }

    /// Adds learned positions: reads `position_embeddings.weight`, `[max_positions, hidden_size]`.
    ///
    /// # Errors
    ///
    /// When the tensor is missing or malformed.
    pub fn with_positions(mut self, view: &View, max_positions: usize) -> Result<Self> {
        let hidden_size = self.tokens.hidden_size;
        let name = "position_embeddings";
        self.positions = Some(Table::load(view, "position", name, max_positions, hidden_size, &self.device)?);
        Ok(self)
    }

    /// Adds learned positions as RoBERTa counts them: `padding_id` itself has the position of that number, and all other
    /// tokens of a sequence have the following ones (`create_position_ids_from_input_ids` in transformers).
    ///
    /// # Errors
    ///
    /// When the tensor is missing or malformed.
    pub fn with_positions_behind(self, view: &View, max_positions: usize, padding_id: u32) -> Result<Self> {
        Ok(Self { padding_id: Some(padding_id), ..self.with_positions(view, max_positions)? })
    }

    /// Adds token types: reads `token_type_embeddings.weight`, `[num_types, hidden_size]`.
    ///
    /// # Errors
    ///
    /// When the tensor is missing or malformed.
    pub fn with_token_types(mut self, view: &View, num_types: usize) -> Result<Self> {
        let hidden_size = self.tokens.hidden_size;
        let name = "token_type_embeddings";
        self.token_types = Some(Table::load(view, "token type", name, num_types, hidden_size, &self.device)?);
        Ok(self)
    }

    /// `[total_tokens, hidden_size]`.
    ///
    /// # Errors
    ///
    /// [`Error::IdOutOfRange`] when an id, a position or a type has no row.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let positions: Option<Vec<u32>> = self.positions.as_ref().map(|_| match self.padding_id {
            Some(padding_id) => positions_behind(batch, padding_id),
            None => batch.position_ids().collect(),
        });
        let zeros = || vec![0; batch.total_tokens()];
        let types = self.token_types.as_ref().map(|_| batch.type_ids().map_or_else(zeros, <[u32]>::to_vec));
        let mut looked_up = vec![(&self.tokens, batch.token_ids())];
        looked_up.extend(self.positions.as_ref().zip(positions.as_deref()));
        looked_up.extend(self.token_types.as_ref().zip(types.as_deref()));
        for (table, ids) in &looked_up {
            table.check(ids)?;
        }
        if self.device.is_cpu() {
            let mut sum = vec![0.0; batch.total_tokens() * self.tokens.hidden_size];
            for (table, ids) in looked_up {
                table.add_rows(&mut sum, ids)?;
            }
            return Ok(Tensor::from_vec(sum, (batch.total_tokens(), self.tokens.hidden_size), &self.device)?);
        }
        let mut sum: Option<Tensor> = None;
        for (table, ids) in looked_up {
            let rows = table.select_rows(ids, &self.device)?;
            sum = Some(match sum {
                Some(sum) => (sum + rows)?,
                None => rows,
            });
        }
        Ok(sum.expect("there is always a token table"))
    }
}

/// Each token's position, where `padding_id` has that of its number and other tokens count from the next.
fn positions_behind(batch: &Batch, padding_id: u32) -> Vec<u32> {
    let mut positions = Vec::with_capacity(batch.total_tokens());
    for rows in batch.sequences() {
        let mut last = padding_id;
        positions.extend(batch.token_ids()[rows].iter().map(|id| {
            if *id == padding_id {
                return padding_id;
            }
            last = last.saturating_add(1);
            last
        }));
    }
    positions
}

impl Table {
    fn load(
        view: &View,
        name: &'static str,
        tensor: &str,
        rows: usize,
        hidden_size: usize,
        device: &Device,
    ) -> Result<Self> {
        let values = view.pp(tensor).read_f32("weight", &[rows, hidden_size])?;
        let values = if device.is_cpu() {
            Values::Host(values)
        } else {
            Values::Device(Tensor::from_vec(values, (rows, hidden_size), device)?)
        };
        Ok(Self { name, rows, hidden_size, values })
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.rows) {
            Some(position) => {
                let id = ids[position];
                Err(Error::IdOutOfRange { table: self.name, id, position, rows: self.rows })
            }
            None => Ok(()),
        }
    }

    /// Adds row `ids[i]` to row `i` of `sum`; ids were checked.
    fn add_rows(&self, sum: &mut [f32], ids: &[u32]) -> Result<()> {
        let Values::Host(values) = &self.values else {
            return Err(Error::InvalidLayer { problem: format!("{} table is not on the CPU", self.name) });
        };
        for (sum, &id) in sum.chunks_exact_mut(self.hidden_size).zip(ids) {
            let row = &values[id as usize * self.hidden_size..][..self.hidden_size];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    fn select_rows(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        let ids = Tensor::new(ids, device)?;
        Ok(match &self.values {
            Values::Device(table) => table.index_select(&ids, 0)?,
            Values::Host(values) => {
                Tensor::from_slice(values, (self.rows, self.hidden_size), device)?.index_select(&ids, 0)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &'static str, rows: usize) -> Table {
        let values = (0..rows * 2).map(|value| value as f32).collect();
        Table { name, rows, hidden_size: 2, values: Values::Host(values) }
    }

    fn embeddings() -> Embeddings {
        let (tokens, positions, types) = (table("token", 5), table("position", 3), table("token type", 2));
        Embeddings {
            tokens,
            positions: Some(positions),
            padding_id: None,
            token_types: Some(types),
            device: Device::Cpu,
        }
    }

    #[test]
    fn rows_are_summed_and_positions_restart() {
        let batch = Batch::new(vec![4, 0, 1], Some(vec![0, 1, 0]), vec![0, 2, 3]).unwrap();
        let sum = embeddings().forward(&batch).unwrap().to_vec2::<f32>().unwrap();
        // token row + position row + type row, where row r is [2r, 2r + 1].
        assert_eq!(
            sum,
            [[8. + 0. + 0., 9. + 1. + 1.], [0. + 2. + 2., 1. + 3. + 3.], [2. + 0. + 0., 3. + 1. + 1.]]
        );
        let ids = [4, 0, 1];
        let selected = embeddings().tokens.select_rows(&ids, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(selected, [[8., 9.], [0., 1.], [2., 3.]]);
    }

    #[test]
    fn padding_keeps_its_position_and_does_not_count() {
        let batch = Batch::from_sequences([[7, 1, 8].as_slice(), &[], &[1, 9]]).unwrap();
        assert_eq!(positions_behind(&batch, 1), [2, 1, 3, 1, 2]);
    }

    #[track_caller]
    fn check_error(batch: Batch, expected: &str) {
        let error = embeddings().forward(&batch).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn ids_out_of_range_are_named() {
        check_error(Batch::new(vec![1, 5], None, vec![0, 2]).unwrap(), "token id 5 at position 1");
        check_error(Batch::new(vec![0; 4], None, vec![0, 4]).unwrap(), "position id 3 at position 3");
        check_error(Batch::new(vec![0], Some(vec![2]), vec![0, 1]).unwrap(), "token type id 2");
    }
}

//! `Shape` and `Size`: where sizes become values.

use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, product};
use crate::ops::NodeReader;

/// `Shape`: the sizes of an array, or of a range of its dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) start: i64,
    pub(crate) end: Option<i64>,
}

impl Shape {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.opset < 15 {
            return Ok(Box::new(Self { start: 0, end: None }));
        }
        let start = node.attributes.int("start")?.unwrap_or(0);
        Ok(Box::new(Self { start, end: node.attributes.int("end")? }))
    }

    fn range<'a, T>(&self, sizes: &'a [T]) -> &'a [T] {
        let rank = i64::try_from(sizes.len()).expect("a rank is no larger than memory");
        let clamp = |axis: i64| if axis < 0 { axis.saturating_add(rank) } else { axis }.clamp(0, rank);
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(rank)));
        &sizes[start as usize..end.max(start) as usize]
    }
}

impl Operator for Shape {
    fn name(&self) -> &str {
        "Shape"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![match &inputs.get(0)?.shape {
            Some(shape) => Info::vector(DataType::I64, self.range(shape).to_vec()),
            None => Info::with_rank(DataType::I64, 1),
        }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let sizes = self.range(inputs.get(0)?.shape());
        Ok(vec![Array::vector(sizes.iter().map(|&size| size as i64).collect())])
    }
}

/// `Size`: the number of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size;

impl Size {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for Size {
    fn name(&self) -> &str {
        "Size"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let size = inputs.get(0)?.shape.as_ref().map_or_else(Dim::unknown, product);
        Ok(vec![Info { ints: Some(vec![size]), ..Info::new(DataType::I64, Vec::new()) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        Ok(vec![Array::scalar(inputs.get(0)?.len() as i64)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_dimensions_are_clamped() {
        let sizes = [2, 3, 5];
        let range = |start, end| Shape { start, end }.range(&sizes).to_vec();
        assert_eq!(range(0, None), [2, 3, 5]);
        assert_eq!(range(-1, None), [5]);
        assert_eq!(range(1, Some(-1)), [3]);
        assert_eq!(range(2, Some(1)), [0usize; 0]);
        assert_eq!(range(i64::MIN, Some(i64::MAX)), [2, 3, 5]);
        assert_eq!(range(i64::MAX, Some(i64::MIN)), [0usize; 0]);
    }

    #[test]
    fn sizes_are_known_by_symbol() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let info = Info::new(DataType::F32, vec![batch.clone(), seq.clone(), 4i64.into()]);
        let inputs = Operands::new(vec![Some(&info)]);
        let shape = Shape { start: 0, end: None }.infer(&inputs).unwrap().remove(0);
        assert_eq!(shape.ints.unwrap(), [batch.clone(), seq.clone(), 4i64.into()]);
        let size = Size.infer(&inputs).unwrap().remove(0);
        assert_eq!(size.shape.unwrap(), []);
        assert_eq!(size.ints.unwrap(), [batch.times(&seq).times(&4i64.into())]);
    }
}

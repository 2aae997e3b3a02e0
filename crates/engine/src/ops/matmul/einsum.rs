//! `Einsum`: sums of products over named dimensions.
//!
//! Operands are multiplied one after the other. For each product, dimensions that both have are a batch, or summed if
//! nothing later needs them; with the others in front and behind it is a product of matrices.

use std::collections::BTreeMap;

use super::matmul;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, checked_len, element_count, problem};
use crate::ops::elementwise::cast;
use crate::ops::number::{for_number, wide, widen};
use crate::ops::permute::permute;
use crate::ops::reduction::reduce::{Reduce, Reduction};
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[Entry::new("Einsum", 1..=usize::MAX, Einsum::read)];

/// `Einsum`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Einsum {
    /// The names of each operand's dimensions; [`ELLIPSIS`] stands for any number of them.
    pub(crate) inputs: Vec<Vec<char>>,
    pub(crate) output: Vec<char>,
}

/// Dimensions without names.
pub(crate) const ELLIPSIS: char = '.';

/// A named dimension, or one of an ellipsis, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Unnamed(usize),
    Named(char),
}

impl Einsum {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let Some(equation) = node.attributes.string("equation")? else {
            problem!("attribute `equation` is missing");
        };
        let einsum = Self::parse(&equation)?;
        if einsum.inputs.len() != node.num_inputs {
            problem!("equation `{equation}` is not of {} inputs", node.num_inputs);
        }
        Ok(Box::new(einsum))
    }

    fn parse(equation: &str) -> Result<Self, Problem> {
        let (left, right) = match equation.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (equation, None),
        };
        let inputs = left.split(',').map(names).collect::<Result<Vec<_>, _>>()?;
        let output = match right {
            Some(right) => names(right)?,
            None => implicit_output(&inputs),
        };
        for (index, name) in output.iter().enumerate() {
            let is_known = *name == ELLIPSIS || inputs.iter().any(|input| input.contains(name));
            if !is_known || output[..index].contains(name) {
                problem!("`{name}` of the output of equation `{equation}` is not one dimension of an input");
            }
        }
        Ok(Self { inputs, output })
    }

    /// The dimensions of an operand of this rank.
    fn labels(names: &[char], rank: usize) -> Result<Vec<Label>, Problem> {
        let named = names.iter().filter(|name| **name != ELLIPSIS).count();
        let has_ellipsis = named < names.len();
        if rank < named || (rank > named && !has_ellipsis) {
            problem!("rank {rank} does not fit `{}`", names.iter().collect::<String>());
        }
        let mut labels = Vec::with_capacity(rank);
        for &name in names {
            match name {
                ELLIPSIS => labels.extend((0..rank - named).rev().map(Label::Unnamed)),
                name => labels.push(Label::Named(name)),
            }
        }
        Ok(labels)
    }

    /// The labels of the operands and of the output.
    fn all_labels(&self, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>), Problem> {
        if ranks.len() != self.inputs.len() {
            problem!("{} inputs, expected {}", ranks.len(), self.inputs.len());
        }
        let pairs = self.inputs.iter().zip(ranks);
        let inputs = pairs.map(|(names, rank)| Self::labels(names, *rank)).collect::<Result<Vec<_>, _>>()?;
        let unnamed =
            |labels: &Vec<Label>| labels.iter().filter(|label| matches!(label, Label::Unnamed(_))).count();
        let most = inputs.iter().map(unnamed).max().unwrap_or(0);
        let named = self.output.iter().filter(|name| **name != ELLIPSIS).count();
        let has_ellipsis = named < self.output.len();
        let output = Self::labels(&self.output, named + if has_ellipsis { most } else { 0 })?;
        Ok((inputs, output))
    }
}

fn names(text: &str) -> Result<Vec<char>, Problem> {
    let text: String = text.chars().filter(|character| !character.is_whitespace()).collect();
    let mut names = Vec::new();
    for (index, part) in text.split("...").enumerate() {
        if index > 0 {
            names.push(ELLIPSIS);
        }
        names.extend(part.chars());
    }
    let parts: Vec<&str> = text.split("...").collect();
    if parts.len() > 2 || !parts.concat().chars().all(|name| name.is_ascii_alphabetic()) {
        problem!("`{text}` does not name dimensions");
    }
    Ok(names)
}

/// Dimensions without a name, and those whose name is there once, in the order of the alphabet.
fn implicit_output(inputs: &[Vec<char>]) -> Vec<char> {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    for name in inputs.iter().flatten() {
        *counts.entry(*name).or_default() += 1;
    }
    let ellipsis = counts.contains_key(&ELLIPSIS).then_some(ELLIPSIS);
    let once = counts.into_iter().filter(|(name, count)| *count == 1 && *name != ELLIPSIS);
    ellipsis.into_iter().chain(once.map(|(name, _)| name)).collect()
}

impl Operator for Einsum {
    fn name(&self) -> &'static str {
        "Einsum"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let dtype = inputs.get(0)?.dtype;
        wide(dtype)?;
        let mut shapes = Vec::new();
        for input in inputs.iter_from(0) {
            let Some(input) = input else { problem!("an input is missing") };
            if input.dtype != dtype {
                problem!("inputs are {dtype} and {}", input.dtype);
            }
            match &input.shape {
                Some(shape) => shapes.push(shape),
                None => return Ok(vec![Info::unknown(dtype)]),
            }
        }
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let (labels, output) = self.all_labels(&ranks)?;
        let mut sizes: BTreeMap<Label, Dim> = BTreeMap::new();
        for (label, size) in labels.iter().flatten().zip(shapes.into_iter().flatten()) {
            let known = sizes.entry(*label).or_insert_with(|| size.clone());
            *known =
                broadcast::dims_of(&[std::slice::from_ref(&*known), std::slice::from_ref(size)])?.remove(0);
        }
        let shape =
            output.iter().map(|label| sizes.get(label).cloned().unwrap_or_else(Dim::unknown)).collect();
        Ok(vec![Info::new(dtype, shape)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let arrays: Vec<Array> =
            (0..inputs.len()).map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
        let ranks: Vec<usize> = arrays.iter().map(Array::rank).collect();
        let (labels, output) = self.all_labels(&ranks)?;
        let dtype = inputs_dtype(&arrays)?;
        let mut terms = Vec::new();
        for (array, labels) in arrays.into_iter().zip(labels) {
            let array = widen(array)?;
            terms.push(for_number!(array.dtype(), T => Term { array, labels }.diagonal::<T>()?));
        }
        let mut terms = terms.into_iter();
        let Some(mut product) = terms.next() else { problem!("there are no inputs") };
        let mut rest: Vec<Term> = terms.collect();
        product = product.keep(&output, &rest)?;
        while !rest.is_empty() {
            let next = rest.remove(0).keep(&[output.as_slice(), &product.labels].concat(), &rest)?;
            product = product.times(next, &output, &rest)?;
        }
        let shape = product.array.shape();
        let wanted: Vec<usize> = output
            .iter()
            .map(|label| product.labels.iter().position(|candidate| candidate == label))
            .collect::<Option<_>>()
            .ok_or_else(|| Problem::new(format!("a dimension of the output is missing in {shape:?}")))?;
        let result = for_number!(product.array.dtype(), T => permute::<T>(&product.array, &wanted)?);
        Ok(vec![cast(result, dtype)?])
    }
}

fn inputs_dtype(arrays: &[Array]) -> Result<crate::graph::DataType, Problem> {
    let dtype = match arrays.first() {
        Some(array) => array.dtype(),
        None => problem!("there are no inputs"),
    };
    match arrays.iter().find(|array| array.dtype() != dtype) {
        None => Ok(dtype),
        Some(other) => problem!("inputs are {dtype} and {}", other.dtype()),
    }
}

/// An operand whose dimensions have labels.
struct Term {
    array: Array,
    labels: Vec<Label>,
}

impl Term {
    fn size(&self, label: Label) -> usize {
        let dimension = self.labels.iter().position(|candidate| *candidate == label);
        dimension.map_or(1, |dimension| self.array.shape()[dimension])
    }

    /// What lies where dimensions of one label have one index.
    fn diagonal<T: crate::ops::number::Number>(self) -> Result<Self, Problem> {
        let mut labels: Vec<Label> = Vec::new();
        let (mut shape, mut strides): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for (dimension, label) in self.labels.iter().enumerate() {
            let size = self.array.shape()[dimension];
            let stride: usize = self.array.shape()[dimension + 1..].iter().product();
            match labels.iter().position(|known| known == label) {
                None => {
                    labels.push(*label);
                    shape.push(size);
                    strides.push(stride);
                }
                Some(known) if shape[known] == size => strides[known] += stride,
                Some(known) => problem!("dimensions of {} and {size} have one name", shape[known]),
            }
        }
        if labels.len() == self.labels.len() {
            return Ok(self);
        }
        let from = self.array.values::<T>()?;
        let mut values = Vec::with_capacity(checked_len(&shape, size_of::<T>())?);
        if element_count(&shape)? > 0 {
            broadcast::for_each_index(&shape, |index| {
                values.push(
                    from[index.iter().zip(&strides).map(|(index, stride)| index * stride).sum::<usize>()],
                );
            });
        }
        Ok(Self { array: Array::new(shape, values)?, labels })
    }

    /// Sums over dimensions that neither `wanted` nor a later operand has.
    fn keep(self, wanted: &[Label], rest: &[Self]) -> Result<Self, Problem> {
        let is_kept =
            |label: &Label| wanted.contains(label) || rest.iter().any(|term| term.labels.contains(label));
        let axes: Vec<i64> =
            (0..self.labels.len()).filter(|&d| !is_kept(&self.labels[d])).map(|d| d as i64).collect();
        if axes.is_empty() {
            return Ok(self);
        }
        let reduce = Reduce {
            reduction: Reduction::Sum,
            axes: Some(axes),
            keepdims: false,
            noop_with_empty_axes: true,
        };
        let array = reduce.run(Operands::new(vec![Some(self.array)]))?.remove(0);
        Ok(Self { array, labels: self.labels.into_iter().filter(is_kept).collect() })
    }

    /// `[batch, first, second]`: the dimensions of these labels, each group as one; those that are missing have size
    /// one, and those of a batch are repeated to `sizes`.
    fn arranged(&self, groups: [&[Label]; 3], sizes: &[usize]) -> Result<Array, Problem> {
        let order: Vec<usize> = groups
            .iter()
            .flat_map(|group| group.iter())
            .filter_map(|label| self.labels.iter().position(|candidate| candidate == label))
            .collect();
        let batch: Vec<usize> = groups[0].iter().map(|&label| self.size(label)).collect();
        let size = |group: &[Label]| group.iter().map(|&label| self.size(label)).product::<usize>();
        let matrix = [size(groups[1]), size(groups[2])];
        for_number!(self.array.dtype(), T => {
            let array = permute::<T>(&self.array, &order)?.with_shape([batch.as_slice(), &matrix].concat())?;
            if batch == sizes { Ok(array) } else { broadcast::expand::<T>(&array, &[sizes, &matrix].concat()) }
        })
    }

    fn times(self, other: Self, output: &[Label], rest: &[Self]) -> Result<Self, Problem> {
        let is_kept =
            |label: &Label| output.contains(label) || rest.iter().any(|term| term.labels.contains(label));
        let (shared, left): (Vec<Label>, Vec<Label>) =
            self.labels.iter().partition(|label| other.labels.contains(label));
        let right: Vec<Label> =
            other.labels.iter().filter(|label| !self.labels.contains(label)).copied().collect();
        for &label in &shared {
            let (a, b) = (self.size(label), other.size(label));
            if a != b && a != 1 && b != 1 {
                problem!("dimensions of {a} and {b} have one name");
            }
        }
        // A dimension that is broadcast is summed after it was repeated.
        let (summed, batch): (Vec<Label>, Vec<Label>) =
            shared.iter().partition(|label| !is_kept(label) && self.size(**label) == other.size(**label));
        let sizes: Vec<usize> = batch
            .iter()
            .map(|&label| if self.size(label) == 1 { other.size(label) } else { self.size(label) })
            .collect();
        let a = self.arranged([&batch, &left, &summed], &sizes)?;
        let b = other.arranged([&batch, &summed, &right], &sizes)?;
        let shape = [
            sizes,
            left.iter().map(|&label| self.size(label)).collect(),
            right.iter().map(|&label| other.size(label)).collect(),
        ];
        let product = matmul(a, b)?.with_shape(shape.concat())?;
        Self { array: product, labels: [batch, left, right].concat() }.keep(output, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(equation: &str, shapes: &[&[usize]]) -> Result<Array, Problem> {
        let counted = |shape: &&[usize]| {
            let len = shape.iter().product::<usize>();
            Some(Array::new(*shape, (0..len as i64).collect()).unwrap())
        };
        let inputs = shapes.iter().map(counted).collect();
        Einsum::parse(equation)?.run(Operands::new(inputs)).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn equations_are_computed() {
        let check = |equation, shapes: &[&[usize]], shape: &[usize], values: &[i64]| {
            assert_eq!(
                run(equation, shapes).unwrap(),
                Array::new(shape, values.to_vec()).unwrap(),
                "{equation}"
            );
        };
        check("ij,jk", &[&[2, 2], &[2, 2]], &[2, 2], &[2, 3, 6, 11]);
        check("ij->ji", &[&[2, 2]], &[2, 2], &[0, 2, 1, 3]);
        check("ii", &[&[2, 2]], &[], &[3]);
        check("ii->i", &[&[2, 2]], &[2], &[0, 3]);
        check("i,i->", &[&[3], &[3]], &[], &[5]);
        check("i,j", &[&[2], &[2]], &[2, 2], &[0, 0, 0, 1]);
        check("i,i->i", &[&[3], &[3]], &[3], &[0, 1, 4]);
        check("...i->...", &[&[2, 2]], &[2], &[1, 5]);
        check("ij,jk,kl->il", &[&[2, 2], &[2, 2], &[2, 2]], &[2, 2], &[6, 11, 22, 39]);
        check("...ij,...jk->...ik", &[&[2, 1, 2], &[1, 2, 1]], &[2, 1, 1], &[1, 3]);
        check("b i d, d i b -> i", &[&[1, 2, 2], &[2, 2, 1]], &[2], &[2, 11]);
        check("i,i", &[&[1], &[3]], &[], &[0]);
    }

    #[test]
    fn wrong_equations_and_shapes_are_problems() {
        for equation in ["i->j", "i->ii", "i..j->i", "....->", "i1->i", "......->", "i-j"] {
            assert!(Einsum::parse(equation).is_err(), "{equation}");
        }
        assert!(run("ij,jk", &[&[2, 2], &[3, 2]]).is_err());
        assert!(run("ii", &[&[2, 3]]).is_err());
        assert!(run("ij", &[&[2]]).is_err());
        assert!(run("i...,i", &[&[], &[2]]).is_err());
        assert!(run("ij,kl", &[&[1 << 10, 1 << 10], &[1 << 10, 1 << 10]]).is_err());
        assert!(run("ij,jk", &[&[2, 0], &[0, 3]]).unwrap().values::<i64>().unwrap() == [0; 6]);
    }

    #[test]
    fn symbols_pass_through() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let of = |shape: Vec<Dim>| Info::new(crate::graph::DataType::F32, shape);
        let a = of(vec![batch.clone(), seq.clone(), 12i64.into(), 32i64.into()]);
        let einsum = Einsum::parse("bqhd,bkhd->bhqk").unwrap();
        let info = einsum.infer(&Operands::new(vec![Some(&a), Some(&a)])).unwrap().remove(0);
        assert_eq!(info.shape.unwrap(), [batch, 12i64.into(), seq.clone(), seq]);
    }
}

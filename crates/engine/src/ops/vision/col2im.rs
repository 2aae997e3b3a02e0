//! `Col2Im`: sums of overlapping blocks, which a convolution's columns are.

use super::window::{OUTSIDE, Padding, Window, size_list};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::ops::NodeReader;

/// `Col2Im`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Col2Im {
    /// Without its kernel, which is an input.
    pub(crate) window: Window,
}

impl Col2Im {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self {
            window: Window {
                kernel: None,
                strides: size_list(node, "strides", 1)?,
                dilations: size_list(node, "dilations", 1)?,
                padding: Padding::Explicit(size_list(node, "pads", 0)?),
                rounds_up: false,
            },
        }))
    }
}

fn size_vector(array: &Array, what: &str) -> Result<Vec<usize>, Problem> {
    let size = |size| usize::try_from(size).map_err(|_| Problem::new(format!("{what} has {size} in it")));
    array.to_ints()?.into_iter().map(size).collect()
}

impl Operator for Col2Im {
    fn name(&self) -> &str {
        "Col2Im"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        if !x.dtype.is_float() {
            problem!("expected floating-point numbers, got {}", x.dtype);
        }
        let (Some(shape), Some(grid)) = (&x.shape, &inputs.get(1)?.ints) else {
            return Ok(vec![Info::unknown(x.dtype)]);
        };
        let [batch, columns, _] = shape.as_slice() else {
            problem!("the input has shape {shape:?}, expected 3 dimensions");
        };
        let kernel = inputs.get(2)?.ints.as_deref().map(crate::graph::product);
        let channels = kernel.and_then(|kernel| columns.divided_by(&kernel)).unwrap_or_else(Dim::unknown);
        Ok(vec![Info::new(x.dtype, [&[batch.clone(), channels], grid.as_slice()].concat())])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let (grid, kernel) =
            (size_vector(inputs.get(1)?, "image_shape")?, size_vector(inputs.get(2)?, "block_shape")?);
        let axes = self.window.axes(&grid, &kernel)?;
        let taps = Window::taps(&axes)?;
        let places: usize = axes.iter().map(|axis| axis.output).product();
        let kernel: usize = kernel.iter().product();
        let &[batch, columns, given] = x.shape() else {
            problem!("the input has shape {:?}, expected 3 dimensions", x.shape());
        };
        if given != places || columns % kernel != 0 {
            problem!("{columns} columns of {given} are not blocks of {kernel} at {places} places");
        }
        let mut shape = vec![batch, columns / kernel];
        shape.extend(&grid);
        let size: usize = grid.iter().product();
        let mut out = vec![0.0f32; checked_len(&shape, size_of::<f32>())?];
        let values = x.to_floats()?;
        if !out.is_empty() {
            for (row, column) in values.chunks_exact(places).enumerate() {
                let out = &mut out[row / kernel * size..(row / kernel + 1) * size];
                for (place, value) in column.iter().enumerate() {
                    let tap = taps[place * kernel + row % kernel];
                    if tap != OUTSIDE {
                        out[tap as usize] += value;
                    }
                }
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), shape, out)?])
    }
}

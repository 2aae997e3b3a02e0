//! The engine of candlewick: tensors in, tensors out.
//!
//! A [`Batch`] holds token sequences packed end to end; a [`TextEncoder`] turns it into one hidden state per
//! token, `[total_tokens, hidden_size]`; [`Pooling`] and [`pooling::normalize`] turn those into one vector per
//! sequence. Encoders are built from the layers in [`nn`] with tensors that [`Weights`] reads strictly from
//! safetensors files. On CPU the layers run the fused kernels in [`kernels`]; on other devices they are
//! composed of Candle's own operations. [`runtime`] picks the device and sizes the thread pool.
//!
//! The engine opens a file only when handed its path, never touches the network, and holds no model's name.
//!
//! ```
//! use candlewick_engine::{plan, Batch, Pooling};
//! use candle_core::{Device, Tensor};
//!
//! // Two sequences of three and one tokens, with no padding between them.
//! let batch = Batch::from_sequences([[101, 7592, 102].as_slice(), [101].as_slice()])?;
//! assert_eq!(batch.total_tokens(), 4);
//!
//! let hidden_states = Tensor::new(&[[1f32, 0.], [3., 0.], [2., 3.], [5., 5.]], &Device::Cpu)?;
//! let pooled = Pooling::Mean.forward(&hidden_states, &batch)?;
//! assert_eq!(pooled.to_vec2::<f32>()?, [[2., 1.], [5., 5.]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod batch;
mod encoder;
mod error;
pub mod graph;
mod imported;
pub mod kernels;
pub mod nn;
pub mod onnx;
mod ops;
mod packing;
mod passes;
pub mod pooling;
mod precision;
pub mod runtime;
mod weights;

pub use batch::{Batch, plan};
pub use encoder::TextEncoder;
pub use error::{Error, Result};
pub use imported::{GraphOutput, ImportOptions, ImportPlan, ImportedEncoder, Int8Scales, OutputRows};
pub use packing::OutputLayout;
pub use passes::fuse;
pub use pooling::Pooling;
pub use precision::Precision;
pub use runtime::{DeviceChoice, ThreadPool};
pub use weights::{View, Weights};

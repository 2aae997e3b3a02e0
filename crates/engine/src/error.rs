//! The one error type of this crate.

use std::path::PathBuf;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why weights could not be read or a computation could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weights file could not be opened or mapped.
    #[error("could not read {}: {source}", path.display())]
    OpenWeights {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A weights file is truncated, or not in the format that it should be in.
    #[error("{}: not a valid safetensors file: {source}", path.display())]
    ParseWeights {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: safetensors::SafeTensorError,
    },
    /// A file is none that `torch.save` wrote of a dictionary of tensors, or it is damaged.
    #[error("{}: not a PyTorch file of tensors: {problem}", path.display())]
    ParsePytorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and with which tensor.
        problem: String,
    },
    /// Two files of one checkpoint hold a tensor of the same name.
    #[error("{}: tensor `{tensor}` is also in {}", path.display(), other.display())]
    DoubledTensor {
        /// The later file.
        path: PathBuf,
        /// The earlier file.
        other: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the architecture needs is not in the checkpoint.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The checkpoint's (first) file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The checkpoint holds tensors inside the encoder that the architecture does not know: it would compute
    /// something else than the original.
    #[error("{}: the architecture does not know the tensor{} `{}`",
        path.display(), if tensors.len() == 1 { "" } else { "s" }, tensors.join("`, `"))]
    UnexpectedTensors {
        /// The checkpoint's (first) file.
        path: PathBuf,
        /// The tensors, sorted.
        tensors: Vec<String>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's elements are of a type that cannot be read as weights.
    #[error("{}: tensor `{tensor}` is {found}, expected F32, F16 or BF16", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A weight is too large for the precision that was asked for.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}, which {precision} cannot hold", path.display())]
    WeightOutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element in row-major order.
        index: usize,
        /// The element.
        value: f32,
        /// What was asked for.
        precision: crate::Precision,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}", path.display())]
    NonFiniteTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first offending element, counted in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The parts of a batch do not fit together.
    #[error("invalid batch: {problem}")]
    InvalidBatch {
        /// What does not fit.
        problem: String,
    },
    /// A token id has no row in the embedding table.
    #[error("{table} id {id} at position {position} of the batch is not below {rows}")]
    IdOutOfRange {
        /// Which table: `token`, `position` or `token type`.
        table: &'static str,
        /// The id.
        id: u32,
        /// Where in the packed batch.
        position: usize,
        /// The table's rows.
        rows: usize,
    },
    /// A layer's sizes contradict each other.
    #[error("invalid layer: {problem}")]
    InvalidLayer {
        /// What contradicts what.
        problem: String,
    },
    /// A name that stands for nothing.
    #[error("unknown {what} `{name}`, expected {expected}")]
    UnknownName {
        /// What the name should have named: `pooling`, `device`...
        what: &'static str,
        /// The name.
        name: String,
        /// What would have been understood.
        expected: &'static str,
    },
    /// A device was asked for that this build does not include.
    #[error("device `{device}` needs a build with the cargo feature `{feature}`")]
    DeviceNotBuilt {
        /// The device.
        device: String,
        /// The cargo feature that includes it.
        feature: &'static str,
    },
    /// A device could not be opened.
    #[error("could not open device `{device}`: {source}")]
    OpenDevice {
        /// The device.
        device: String,
        /// Candle's reason.
        source: candle_core::Error,
    },
    /// The thread pool could not be started.
    #[error("could not start {threads} threads: {source}")]
    StartThreads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// An ONNX file, or a file with its tensors, could not be opened or mapped.
    #[error("could not read {}: {source}", path.display())]
    OpenOnnx {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is truncated, or not an ONNX file.
    #[error("{}: not a valid ONNX file: {source}", path.display())]
    ParseOnnx {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
    /// An ONNX file contradicts itself, or holds what this importer does not know.
    #[error("{}: {place}: {problem}", path.display())]
    InvalidOnnx {
        /// The file.
        path: PathBuf,
        /// Where in it: ``node `x` (MatMul)``, ``tensor `y` ``...
        place: String,
        /// What is wrong there.
        problem: crate::graph::Problem,
    },
    /// An ONNX file uses operators that this importer does not know; all of them are listed.
    #[error("{}: unsupported operator{}: {}",
        path.display(), if operators.len() == 1 { "" } else { "s" }, operators.join(", "))]
    UnsupportedOperators {
        /// The file.
        path: PathBuf,
        /// What stands for one operator: its name, how many nodes have it, and the first one's name.
        operators: Vec<String>,
    },
    /// A node of a graph does not take its inputs.
    #[error("node `{node}` ({operator}): {problem}")]
    Node {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong.
        problem: crate::graph::Problem,
    },
    /// A graph was given the wrong inputs.
    #[error("`{input}` {problem}")]
    GraphInput {
        /// The input.
        input: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor operation failed.
    #[error("computation failed: {0}")]
    Compute(#[from] candle_core::Error),
}

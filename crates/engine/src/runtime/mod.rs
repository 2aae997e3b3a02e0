//! Where computation runs: the device, the threads that feed it, and teams of threads inside one forward.

mod device;
mod mapped;
pub(crate) mod memory;
mod team;
mod threads;

pub use device::DeviceChoice;
pub(crate) use mapped::MappedFile;
pub use memory::keep_freed_memory;
pub(crate) use team::share;
pub use threads::ThreadPool;

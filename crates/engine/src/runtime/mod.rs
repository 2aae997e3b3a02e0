//! Where computation runs: the device, and the threads that feed it.

mod device;
mod threads;

pub use device::DeviceChoice;
pub use threads::ThreadPool;

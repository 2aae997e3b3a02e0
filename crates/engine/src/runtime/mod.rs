//! Where computation runs: the device, the threads that feed it, and teams of threads inside one forward.

mod device;
mod team;
mod threads;

pub use device::DeviceChoice;
pub(crate) use team::share;
pub use threads::ThreadPool;

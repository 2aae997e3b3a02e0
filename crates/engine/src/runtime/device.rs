//! The choice of a device, by the names that users type.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::{Error, Result};

/// A device as users name it: `cpu`, `cuda`, `cuda:1`, `metal`.
///
/// A device that was asked for is the device that is used: there is no fall-back to the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// When this build does not include the device, or the system does not have it.
    pub fn open(self) -> Result<Device> {
        let open_error = |source| Error::OpenDevice { device: self.to_string(), source };
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => {
                Err(Error::DeviceNotBuilt { device: self.to_string(), feature: "cuda" })
            }
            DeviceChoice::Metal if !cfg!(feature = "metal") => {
                Err(Error::DeviceNotBuilt { device: self.to_string(), feature: "metal" })
            }
            DeviceChoice::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(open_error),
            DeviceChoice::Metal => Device::new_metal(0).map_err(open_error),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceChoice::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownName {
            what: "device",
            name: name.into(),
            expected: "cpu, cuda, cuda:N or metal",
        };
        match name {
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal),
            _ => {
                let ordinal = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                ordinal.parse().map(DeviceChoice::Cuda).map_err(|_| unknown())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for name in ["gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(name.parse::<DeviceChoice>().is_err(), "{name}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_device_that_was_not_built_is_an_error_not_a_fallback() {
        let error = DeviceChoice::Cuda(0).open().expect_err("not built").to_string();
        assert!(error.contains("cuda:0") && error.contains("cargo feature `cuda`"), "{error}");
    }
}

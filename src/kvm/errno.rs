//! Error numbers of Linux, as KVM's device API returns them.

use crate::error::TeardownError;

/// Error number of a device attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[non_exhaustive]
pub enum Errno {
    /// `ENOENT`: a region of redistributors that there is not.
    Noent = 2,
    /// `ENXIO`: no such attribute, or a device without address.
    Nxio = 6,
    /// `E2BIG`: an address out of range.
    TooBig = 7,
    /// `ENOMEM`: beyond a quota of [`ItsConfig`](crate::config::ItsConfig).
    NoMem = 12,
    /// `EFAULT`: a table that is not in guest memory.
    Fault = 14,
    /// `EBUSY`: a vCPU on a CPU, or a setting at the wrong time.
    Busy = 16,
    /// `EEXIST`: an address that is set, or a collection that is mapped.
    Exist = 17,
    /// `EINVAL`: a value that cannot be.
    Inval = 22,
}

impl Errno {
    /// Returns the number, positive.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Noent => "ENOENT: no such region of redistributors",
            Self::Nxio => "ENXIO: no such attribute, or a device without address",
            Self::TooBig => "E2BIG: an address out of range",
            Self::NoMem => "ENOMEM: beyond a quota",
            Self::Fault => "EFAULT: a table that is not in guest memory",
            Self::Busy => "EBUSY: a vCPU on a CPU, or a setting at the wrong time",
            Self::Exist => "EEXIST: an address that is set, or a collection that is mapped",
            Self::Inval => "EINVAL: a value that cannot be",
        })
    }
}

impl core::error::Error for Errno {}

impl From<TeardownError> for Errno {
    /// Returns the error number of a save that has failed.
    fn from(_: TeardownError) -> Self {
        Self::Busy
    }
}

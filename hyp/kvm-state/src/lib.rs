//! A VM's state as the calls of Linux KVM for arm64 have it, and its form in a file.
//!
//! The state is what a VMM reads when it saves a VM with `KVM_GET_DEVICE_ATTR`, `KVM_GET_ONE_REG`
//! and `KVM_GET_MP_STATE`, beside the guest's RAM. Nothing is translated: a restore replays the
//! same calls. Both sides of a hop between Linux KVM and `hyp` read and write this file.
//!
//! # File
//! [`MAGIC`], [`VERSION`] and the number of bytes that follow, little-endian words of 64 bits. Then
//! [`Saved`] in the form of `postcard`. The file may be longer.
//!
//! # Order
//! [`Saved::attributes`] are in the order in which they have to be set, which differs from that of
//! saving: `KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES` and `KVM_DEV_ARM_ITS_SAVE_TABLES` write to the
//! guest's RAM before anything else is read, and have no place in the list.
//!
//! 1. The guest's RAM, then the vCPUs' registers and power.
//! 2. `GICD_IIDR`, which chooses the form of all that follows, then `GICD_CTLR`.
//! 3. The redistributors: tables of LPIs before `GICR_CTLR`, lines before latches.
//! 4. The distributor: routes and lines before latches.
//! 5. The CPU interfaces.
//! 6. Each ITS: `GITS_IIDR`, `GITS_CBASER`, `GITS_CREADR`, `GITS_CWRITER`, the `GITS_BASER<n>`,
//!    then `KVM_DEV_ARM_ITS_RESTORE_TABLES`, which stands in the list, and `GITS_CTLR` last.
#![no_std]

extern crate alloc;

pub mod order;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// The file's first word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"kvmstate");

/// The version of the form.
pub const VERSION: u64 = 1;

/// Bytes before the state.
const HEADER: usize = 24;

/// Bytes of a page of RAM.
pub const PAGE: usize = 4096;

/// State of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved<'a> {
    /// Parts of the VM, which a restore makes first.
    pub shape: Shape,
    /// State of each vCPU, by its number.
    pub vcpus: Vec<Vcpu>,
    /// Attributes of the interrupt controllers, in the order in which they are set.
    pub attributes: Vec<Attribute>,
    /// Pages of RAM, those of zeros left out.
    #[serde(borrow)]
    pub pages: Vec<Page<'a>>,
}

/// Parts of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// `MPIDR_EL1` of each vCPU, affinity fields only, by the vCPU's number.
    pub affinities: Vec<u64>,
    /// Number of INTIDs below the LPIs, `KVM_DEV_ARM_VGIC_GRP_NR_IRQS`.
    pub interrupts: u32,
    /// Guest-physical address of each ITS.
    pub itses: Vec<u64>,
    /// Guest-physical address of RAM, and its bytes.
    pub ram: (u64, u64),
}

/// State of a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// `KVM_MP_STATE_*`.
    pub mp_state: u32,
    /// All registers of `KVM_GET_REG_LIST`, in its order.
    pub registers: Vec<Register>,
}

/// Register of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The register's number, which has its size.
    pub id: u64,
    /// The value, little-endian.
    pub value: Vec<u8>,
}

/// Interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// `KVM_DEV_TYPE_ARM_VGIC_V3`.
    Gic,
    /// `KVM_DEV_TYPE_ARM_VGIC_ITS`, by its place in [`Shape::itses`].
    Its(u32),
}

/// Attribute of an interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The controller.
    pub device: Device,
    /// `KVM_DEV_ARM_VGIC_GRP_*`.
    pub group: u32,
    /// The attribute in its group.
    pub attribute: u64,
    /// The value; the upper half is zero where KVM has 32 bits. 0 for an action.
    pub value: u64,
}

/// Page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<'a> {
    /// Guest-physical address.
    pub address: u64,
    /// [`PAGE`] bytes.
    pub content: &'a [u8],
}

/// Fault of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// The file does not begin with [`MAGIC`].
    NoState,
    /// The file has another version.
    Version(u64),
    /// The file is cut off, or does not hold what it should.
    Damaged,
}

impl Saved<'_> {
    /// Returns the state as a file.
    ///
    /// # Errors
    /// [`FileError::Damaged`] if a sequence is too long for the form.
    pub fn to_file(&self) -> Result<Vec<u8>, FileError> {
        let state = postcard::to_allocvec(self).map_err(|_| FileError::Damaged)?;
        let header = [MAGIC, VERSION, state.len() as u64].map(u64::to_le_bytes);
        let mut file = header.concat();
        file.extend(state);
        Ok(file)
    }
}

impl<'a> Saved<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// The file is no state, of another version, or damaged.
    pub fn from_file(file: &'a [u8]) -> Result<Self, FileError> {
        let word = |place: usize| {
            let bytes = file.get(place * 8..place * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if word(0) != Some(MAGIC) {
            return Err(FileError::NoState);
        }
        let version = word(1).ok_or(FileError::Damaged)?;
        if version != VERSION {
            return Err(FileError::Version(version));
        }

        let state = word(2).and_then(|length| {
            let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
            file.get(HEADER..end)
        });
        let state = state.ok_or(FileError::Damaged)?;
        let saved: Self = postcard::from_bytes(state).map_err(|_| FileError::Damaged)?;
        let whole = saved.pages.iter().all(|page| page.content.len() == PAGE);
        whole.then_some(saved).ok_or(FileError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const CONTENT: [u8; PAGE] = [0x5a; PAGE];

    fn saved() -> Saved<'static> {
        Saved {
            shape: Shape {
                affinities: vec![0, 1],
                interrupts: 992,
                itses: vec![0x808_0000],
                ram: (0x4000_0000, 1 << 27),
            },
            vcpus: vec![Vcpu {
                mp_state: 0,
                registers: vec![Register {
                    id: 0x6030_0000_0010_0000,
                    value: vec![1, 2, 3, 4, 5, 6, 7, 8],
                }],
            }],
            attributes: vec![Attribute {
                device: Device::Its(0),
                group: 8,
                attribute: 0x80,
                value: u64::MAX,
            }],
            pages: vec![Page {
                address: 0x4000_1000,
                content: &CONTENT,
            }],
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_also_from_a_longer_file() {
        let mut file = saved().to_file().unwrap();
        assert_eq!(Saved::from_file(&file), Ok(saved()));
        file.extend([0; 100]);
        assert_eq!(Saved::from_file(&file), Ok(saved()));
    }

    #[test]
    fn another_file_is_refused() {
        let file = saved().to_file().unwrap();
        assert_eq!(Saved::from_file(&[0; 64]), Err(FileError::NoState));
        assert_eq!(Saved::from_file(&[]), Err(FileError::NoState));
        for length in 8..file.len() {
            assert_eq!(Saved::from_file(&file[..length]), Err(FileError::Damaged));
        }
        let mut other = file.clone();
        other[8] = 9;
        assert_eq!(Saved::from_file(&other), Err(FileError::Version(9)));
        let mut short = saved();
        short.pages[0].content = &CONTENT[1..];
        let file = short.to_file().unwrap();
        assert_eq!(Saved::from_file(&file), Err(FileError::Damaged));
    }
}

//! Accesses of a guest to its CPU interface, without a trap.

use vgic::cpu_interface::software::SoftwareInterface;

use crate::input::Input;
use crate::operation::intid;

/// One access.
#[derive(Clone, Copy, Debug)]
pub enum Guest {
    /// `ICC_IAR0_EL1` or `ICC_IAR1_EL1`.
    Acknowledge(bool),
    /// `ICC_EOIR0_EL1` or `ICC_EOIR1_EL1` for the last acknowledged INTID.
    End(bool),
    /// An EOI of an arbitrary INTID.
    StrayEnd(bool, u32),
    /// `ICC_DIR_EL1`.
    Deactivate(u32),
    /// `ICC_PMR_EL1`.
    Mask(u8),
    /// `ICC_CTLR_EL1`.
    Control(u8),
    /// `ICC_BPR0_EL1` or `ICC_BPR1_EL1`.
    BinaryPoint(bool, u8),
    /// `ICC_IGRPEN0_EL1` or `ICC_IGRPEN1_EL1`.
    Group(bool, bool),
    /// `ICC_AP0R0_EL1` or `ICC_AP1R0_EL1`.
    ActivePriorities(bool, u32),
}

impl Guest {
    /// Reads the next access from the input.
    pub fn read(input: &mut Input<'_>) -> Self {
        let choice = input.byte();
        // Mostly Group 1.
        let group1 = choice & 0x30 != 0;
        match choice & 0xf {
            0..6 => Self::Acknowledge(group1),
            6..10 => Self::End(group1),
            10 => Self::StrayEnd(group1, intid(input)),
            11 => Self::Deactivate(intid(input)),
            12 => Self::Mask(input.byte()),
            13 => Self::Control(input.byte() & 3),
            14 if choice & 0x40 == 0 => Self::BinaryPoint(group1, input.byte() & 7),
            14 => Self::ActivePriorities(group1, input.value() as u32),
            _ => Self::Group(group1, choice & 0x40 == 0),
        }
    }

    /// Makes the access. Returns false for a trapped [`Guest::Deactivate`].
    pub fn access(self, interface: &SoftwareInterface, acknowledged: &mut Vec<u32>) -> bool {
        match self {
            Self::Acknowledge(group1) => {
                let intid = if group1 {
                    interface.read_iar1()
                } else {
                    interface.read_iar0()
                };
                if !(1020..8192).contains(&intid) {
                    acknowledged.push(intid);
                }
            }
            Self::End(group1) => {
                let intid = acknowledged.pop().unwrap_or(1023);
                Self::StrayEnd(group1, intid).access(interface, acknowledged);
            }
            Self::StrayEnd(true, intid) => interface.write_eoir1(intid),
            Self::StrayEnd(false, intid) => interface.write_eoir0(intid),
            Self::Deactivate(intid) => return interface.write_dir(intid).is_ok(),
            Self::Mask(mask) => drop(interface.write_pmr(mask)),
            Self::Control(value) => drop(interface.write_ctlr(value.into())),
            Self::BinaryPoint(true, value) => interface.write_bpr1(value),
            Self::BinaryPoint(false, value) => interface.write_bpr0(value),
            Self::Group(true, on) => interface.write_igrpen1(on),
            Self::Group(false, on) => interface.write_igrpen0(on),
            Self::ActivePriorities(true, value) => interface.write_ap1r(0, value),
            Self::ActivePriorities(false, value) => interface.write_ap0r(0, value),
        }
        true
    }
}

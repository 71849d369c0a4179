//! Priorities of a virtual CPU interface: binary points, preemption and active priorities
//! (IHI 0069, 4.8).
//!
//! A priority has 8 bits, and 0 is the most urgent. The binary point splits a priority into a
//! *group priority*, for preemption, and a *subpriority*, for the order of pending interrupts only.
//! The active priorities registers hold a bit for each active group priority.
//!
//! ```
//! use vgic::cpu_interface::{priority::{self, ActivePriorities}, vmcr};
//!
//! // Group 1 enabled, nothing masked, 5 bits of preemption.
//! let vmcr = vmcr::reset(5) | vmcr::VENG1 | 0xf8 << vmcr::VPMR_SHIFT;
//! let mut active = ActivePriorities::new(5);
//! assert!(priority::signals(vmcr, active.running_priority(), 0xa0, true));
//! active.activate(true, 0xa0 & priority::group_mask(vmcr, true));
//! // Equal priority does not preempt, a more urgent one does.
//! assert!(!priority::signals(vmcr, active.running_priority(), 0xa0, true));
//! assert!(priority::signals(vmcr, active.running_priority(), 0x98, true));
//! ```

use super::CpuInterface;
use super::vmcr;

/// Running priority while no interrupt is active (`ICC_RPR_EL1`).
pub const IDLE: u8 = 0xff;

/// Returns the binary point of a group, 0-7, for the guest's read of `ICC_BPR<n>_EL1`.
///
/// With `CBPR` set, Group 1 shows Group 0's plus one, saturated.
#[must_use]
pub const fn binary_point(vmcr: u64, group1: bool) -> u8 {
    let bpr0 = (vmcr >> vmcr::VBPR0_SHIFT) as u8 & 7;
    if !group1 {
        bpr0
    } else if vmcr & vmcr::VCBPR == 0 {
        (vmcr >> vmcr::VBPR1_SHIFT) as u8 & 7
    } else if bpr0 < 7 {
        bpr0 + 1
    } else {
        7
    }
}

/// Returns the mask of a group priority in a priority (IHI 0069, 4.8.2).
///
/// With a binary point of n, the mask is bits 7 down to n + 1 in Group 0, and bits 7 down to n in
/// Group 1. With `CBPR` set, Group 1 has the mask of Group 0.
#[must_use]
pub const fn group_mask(vmcr: u64, group1: bool) -> u8 {
    let own_point = group1 && vmcr & vmcr::VCBPR == 0;
    let subpriority_bits = binary_point(vmcr, own_point) + !own_point as u8;
    (0xff_u32 << subpriority_bits) as u8
}

/// Returns true if a pending interrupt is signalled to the guest: the interrupt is in an enabled
/// group, passes the priority mask, and preempts the running priority (IHI 0069, 4.8.4 and 4.8.5).
///
/// The caller checks `ICH_HCR_EL2.En`.
#[must_use]
pub const fn signals(vmcr: u64, running_priority: u8, priority: u8, group1: bool) -> bool {
    let mask = group_mask(vmcr, group1);
    vmcr & vmcr::group_enable(group1) != 0
        && priority < vmcr::priority_mask(vmcr)
        && (running_priority == IDLE || priority & mask < running_priority & mask)
}

/// Returns the running priority of a CPU's interface, as [`ActivePriorities::running_priority`] of
/// the registers.
#[inline]
pub(crate) fn running(interface: &impl CpuInterface) -> u8 {
    let vtr = interface.vtr();
    for index in 0..vtr.apr_count() {
        let active = interface.read_apr(false, index) | interface.read_apr(true, index);
        if active != 0 {
            let level = 32 * index + active.trailing_zeros() as usize;
            return (level << (8 - vtr.preemption_bits)) as u8;
        }
    }

    IDLE
}

/// Marks a group priority as active in a CPU's interface, as [`ActivePriorities::activate`] does.
pub(crate) fn activate(interface: &impl CpuInterface, group1: bool, group_priority: u8) {
    let level = usize::from(group_priority >> (8 - interface.vtr().preemption_bits));
    let active = interface.read_apr(group1, level / 32);
    interface.write_apr(group1, level / 32, active | 1 << (level % 32));
}

/// Clears the most urgent active group priority of a CPU's interface, as
/// [`ActivePriorities::drop_priority`] does. Returns false if no priority is active.
pub(crate) fn drop_running(interface: &impl CpuInterface) -> bool {
    for index in 0..interface.vtr().apr_count() {
        let [group0, group1] = [false, true].map(|group1| interface.read_apr(group1, index));
        let active = group0 | group1;
        if active != 0 {
            let level = active & active.wrapping_neg();
            let of_group1 = group0 & level == 0;
            let bits = if of_group1 { group1 } else { group0 };
            interface.write_apr(of_group1, index, bits & !level);
            return true;
        }
    }
    false
}

/// Active priorities of both groups: `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2`.
///
/// Bit b of register n stands for the group priority (32 n + b) << (8 - preemption bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivePriorities {
    preemption_bits: u8,
    registers: [[u32; Self::MAX_REGISTERS]; 2],
}

impl ActivePriorities {
    /// Most registers of a group, with 7 bits of preemption.
    pub const MAX_REGISTERS: usize = 4;

    /// Creates the state without active priorities; `preemption_bits` is 5-7, from
    /// [`Vtr`](super::Vtr).
    #[must_use]
    pub const fn new(preemption_bits: u8) -> Self {
        Self {
            preemption_bits,
            registers: [[0; Self::MAX_REGISTERS]; 2],
        }
    }

    /// Returns `ICH_AP0R<index>_EL2` (`group1` false) or `ICH_AP1R<index>_EL2`.
    #[must_use]
    pub const fn register(&self, group1: bool, index: usize) -> u32 {
        self.registers[group1 as usize][index]
    }

    /// Replaces `ICH_AP0R<index>_EL2` (`group1` false) or `ICH_AP1R<index>_EL2`.
    pub const fn set_register(&mut self, group1: bool, index: usize, value: u32) {
        self.registers[group1 as usize][index] = value;
    }

    /// Marks a group priority as active: the effect of an acknowledge.
    pub const fn activate(&mut self, group1: bool, group_priority: u8) {
        let level = group_priority >> (8 - self.preemption_bits);
        self.registers[group1 as usize][level as usize / 32] |= 1 << (level % 32);
    }

    /// Returns the most urgent active group priority of either group, or [`IDLE`] (`ICC_RPR_EL1`).
    #[must_use]
    pub fn running_priority(&self) -> u8 {
        self.most_urgent()
            .map_or(IDLE, |level| self.priority_of(level))
    }

    /// Clears and returns the most urgent active group priority: the priority drop of an end of
    /// interrupt. Returns `None` if no priority is active.
    ///
    /// If both groups are active at the priority, Group 0 drops first. No architected sequence of
    /// acknowledges leads to the situation, only a hypervisor's write.
    pub fn drop_priority(&mut self) -> Option<u8> {
        let level = self.most_urgent()?;
        let (index, bit) = (level / 32, 1 << (level % 32));
        let group1 = self.registers[0][index] & bit == 0;
        self.registers[usize::from(group1)][index] &= !bit;
        Some(self.priority_of(level))
    }

    /// Returns the number of the lowest bit set in either group.
    fn most_urgent(&self) -> Option<usize> {
        let [group0, group1] = &self.registers;
        group0
            .iter()
            .zip(group1)
            .enumerate()
            .map(|(index, (group0, group1))| (index, group0 | group1))
            .find(|&(_, active)| active != 0)
            .map(|(index, active)| 32 * index + active.trailing_zeros() as usize)
    }

    /// Returns the group priority of bit `level`.
    const fn priority_of(&self, level: usize) -> u8 {
        (level << (8 - self.preemption_bits)) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmcr(bpr0: u64, bpr1: u64, flags: u64) -> u64 {
        bpr0 << vmcr::VBPR0_SHIFT | bpr1 << vmcr::VBPR1_SHIFT | flags
    }

    /// Checks both tables of IHI 0069, 4.8.2: the group priority field of each binary point.
    #[test]
    fn group_masks_follow_the_binary_point() {
        for (point, group0, group1) in [
            (0, 0b1111_1110, None),
            (1, 0b1111_1100, Some(0b1111_1110)),
            (2, 0b1111_1000, Some(0b1111_1100)),
            (3, 0b1111_0000, Some(0b1111_1000)),
            (4, 0b1110_0000, Some(0b1111_0000)),
            (5, 0b1100_0000, Some(0b1110_0000)),
            (6, 0b1000_0000, Some(0b1100_0000)),
            (7, 0b0000_0000, Some(0b1000_0000)),
        ] {
            assert_eq!(group_mask(vmcr(point, 1, 0), false), group0, "{point}");
            if let Some(group1) = group1 {
                assert_eq!(group_mask(vmcr(0, point, 0), true), group1, "{point}");
            }
            // A common binary point for both groups.
            let common = vmcr(point, 1, vmcr::VCBPR);
            assert_eq!(group_mask(common, true), group0, "{point}");
            assert_eq!(binary_point(common, true), (point as u8 + 1).min(7));
        }
    }

    #[test]
    fn a_signal_needs_its_group_the_mask_and_preemption() {
        let on = |flags| vmcr(3, 4, flags | 0x80 << vmcr::VPMR_SHIFT);
        for (vmcr, running, priority, group1, signalled) in [
            (on(vmcr::VENG1), IDLE, 0x70, true, true),
            (on(vmcr::VENG1), IDLE, 0x70, false, false),
            (on(vmcr::VENG0), IDLE, 0x70, true, false),
            (on(vmcr::VENG0), IDLE, 0x70, false, true),
            // The mask is exclusive.
            (on(vmcr::VENG1), IDLE, 0x7f, true, true),
            (on(vmcr::VENG1), IDLE, 0x80, true, false),
            // The subpriority does not preempt: bits 3:0 here.
            (on(vmcr::VENG1), 0x50, 0x4f, true, true),
            (on(vmcr::VENG1), 0x50, 0x50, true, false),
            (on(vmcr::VENG1), 0x58, 0x50, true, false),
            (on(vmcr::VENG1), 0x50, 0x60, true, false),
        ] {
            assert_eq!(
                signals(vmcr, running, priority, group1),
                signalled,
                "{vmcr:#x} {running:#x} {priority:#x} {group1}"
            );
        }
    }

    #[test]
    fn every_level_has_its_own_bit() {
        for preemption_bits in 5..=7 {
            for level in 0..1_usize << preemption_bits {
                let priority = (level << (8 - preemption_bits)) as u8;
                for group1 in [false, true] {
                    let mut active = ActivePriorities::new(preemption_bits);
                    active.activate(group1, priority);
                    assert_eq!(active.register(group1, level / 32), 1 << (level % 32));
                    assert_eq!(active.running_priority(), priority);
                    assert_eq!(active.drop_priority(), Some(priority));
                    assert_eq!(active, ActivePriorities::new(preemption_bits));
                    assert_eq!(active.drop_priority(), None);
                    assert_eq!(active.running_priority(), IDLE);
                }
            }
        }
    }

    #[test]
    fn the_most_urgent_drops_first_and_group_0_before_group_1() {
        let mut active = ActivePriorities::new(5);
        active.activate(true, 0x40);
        active.activate(false, 0x40);
        active.activate(false, 0x80);
        active.activate(true, 0x20);
        assert_eq!(active.drop_priority(), Some(0x20));
        assert_eq!(active.drop_priority(), Some(0x40));
        assert_eq!(
            (active.register(false, 0), active.register(true, 0)),
            (1 << 16, 1 << 8)
        );
        assert_eq!(active.drop_priority(), Some(0x40));
        assert_eq!(active.drop_priority(), Some(0x80));
        assert_eq!(active.drop_priority(), None);
    }
}

//! The guest's side: `ICC_*_EL1` accesses, that is, the `ICV_*_EL1` registers (IHI 0069, 12.3).
//!
//! `ICH_HCR_EL2.TC` traps the registers common to both groups, and `TDIR` traps `ICC_DIR_EL1`. The
//! accessor of a trapped register returns [`Trapped`] and changes nothing. `ICC_SGI<n>R_EL1` always
//! traps and has no method.

use core::fmt;

use super::SoftwareInterface;
use crate::{
    cpu_interface::{hcr, priority, vmcr},
    intid::IntId,
    lr::ListRegister,
};

/// INTID returned by an acknowledge without a signalled interrupt (IHI 0069, 2.2.1).
pub const SPURIOUS: u32 = 1023;

/// First special INTID. An end of interrupt or a deactivation of a special INTID does nothing.
const FIRST_SPECIAL: u32 = 1020;

/// An access that trapped to EL2, for the hypervisor to handle, and had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trapped;

impl fmt::Display for Trapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the access trapped to EL2")
    }
}

impl core::error::Error for Trapped {}

impl SoftwareInterface {
    /// Returns true if the interface asserts the virtual IRQ, for a Group 1 interrupt.
    #[must_use]
    pub fn virq(&self) -> bool {
        self.signalled().is_some_and(|(_, lr)| lr.is_group1())
    }

    /// Returns true if the interface asserts the virtual FIQ, for a Group 0 interrupt.
    #[must_use]
    pub fn vfiq(&self) -> bool {
        self.signalled().is_some_and(|(_, lr)| !lr.is_group1())
    }

    /// Reads `ICC_IAR0_EL1`: acknowledges the signalled interrupt if in Group 0, else returns
    /// [`SPURIOUS`].
    pub fn read_iar0(&self) -> u32 {
        self.acknowledge(false)
    }

    /// Reads `ICC_IAR1_EL1`: acknowledges the signalled interrupt if in Group 1, else returns
    /// [`SPURIOUS`].
    pub fn read_iar1(&self) -> u32 {
        self.acknowledge(true)
    }

    /// Writes `ICC_EOIR0_EL1`: drops the running priority, and with `EOImode` = 0 deactivates
    /// `intid`.
    pub fn write_eoir0(&self, intid: u32) {
        self.end_of_interrupt(false, intid);
    }

    /// Writes `ICC_EOIR1_EL1`: drops the running priority, and with `EOImode` = 0 deactivates
    /// `intid`.
    pub fn write_eoir1(&self, intid: u32) {
        self.end_of_interrupt(true, intid);
    }

    /// Writes `ICC_DIR_EL1`: with `EOImode` = 1, deactivates `intid`.
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TDIR` or `TC` is set.
    pub fn write_dir(&self, intid: u32) -> Result<(), Trapped> {
        self.trap(hcr::TDIR | hcr::TC)?;
        self.assert_list_registers_agree();
        // An LPI is deactivated by the priority drop.
        if self.splits_deactivation() && !is_special(intid) && !is_lpi(intid) {
            match self.find_active(intid) {
                Some(index) => self.deactivate(index),
                None => self.count_missed_deactivation(),
            }
        }

        Ok(())
    }

    /// Reads `ICC_HPPIR0_EL1`: the most urgent pending interrupt, masked or not, if in Group 0,
    /// else [`SPURIOUS`].
    #[must_use]
    pub fn read_hppir0(&self) -> u32 {
        self.most_urgent_pending_of(false)
    }

    /// Reads `ICC_HPPIR1_EL1`: the most urgent pending interrupt, masked or not, if in Group 1,
    /// else [`SPURIOUS`].
    #[must_use]
    pub fn read_hppir1(&self) -> u32 {
        self.most_urgent_pending_of(true)
    }

    /// Reads `ICC_RPR_EL1`: the running priority, or [`priority::IDLE`].
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TC` is set.
    pub fn read_rpr(&self) -> Result<u8, Trapped> {
        self.trap(hcr::TC)?;
        Ok(self.active.get().running_priority())
    }

    /// Reads `ICC_PMR_EL1`: the priority mask.
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TC` is set.
    pub fn read_pmr(&self) -> Result<u8, Trapped> {
        self.trap(hcr::TC)?;
        Ok(vmcr::priority_mask(self.vmcr.get()))
    }

    /// Writes `ICC_PMR_EL1`. Unimplemented bits stay zero.
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TC` is set.
    pub fn write_pmr(&self, mask: u8) -> Result<(), Trapped> {
        self.trap(hcr::TC)?;
        self.set_field(0xff, vmcr::VPMR_SHIFT, u64::from(mask));
        Ok(())
    }

    /// Reads `ICC_CTLR_EL1`: `CBPR` (0), `EOImode` (1), `PRIbits` (10:8), `IDbits` (13:11), `A3V`
    /// (15) and `ExtRange` (19).
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TC` is set.
    pub fn read_ctlr(&self) -> Result<u64, Trapped> {
        self.trap(hcr::TC)?;
        let vmcr = self.vmcr.get();
        let priority_bits = u64::from(self.vtr.priority_bits) - 1;
        let id_bits = u64::from(self.vtr.id_bits == 24);
        Ok(u64::from(vmcr & vmcr::VCBPR != 0)
            | u64::from(vmcr & vmcr::VEOIM != 0) << 1
            | priority_bits << 8
            | id_bits << 11
            | u64::from(self.vtr.affinity3) << 15
            | u64::from(self.vtr.extended_range) << 19)
    }

    /// Writes the writable bits of `ICC_CTLR_EL1`: `CBPR` and `EOImode`.
    ///
    /// # Errors
    /// [`Trapped`] while `ICH_HCR_EL2.TC` is set.
    pub fn write_ctlr(&self, value: u64) -> Result<(), Trapped> {
        self.trap(hcr::TC)?;
        self.set_flag(vmcr::VCBPR, value & 1 != 0);
        self.set_flag(vmcr::VEOIM, value & 2 != 0);
        Ok(())
    }

    /// Reads `ICC_BPR0_EL1`.
    #[must_use]
    pub fn read_bpr0(&self) -> u8 {
        priority::binary_point(self.vmcr.get(), false)
    }

    /// Writes `ICC_BPR0_EL1`. A value below the minimum sets the minimum.
    pub fn write_bpr0(&self, value: u8) {
        self.set_field(7, vmcr::VBPR0_SHIFT, u64::from(value));
    }

    /// Reads `ICC_BPR1_EL1`. With `CBPR` set, the value is `ICC_BPR0_EL1` plus one, saturated to 7.
    #[must_use]
    pub fn read_bpr1(&self) -> u8 {
        priority::binary_point(self.vmcr.get(), true)
    }

    /// Writes `ICC_BPR1_EL1`. A value below the minimum sets the minimum. With `CBPR` set, the
    /// write is ignored.
    pub fn write_bpr1(&self, value: u8) {
        if self.vmcr.get() & vmcr::VCBPR == 0 {
            self.set_field(7, vmcr::VBPR1_SHIFT, u64::from(value));
        }
    }

    /// Reads `ICC_IGRPEN0_EL1.Enable`.
    #[must_use]
    pub fn read_igrpen0(&self) -> bool {
        self.vmcr.get() & vmcr::VENG0 != 0
    }

    /// Writes `ICC_IGRPEN0_EL1.Enable`.
    pub fn write_igrpen0(&self, enable: bool) {
        self.set_flag(vmcr::VENG0, enable);
    }

    /// Reads `ICC_IGRPEN1_EL1.Enable`.
    #[must_use]
    pub fn read_igrpen1(&self) -> bool {
        self.vmcr.get() & vmcr::VENG1 != 0
    }

    /// Writes `ICC_IGRPEN1_EL1.Enable`.
    pub fn write_igrpen1(&self, enable: bool) {
        self.set_flag(vmcr::VENG1, enable);
    }

    /// Reads `ICC_AP0R<index>_EL1`.
    #[must_use]
    pub fn read_ap0r(&self, index: usize) -> u32 {
        self.load_apr(false, index)
    }

    /// Writes `ICC_AP0R<index>_EL1`.
    pub fn write_ap0r(&self, index: usize, value: u32) {
        self.store_apr(false, index, value);
    }

    /// Reads `ICC_AP1R<index>_EL1`.
    #[must_use]
    pub fn read_ap1r(&self, index: usize) -> u32 {
        self.load_apr(true, index)
    }

    /// Writes `ICC_AP1R<index>_EL1`.
    pub fn write_ap1r(&self, index: usize, value: u32) {
        self.store_apr(true, index, value);
    }

    /// Returns [`Trapped`] if any of the `enables` in `ICH_HCR_EL2` is set.
    fn trap(&self, enables: u64) -> Result<(), Trapped> {
        if self.hcr.get() & enables == 0 {
            Ok(())
        } else {
            Err(Trapped)
        }
    }

    /// Returns the most urgent pending interrupt of an enabled group, with the list register's
    /// index.
    ///
    /// A pending and active interrupt waits for the deactivation, and an interrupt of priority 0xff
    /// is never signalled: neither counts.
    fn most_urgent_pending(&self) -> Option<(usize, ListRegister)> {
        self.assert_list_registers_agree();
        let vmcr = self.vmcr.get();
        self.list_registers()
            .enumerate()
            .filter(|(_, lr)| lr.is_pending() && !lr.is_active())
            .filter(|(_, lr)| vmcr & vmcr::group_enable(lr.is_group1()) != 0)
            .filter(|(_, lr)| lr.priority() != priority::IDLE)
            .min_by_key(|(_, lr)| lr.priority())
    }

    /// Returns the INTID of the most urgent pending interrupt if in the group, else [`SPURIOUS`].
    fn most_urgent_pending_of(&self, group1: bool) -> u32 {
        self.most_urgent_pending()
            .filter(|(_, lr)| lr.is_group1() == group1)
            .map_or(SPURIOUS, |(_, lr)| lr.vintid())
    }

    /// Returns the signalled interrupt, with the list register's index.
    ///
    /// Only the most urgent pending interrupt counts. If the mask or the running priority holds
    /// that interrupt back, less urgent interrupts are held back as well.
    fn signalled(&self) -> Option<(usize, ListRegister)> {
        let running = self.active.get().running_priority();
        self.most_urgent_pending()
            .filter(|_| self.hcr.get() & hcr::EN != 0)
            .filter(|(_, lr)| {
                priority::signals(self.vmcr.get(), running, lr.priority(), lr.is_group1())
            })
    }

    /// Moves the signalled interrupt of the group from pending to active, and activates its group
    /// priority (IHI 0069, 12.2, `ICC_IAR<n>_EL1`).
    fn acknowledge(&self, group1: bool) -> u32 {
        let Some((index, lr)) = self.signalled().filter(|(_, lr)| lr.is_group1() == group1) else {
            return SPURIOUS;
        };

        self.lr[index].set(ListRegister(
            lr.0 ^ (ListRegister::PENDING | ListRegister::ACTIVE),
        ));
        let mut active = self.active.get();
        active.activate(group1, self.group_priority(group1, lr));
        self.active.set(active);
        lr.vintid()
    }

    /// Drops the running priority, and deactivates `intid` if `EOImode` is 0 or `intid` is an LPI.
    fn end_of_interrupt(&self, group1: bool, intid: u32) {
        self.assert_list_registers_agree();
        if is_special(intid) {
            return;
        }

        let mut active = self.active.get();
        let Some(dropped) = active.drop_priority() else {
            return;
        };

        self.active.set(active);

        let deactivates = !self.splits_deactivation() || is_lpi(intid);
        match self.find_active(intid) {
            Some(index) => {
                let lr = self.lr[index].get();
                let is_the_running_one =
                    lr.is_group1() == group1 && self.group_priority(group1, lr) == dropped;
                if deactivates && is_the_running_one {
                    self.deactivate(index);
                }
            }
            None if deactivates && !is_lpi(intid) => self.count_missed_deactivation(),
            None => {}
        }
    }

    /// Returns true if `EOImode` is 1: an end of interrupt only drops the priority.
    fn splits_deactivation(&self) -> bool {
        self.vmcr.get() & vmcr::VEOIM != 0
    }

    /// Returns the group priority of `lr`, by the binary point of the group.
    fn group_priority(&self, group1: bool, lr: ListRegister) -> u8 {
        lr.priority() & priority::group_mask(self.vmcr.get(), group1)
    }

    /// Returns the index of the list register in which `intid` is active.
    fn find_active(&self, intid: u32) -> Option<usize> {
        self.list_registers()
            .position(|lr| lr.is_active() && lr.vintid() == intid)
    }

    /// Clears the active state of a list register, and reports the pINTID if `HW` is set.
    fn deactivate(&self, index: usize) {
        let lr = self.lr[index].get();
        if lr.is_hw() {
            self.deactivations.borrow_mut().push(lr.pintid());
        }
        self.lr[index].set(ListRegister(lr.0 & !ListRegister::ACTIVE));
    }

    /// Increments `ICH_HCR_EL2.EOIcount`.
    fn count_missed_deactivation(&self) {
        let hcr = self.hcr.get();
        let count = (hcr & hcr::EOI_COUNT).wrapping_add(1 << hcr::EOI_COUNT_SHIFT);
        self.hcr.set(hcr & !hcr::EOI_COUNT | count & hcr::EOI_COUNT);
    }

    /// Returns an active priorities register, or panics if the register is not implemented.
    fn load_apr(&self, group1: bool, index: usize) -> u32 {
        assert!(
            index < self.vtr.apr_count(),
            "ICC_AP<x>R{index} is not implemented"
        );
        self.active.get().register(group1, index)
    }

    /// Replaces a field of `ICH_VMCR_EL2`.
    fn set_field(&self, mask: u64, shift: u32, value: u64) {
        self.store_vmcr(self.vmcr.get() & !(mask << shift) | (value & mask) << shift);
    }

    /// Replaces a bit of `ICH_VMCR_EL2`.
    fn set_flag(&self, flag: u64, value: bool) {
        self.store_vmcr(self.vmcr.get() & !flag | if value { flag } else { 0 });
    }
}

const fn is_special(intid: u32) -> bool {
    matches!(intid, FIRST_SPECIAL..=SPURIOUS)
}

const fn is_lpi(intid: u32) -> bool {
    intid >= IntId::FIRST_LPI
}

//! The CPU interface: `ICC_*_EL1` (IHI 0069, 12.2).

use crate::cpu::{read, spin_until, write};

/// INTID of an acknowledge without a pending interrupt.
pub(crate) const NONE: u32 = 1023;

/// Priority mask that lets every priority through.
pub(crate) const OPEN: u64 = 0xff;

/// `ICC_CTLR_EL1.EOImode`: `EOIR` drops the priority only, `DIR` deactivates.
pub(crate) const EOI_MODE: u64 = 1 << 1;
/// `ICC_CTLR_EL1.CBPR`: `BPR0` groups the priorities of both groups.
pub(crate) const CBPR: u64 = 1 << 0;

/// Microseconds that an expected interrupt may take: ample for a busy host.
const ARRIVAL: u64 = 3_000_000;

macro_rules! registers {
    ($($(#[$doc:meta])* $get:ident, $set:ident, $register:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $get() -> u64 {
            read!($register)
        }

        /// Writes the register.
        pub(crate) fn $set(value: u64) {
            write!($register, value);
        }
    )*};
}

registers! {
    /// Reads `ICC_PMR_EL1`.
    pmr, set_pmr, "icc_pmr_el1";
    /// Reads `ICC_BPR0_EL1`.
    bpr_0, set_bpr_0, "icc_bpr0_el1";
    /// Reads `ICC_BPR1_EL1`.
    bpr_1, set_bpr_1, "icc_bpr1_el1";
    /// Reads `ICC_CTLR_EL1`.
    ctlr, set_ctlr, "icc_ctlr_el1";
    /// Reads `ICC_SRE_EL1`.
    sre, set_sre, "icc_sre_el1";
    /// Reads `ICC_IGRPEN0_EL1`.
    igrpen_0, set_igrpen_0, "icc_igrpen0_el1";
    /// Reads `ICC_IGRPEN1_EL1`.
    igrpen_1, set_igrpen_1, "icc_igrpen1_el1";
    /// Reads `ICC_AP1R0_EL1`.
    ap_1, set_ap_1, "icc_ap1r0_el1";
}

/// Values of the registers that control the interface, apart from the enables and the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) ctlr: u64,
    pub(crate) bpr_0: u64,
    pub(crate) bpr_1: u64,
    pub(crate) ap_0: u64,
    pub(crate) ap_1: u64,
    pub(crate) running: u64,
}

impl Control {
    /// Reads the calling CPU's registers.
    pub(crate) fn read() -> Self {
        Self {
            ctlr: ctlr(),
            bpr_0: bpr_0(),
            bpr_1: bpr_1(),
            ap_0: read!("icc_ap0r0_el1"),
            ap_1: ap_1(),
            running: running_priority(),
        }
    }
}

/// Clears `ICC_AP0R0_EL1`: no priority of Group 0 is active.
fn clear_ap_0() {
    write!("icc_ap0r0_el1", 0);
}

/// Reads the running priority, `ICC_RPR_EL1`.
pub(crate) fn running_priority() -> u64 {
    read!("icc_rpr_el1")
}

/// Reads the highest-priority pending interrupt, `ICC_HPPIR1_EL1`.
pub(crate) fn highest_pending() -> u32 {
    read!("icc_hppir1_el1") as u32
}

/// Reads `ICC_HPPIR0_EL1`.
pub(crate) fn highest_pending_0() -> u32 {
    read!("icc_hppir0_el1") as u32
}

/// Acknowledges the highest-priority pending interrupt of Group 1 (`ICC_IAR1_EL1`).
pub(crate) fn acknowledge() -> u32 {
    let intid = read!("icc_iar1_el1") as u32;
    crate::cpu::synchronize();
    intid
}

/// Acknowledges the highest-priority pending interrupt of Group 0 (`ICC_IAR0_EL1`).
pub(crate) fn acknowledge_0() -> u32 {
    let intid = read!("icc_iar0_el1") as u32;
    crate::cpu::synchronize();
    intid
}

/// Ends a Group 1 interrupt (`ICC_EOIR1_EL1`).
pub(crate) fn end(intid: u32) {
    write!("icc_eoir1_el1", u64::from(intid));
}

/// Ends a Group 0 interrupt (`ICC_EOIR0_EL1`).
pub(crate) fn end_0(intid: u32) {
    write!("icc_eoir0_el1", u64::from(intid));
}

/// Deactivates an interrupt (`ICC_DIR_EL1`).
pub(crate) fn deactivate(intid: u32) {
    write!("icc_dir_el1", u64::from(intid));
}

/// Sends SGIs of Group 1 (`ICC_SGI1R_EL1`).
pub(crate) fn send(value: u64) {
    crate::cpu::synchronize();
    write!("icc_sgi1r_el1", value);
}

/// Sends SGIs of Group 0 (`ICC_SGI0R_EL1`).
pub(crate) fn send_0(value: u64) {
    crate::cpu::synchronize();
    write!("icc_sgi0r_el1", value);
}

/// Sends SGIs of the other security state's Group 1 (`ICC_ASGI1R_EL1`).
pub(crate) fn send_other(value: u64) {
    crate::cpu::synchronize();
    write!("icc_asgi1r_el1", value);
}

/// Waits for an interrupt of Group 1 and acknowledges it. Returns [`NONE`] if none arrives.
pub(crate) fn take() -> u32 {
    let mut intid = NONE;
    spin_until(ARRIVAL, || {
        intid = acknowledge();
        intid != NONE
    });
    intid
}

/// Waits for an interrupt of Group 0 and acknowledges it. Returns [`NONE`] if none arrives.
pub(crate) fn take_0() -> u32 {
    let mut intid = NONE;
    spin_until(ARRIVAL, || {
        intid = acknowledge_0();
        intid != NONE
    });
    intid
}

/// Brings the interface into its reset state, and lets Group 1 of every priority through.
pub(crate) fn reset() {
    set_sre(7);
    set_igrpen_0(0);
    set_igrpen_1(0);
    clear_ap_0();
    set_ap_1(0);
    set_ctlr(0);
    set_bpr_0(0);
    set_bpr_1(0);
    set_pmr(OPEN);
    set_igrpen_1(1);
}

//! The CPU: interrupt interface, timer, hypervisor calls.
#![expect(unsafe_code)]
// UNSAFETY: system registers and hypervisor calls.

use core::arch::asm;

#[cfg(feature = "calls")]
use crate::event::Event;

/// vCPUs whose affinities differ in Aff0 only.
const CLUSTER: u32 = 16;

/// PPI of the virtual timer.
pub(crate) const TIMER: u32 = 27;

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: these registers may be read at any time at EL1.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack)) };
        value
    }};
}

macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: none of the registers written here changes how memory is seen.
        unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack)) };
    }};
}

/// Marks the beginning or the end of an event for the plugin.
#[inline(always)]
pub(crate) fn mark<const IMMEDIATE: u16>() {
    #[cfg(feature = "calls")]
    if IMMEDIATE != Event::end() {
        crate::measured::begin(IMMEDIATE);
    }
    // SAFETY: no operation.
    unsafe { asm!("movz xzr, #{}", const IMMEDIATE, options(nostack, preserves_flags)) };
    #[cfg(feature = "calls")]
    if IMMEDIATE == Event::end() {
        crate::measured::end();
    }
}

/// Lets other CPUs run while this one spins.
#[inline(always)]
pub(crate) fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nostack, preserves_flags)) };
}

/// Sleeps until an interrupt is pending.
#[inline(always)]
pub(crate) fn wait_for_interrupt() {
    // SAFETY: a hint.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) };
}

/// Makes earlier writes to memory visible to devices and other CPUs.
pub(crate) fn synchronize() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Opens the CPU interface for Group 1 interrupts of every priority.
pub(crate) fn open_interface() {
    write!("icc_sre_el1", 7);
    // SAFETY: a barrier, after which the registers below exist.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    write!("icc_pmr_el1", 0xff);
    write!("icc_ctlr_el1", 0);
    write!("icc_igrpen1_el1", 1);
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Handles a pending interrupt, if there is one: acknowledges it, stops the timer if the interrupt
/// is the timer's, and ends it. Returns the INTID.
#[inline(always)]
pub(crate) fn handle_interrupt() -> Option<u32> {
    const SPECIAL: u32 = 1020;
    let intid = read!("icc_iar1_el1") as u32;
    if (SPECIAL..SPECIAL + 4).contains(&intid) {
        return None;
    }
    if intid == TIMER {
        write!("cntv_ctl_el0", 0);
    }
    write!("icc_eoir1_el1", u64::from(intid));
    Some(intid)
}

/// Sends SGI `intid` to the vCPU `target`.
#[inline(always)]
pub(crate) fn send_sgi(intid: u32, target: u32) {
    let cluster = u64::from(target / CLUSTER) << 16;
    let interrupt = u64::from(intid) << 24;
    write!(
        "icc_sgi1r_el1",
        interrupt | cluster | 1 << (target % CLUSTER)
    );
}

/// Sends SGI `intid` to all vCPUs but the calling one.
#[inline(always)]
pub(crate) fn send_sgi_to_others(intid: u32) {
    const OTHERS: u64 = 1 << 40;
    write!("icc_sgi1r_el1", OTHERS | u64::from(intid) << 24);
}

/// Returns the affinity of a vCPU.
pub(crate) fn affinity(vcpu: u32) -> u64 {
    u64::from(vcpu / CLUSTER) << 8 | u64::from(vcpu % CLUSTER)
}

/// Sets the virtual timer to `microseconds` from now.
#[inline(always)]
pub(crate) fn set_timer(microseconds: u64) {
    let ticks = microseconds * read!("cntfrq_el0") / 1_000_000;
    write!("cntv_cval_el0", read!("cntvct_el0") + ticks);
    write!("cntv_ctl_el0", 1);
}

/// Spins for `microseconds`.
pub(crate) fn spin(microseconds: u64) {
    let end = read!("cntvct_el0") + microseconds * read!("cntfrq_el0") / 1_000_000;
    while read!("cntvct_el0") < end {
        relax();
    }
}

/// Calls what is above this program, and returns `x0`: the hypervisor, or the firmware if the
/// program is at EL2.
#[inline(always)]
pub(crate) fn hypercall(function: u32, a: u64, b: u64, c: u64) -> u64 {
    let result;
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: the calling convention for such calls (Arm DEN 0028): x0 to x17 may change.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") u64::from(function) => result,
                    inout("x1") a => _, inout("x2") b => _, inout("x3") c => _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
                    out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
                    out("x14") _, out("x15") _, out("x16") _, out("x17") _,
                    options(nostack)
                )
            }
        };
    }
    if crate::IS_AT_EL2 {
        call!("smc #0");
    } else {
        call!("hvc #0");
    }
    result
}

/// Sets the register by which the plugin of lines knows a CPU at EL2.
pub(crate) fn set_number(number: u64) {
    write!("tpidr_el2", number);
}

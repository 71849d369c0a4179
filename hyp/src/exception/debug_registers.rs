//! Debug registers of a VM with a part of the machine (DDI 0487, D19.3). Accesses trap by
//! `MDCR_EL2.TDA`, `TDOSA` and `TDRA`.
//!
//! A VM can single-step. Its breakpoints and watchpoints read as zero and never match, as under a
//! debugger that has taken them all; the architecture has no identification value for none.

#![expect(unsafe_code)]
// UNSAFETY: MSR instructions.

use core::arch::asm;

use aarch64_cpu::registers::{MDSCR_EL1, Readable, Writeable};

use crate::cpu::registers::{ID_AA64DFR0, id_field};

/// Clears breakpoints and watchpoints of the calling CPU, whose values are UNKNOWN after a reset,
/// and unlocks the OS lock, with which no step ends.
pub(crate) fn clear() {
    macro_rules! clear {
        ($($number:literal)*) => {$(
            // SAFETY: EL2 uses no debug registers, and the CPU has this one.
            unsafe {
                if (0..=id_field(ID_AA64DFR0, 12)).contains(&$number) {
                    asm!(concat!("msr dbgbcr", $number, "_el1, xzr"), options(nomem, nostack));
                }
                if (0..=id_field(ID_AA64DFR0, 20)).contains(&$number) {
                    asm!(concat!("msr dbgwcr", $number, "_el1, xzr"), options(nomem, nostack));
                }
            }
        )*};
    }
    clear!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    // SAFETY: EL2 is not debugged by itself: the lock is the guests'.
    unsafe { asm!("msr oslar_el1, xzr", "isb", options(nomem, nostack)) };
}

/// op0 of 2 and op1 of 0 in the syndrome of a trapped `MSR` or `MRS`.
const SPACE: u32 = 2 << 20;
const SPACE_FIELDS: u32 = 3 << 20 | 7 << 14;

/// CRn, CRm and op2 of a register in that space.
type Register = (u32, u32, u32);

const MDSCR: Register = (0, 2, 2);
const OSLSR: Register = (1, 1, 4);

/// `OSLSR_EL1`: the OS lock is implemented, and unlocked.
const UNLOCKED: u64 = 1 << 3;

/// Returns the register of a trapped access, if it is one of these.
fn register(iss: u32) -> Option<Register> {
    let is_here = iss & SPACE_FIELDS == SPACE;
    is_here.then_some((iss >> 10 & 0xf, iss >> 1 & 0xf, iss >> 17 & 7))
}

/// Reads the register that the syndrome names, if it is one of these.
#[cold]
pub(super) fn read(iss: u32) -> Option<u64> {
    register(iss).map(|register| match register {
        MDSCR => MDSCR_EL1.get(),
        OSLSR => UNLOCKED,
        _ => 0,
    })
}

/// Writes the register that the syndrome names, if it is one of these.
#[cold]
pub(super) fn write(iss: u32, value: u64) -> Option<()> {
    let register = register(iss)?;
    if register == MDSCR {
        MDSCR_EL1.set(value);
    }
    Some(())
}

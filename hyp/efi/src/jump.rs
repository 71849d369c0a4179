//! From the firmware's world, with MMU and caches on, into the hypervisor's.

#![expect(unsafe_code)]
// UNSAFETY: leaves the firmware, and jumps.

use alloc::string::String;
use core::arch::{asm, global_asm};
use core::ops::Range;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CurrentEL, Readable};
use uefi::boot::{self, MemoryType};

use crate::memory::Pages;

unsafe extern "C" {
    /// Turns MMU and caches off, and jumps to `entry` with the device tree in `x0`.
    fn leave(tree: u64, entry: u64) -> !;
    /// The end of `leave`.
    static leave_end: u8;
}

global_asm!(
    r#"
    .global leave
leave:
    msr     daifset, #0xf
    mov     x9, x1
    mrs     x2, sctlr_el2
    bic     x2, x2, #(1 << 0)       // M
    bic     x2, x2, #(1 << 2)       // C
    bic     x2, x2, #(1 << 12)      // I
    msr     sctlr_el2, x2
    isb
    ic      iallu
    dsb     nsh
    isb
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    br      x9
    .global leave_end
leave_end:
    "#
);

/// Checks that the CPU can run the hypervisor.
///
/// # Errors
/// Why it cannot.
pub(crate) fn check() -> Result<(), String> {
    if !CurrentEL.matches_all(CurrentEL::EL::EL2) {
        return Err(
            "the firmware does not run at EL2: it is itself a guest, or its setup has \
                    virtualization off"
                .into(),
        );
    }
    const ATOMIC: u64 = 0xf << 20;
    let instructions: u64;
    // SAFETY: an identification register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) instructions, options(nomem, nostack)) };
    if instructions & ATOMIC == 0 {
        return Err("this CPU has no FEAT_LSE (Armv8.1)".into());
    }

    // `ID_AA64MMFR4_EL1.E2H0` is negative if HCR_EL2.E2H cannot be 0.
    const E2H0_SHIFT: u32 = 24;
    let features: u64;
    // SAFETY: an identification register, which reads as zero before it was defined.
    unsafe { asm!("mrs {}, S3_0_C0_C7_4", out(reg) features, options(nomem, nostack)) };
    if features >> E2H0_SHIFT & 0x8 != 0 {
        return Err(
            "this CPU has EL2 for hosts only (no FEAT_E2H0), and hyp wants the other".into(),
        );
    }
    Ok(())
}

/// Leaves the firmware and enters the hypervisor. The images of `guests`, the `tree` and the
/// hypervisor are in the caches as the firmware left them: they are written to memory first.
pub(crate) fn into(hypervisor: Range<u64>, tree: Pages, guests: Pages) -> ! {
    // SAFETY: nothing of the firmware's is used any more, and nothing is allocated or freed.
    let map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    core::mem::forget(map);

    let code = (leave as *const ()).addr() as u64..(&raw const leave_end).addr() as u64;
    for range in [&hypervisor, &tree.whole(), &guests.whole(), &code] {
        clean(range);
    }
    // SAFETY: the hypervisor is there, entered as its header says: at EL2, interrupts masked, MMU
    // off. `leave` is mapped by identity, as all memory is to a UEFI application.
    unsafe { leave(tree.whole().start, hypervisor.start) }
}

/// Writes the cached contents of memory to the memory, and drops them from the caches.
fn clean(range: &Range<u64>) {
    // `CTR_EL0.DminLine`: words of the smallest line, as a power of two.
    let kind: u64;
    // SAFETY: an identification register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) kind, options(nomem, nostack)) };
    let line = 4u64 << (kind >> 16 & 0xf);
    let mut address = range.start & !(line - 1);
    while address < range.end {
        // SAFETY: the contents of memory stay as the CPU sees them.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack)) };
        address += line;
    }
    barrier::dsb(barrier::SY);
}

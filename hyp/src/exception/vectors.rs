//! The exception vectors.
//!
//! An exit from the guest saves `x0` to `x30` at the top of the CPU's stack and continues in Rust.
//! The Rust code does not return: it resumes the guest from the saved frame. `ELR_EL2` and
//! `SPSR_EL2` stay in their registers: interrupts are masked at EL2, so that nothing overwrites
//! them.
//!
//! There are two tables, which differ in the handlers of exits: a guest with a GICv2 has its own.
//!
//! An exception taken from EL2 is a bug or a hardware error. Its report runs on the CPU's emergency
//! stack, because the CPU's own stack may be the cause.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;

use aarch64_cpu::registers::{VBAR_EL2, Writeable};

use super::frame::Frame;
use crate::cpu::percpu::{PerCpu, offsets};

unsafe extern "C" {
    /// Enters the guest with `frame` as its registers, and `ELR_EL2` and `SPSR_EL2` as its state.
    /// `stack_top` is the top of the CPU's stack, whose contents are discarded.
    fn guest_enter(frame: *const Frame, stack_top: usize) -> !;

    /// Resumes the guest with the registers in `frame`, which lies at the top of the CPU's stack.
    fn guest_resume(frame: *const Frame) -> !;

    /// Returns `PAR_EL1` after the translation of `address` by stage 1 of EL1.
    safe fn guest_translate(address: u64) -> u64;

    /// Table of a guest with a GICv3.
    static exception_vectors: u8;

    /// Table of a guest with a GICv2.
    static exception_vectors_gicv2: u8;
}

/// Makes the calling CPU use the vectors of a guest with a GICv2, or of one with a GICv3. The
/// exception return that enters the guest synchronizes the register.
pub(crate) fn use_vectors(has_gicv2: bool) {
    let table = match has_gicv2 {
        true => &raw const exception_vectors_gicv2,
        false => &raw const exception_vectors,
    };
    VBAR_EL2.set(table.addr() as u64);
}

/// Enters the guest on the calling CPU, with `frame` as its registers, and discards the contents of
/// the CPU's stack.
///
/// # Safety
/// `ELR_EL2`, `SPSR_EL2` and the registers of EL1 hold the guest's initial state, and the CPU's
/// translation and traps are set up.
pub(crate) unsafe fn enter_guest(frame: &Frame) -> ! {
    // SAFETY: the stack is this CPU's own. Assembly copies the frame before it reuses the memory.
    unsafe { guest_enter(frame, PerCpu::current().stack_top) }
}

/// Translates an address as a load of the guest at EL1 would, by the stage 1 registers of the
/// calling CPU. Returns `PAR_EL1`, whose F bit is set if the guest has nothing there, or tables
/// that cannot be read. Overwrites `TPIDR_EL0`, `TPIDR_EL1`, `ELR_EL2` and `SPSR_EL2`, which must
/// have been saved.
pub(crate) fn translate(address: u64) -> u64 {
    guest_translate(address)
}

/// Resumes the guest with the registers in `frame`, which the vectors have saved at the top of the
/// calling CPU's stack. The stack's contents are discarded.
#[inline(always)]
pub(super) fn resume(frame: &mut Frame) -> ! {
    // SAFETY: only the vectors make a frame that can be borrowed exclusively here. `ELR_EL2` and
    // `SPSR_EL2` hold the state of the exit, as its handler has changed it.
    unsafe { guest_resume(frame) }
}

global_asm!(
    r#"
    // No speculation past the ERET.
    .macro exception_return
    eret
    dsb     nsh
    isb
    .endm

    .macro save_guest
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mov     x0, sp
    .endm

    .macro exit_from_guest handler
    .balign 0x80
    save_guest
    b       \handler
    .endm

    // x0 and x1 of the interrupted code are saved in registers of EL1, which the guest does not
    // need any more. The handler's x1 points to a Frame with the interrupted registers.
    .macro fault kind
    .balign 0x80
    msr     tpidr_el1, x0
    msr     tpidr_el0, x1
    fault_with_saved \kind
    .endm

    .macro fault_with_saved kind
    mrs     x1, tpidr_el2
    cbz     x1, 0f
    ldr     x1, [x1, #{emergency_top}]
    b       1f
0:  mov     x1, sp
1:  mov     x0, sp
    mov     sp, x1
    msr     sp_el0, x0
    mov     x0, #\kind
    b       fault_common
    .endm

    .macro vectors sync interrupt system_error
    // From EL2 itself, on SP_EL0, which it does not use.
    fault   0
    fault   1
    fault   2
    fault   3
    // From EL2 itself. An AT of a guest's address that meets an abort is passed by.
    .balign 0x80
    msr     tpidr_el1, x0
    msr     tpidr_el0, x1
    mrs     x0, elr_el2
    adr     x1, guest_at
    cmp     x0, x1
    b.eq    guest_at_aborts
    b       synchronous_fault
    fault   1
    fault   2
    fault   3
    // From the guest in AArch64, and from its EL0 in AArch32.
    .rept 2
    exit_from_guest \sync
    exit_from_guest \interrupt
    exit_from_guest \interrupt
    exit_from_guest \system_error
    .endr
    .endm

    .balign 0x800
    .global exception_vectors
exception_vectors:
    vectors {sync} {interrupt} {system_error}

    .balign 0x800
    .global exception_vectors_gicv2
exception_vectors_gicv2:
    vectors {gicv2_sync} {gicv2_interrupt} {gicv2_system_error}

    .global guest_enter
    .global guest_resume
guest_enter:
    sub     x1, x1, #{frame}
    .irp    offset, 0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240
    ldp     x2, x3, [x0, #\offset]
    stp     x2, x3, [x1, #\offset]
    .endr
    mov     x0, x1
guest_resume:
    mov     sp, x0
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    add     sp, sp, #{frame}
    exception_return

guest_at_aborts:
    add     x0, x0, #4
    msr     elr_el2, x0
    mrs     x0, tpidr_el1
    mrs     x1, tpidr_el0
    exception_return

    .global guest_translate
guest_translate:
    mov     x1, #1                  // PAR_EL1.F
    msr     par_el1, x1
    isb
guest_at:
    at      s1e1r, x0
    isb
    mrs     x0, par_el1
    ret

synchronous_fault:
    fault_with_saved 0

fault_common:
    sub     sp, sp, #{frame}
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mov     x1, sp
    mrs     x2, tpidr_el1
    mrs     x3, tpidr_el0
    stp     x2, x3, [sp]
    mrs     x2, sp_el0
    b       {fault}
    "#,
    frame = const Frame::SIZE,
    emergency_top = const offsets::EMERGENCY_TOP,
    sync = sym super::exit::synchronous::<false>,
    interrupt = sym super::exit::interrupt::<false>,
    system_error = sym super::exit::system_error::<false>,
    gicv2_sync = sym super::exit::synchronous::<true>,
    gicv2_interrupt = sym super::exit::interrupt::<true>,
    gicv2_system_error = sym super::exit::system_error::<true>,
    fault = sym super::fatal::fault,
);

const _: () = assert!(core::mem::offset_of!(PerCpu, emergency_top) == offsets::EMERGENCY_TOP);
const _: () = assert!(Frame::SIZE == 256);

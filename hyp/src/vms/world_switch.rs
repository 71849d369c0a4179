//! The world switch: enters a VM's vCPU and returns at its exit, as a function call.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;

use aarch64_cpu::registers::{VBAR_EL2, Writeable};

use crate::exception::frame::Frame;

/// Kind of an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum ExitKind {
    /// A synchronous exception.
    Synchronous = 0,
    /// A physical interrupt.
    Interrupt = 1,
    /// A system error.
    SystemError = 2,
}

unsafe extern "C" {
    static vm_vectors: u8;

    /// Enters the vCPU and returns at its exit.
    fn vm_run(frame: *mut Frame) -> ExitKind;
}

/// Sets the calling CPU's vectors to this module's.
pub(super) fn set_vectors() {
    VBAR_EL2.set((&raw const vm_vectors).addr() as u64);
}

/// Enters the vCPU whose context the calling CPU holds, with `frame` as its general registers, and
/// returns at its exit.
///
/// # Safety
/// The CPU's other registers are the vCPU's, and its translation and traps are set up for the VM.
pub(super) unsafe fn run(frame: &mut Frame) -> ExitKind {
    // SAFETY: by the caller's promise. Callee-saved registers are preserved on this CPU's stack.
    unsafe { vm_run(frame) }
}

global_asm!(
    r#"
    // x0 and x1 of the vCPU are on the stack until the frame's address is loaded.
    .macro vm_exit kind
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\kind
    b       vm_exited
    .endm

    // Faults of the hypervisor go to the vectors of `exception`.
    .macro fault_at offset
    .balign 0x80
    b       exception_vectors + \offset
    .endm

    .balign 0x800
vm_vectors:
    fault_at 0x000
    fault_at 0x080
    fault_at 0x100
    fault_at 0x180
    fault_at 0x200
    fault_at 0x280
    fault_at 0x300
    fault_at 0x380
    vm_exit {synchronous}
    vm_exit {interrupt}
    vm_exit {interrupt}
    vm_exit {system_error}
    vm_exit {synchronous}
    vm_exit {interrupt}
    vm_exit {interrupt}
    vm_exit {system_error}

    .global vm_run
vm_run:
    stp     x29, x30, [sp, #-112]!
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // No speculation past the ERET.
    dsb     nsh
    isb

vm_exited:
    ldr     x0, [sp, #(16 + 96)]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret
    "#,
    synchronous = const ExitKind::Synchronous as u64,
    interrupt = const ExitKind::Interrupt as u64,
    system_error = const ExitKind::SystemError as u64,
);

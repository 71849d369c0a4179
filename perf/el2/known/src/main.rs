//! A bare-metal program for QEMU's `virt` machine, whose calls at EL2 are known to the instruction.
//!
//! EL1 asks EL2 for one case after the other, each between the plugin's markers. A function with a
//! name of KVM's (`vgic_*`) stands for the virtual interrupt controller. A comment at each function
//! says how many instructions it executes itself. `xtask/perf/src/el2/known.rs` has the sums.
#![no_std]
#![no_main]
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(
    r#"
    .macro  nops count
    .rept   \count
    nop
    .endr
    .endm

    .macro  enter
    str     x30, [sp, #-16]!
    .endm

    .macro  leave
    ldr     x30, [sp], #16
    ret
    .endm

    .section .head, "ax"
    .global start
start:
    adr     x1, stack_end
    mov     sp, x1
    adr     x1, vectors
    msr     vbar_el2, x1
    mov     x1, #(1 << 31)          // HCR_EL2.RW: EL1 is AArch64
    msr     hcr_el2, x1
    mov     x1, #0x3c5              // EL1, with all interrupts masked
    msr     spsr_el2, x1
    adr     x1, at_el1
    msr     elr_el2, x1
    eret

    // The case is in x0.
at_el1:
    .irp    number, 1, 2, 3, 4, 5, 6, 7, 8, 9
    mov     x0, #\number
    movz    xzr, #(0xe200 + \number)
    hvc     #0
    movz    xzr, #0xe200
    .endr
    adr     x1, message
    mov     x2, #0x09000000         // the PL011's data register
1:  ldrb    w3, [x1], #1
    cbz     w3, 2f
    strb    w3, [x2]
    b       1b
2:  movz    x0, #0x8400, lsl #16    // PSCI's SYSTEM_OFF
    movk    x0, #8
    smc     #0
    b       .

    .balign 0x800
vectors:
    .org    vectors + 0x200
    b       from_el2                // 1
    .org    vectors + 0x400
    b       from_el1                // 1
    .org    vectors + 0x800

from_el1:                           // 4
    adr     x1, cases
    ldr     x1, [x1, x0, lsl #3]
    blr     x1
    eret

from_el2:                           // 9
    enter
    nops    4
    bl      helper
    bl      vgic_alone
    ldr     x30, [sp], #16
    eret

helper:                             // 5
    nops    4
    ret

vgic_alone:                         // 7
    nops    6
    ret

    // Case 1: nothing of the controller's. 4
outside:
    nops    3
    ret

    // Case 3: a call, between others that are not the controller's. 6
calls:
    enter
    bl      helper
    bl      vgic_calls
    bl      helper
    leave

vgic_calls:                         // 5
    enter
    bl      helper
    nop
    leave

    // Case 4: a recursion through a function that is not the controller's. 2
recursion:
    mov     x2, #3
    b       vgic_recursion

vgic_recursion:                     // 4, four times
    enter
    bl      between
    leave

between:                            // 6, three times, and 2
    cbz     x2, 1f
    sub     x2, x2, #1
    enter
    bl      vgic_recursion
    ldr     x30, [sp], #16
1:  ret

    // Case 5: jumps to functions, which return in the place of their callers. 5
jumps:
    enter
    bl      jump_to_vgic
    bl      helper
    leave

jump_to_vgic:                       // 2
    nop
    b       vgic_jump

vgic_jump:                          // 3
    nops    2
    b       jumped_to

jumped_to:                          // 11
    nops    7
    enter
    bl      helper
    leave

    // Case 6: a call, a jump and a return by a register. 4
registers:
    enter
    bl      vgic_registers
    leave

vgic_registers:                     // 6
    enter
    adr     x9, helper
    blr     x9
    ldr     x30, [sp], #16
    adr     x9, by_register
    br      x9

by_register:                        // 5
    nops    3
    mov     x9, x30
    br      x9

    // Case 7: exceptions in the middle, of the controller's function and of one that it calls. 4
exceptions:
    enter
    bl      vgic_interrupted
    leave

vgic_interrupted:                   // 9
    enter
    mrs     x10, elr_el2
    mrs     x11, spsr_el2
    hvc     #0
    bl      interrupted
    msr     elr_el2, x10
    msr     spsr_el2, x11
    leave

interrupted:                        // 4
    nop
    hvc     #0
    nop
    ret

    // Case 8: another stack in the middle. 4
stacks:
    enter
    bl      vgic_switches
    leave

vgic_switches:                      // 5
    enter
    bl      yields
    nop
    leave

yields:                             // 7
    enter
    bl      switch
    nops    2
    bl      helper
    leave

switch:                             // 4: a run of instructions counts where it begins
    mov     x12, sp
    adr     x13, other_stack_end
    mov     sp, x13
    b       elsewhere

elsewhere:                          // 13
    nops    8
    enter
    bl      helper
    ldr     x30, [sp], #16
    mov     sp, x12
    ret

    // Case 9: functions that are given up. 3
giving_up:
    enter
    mov     x14, sp
    bl      vgic_gives_up

vgic_gives_up:                      // 2
    sub     sp, sp, #32
    bl      never_returns

never_returns:                      // 2
    mov     sp, x14
    b       given_up

given_up:                           // 3
    bl      helper
    leave

    .balign 8
cases:
    .quad   0, outside, vgic_alone, calls, recursion, jumps, registers, exceptions, stacks
    .quad   giving_up
message:
    .asciz  "guest: done\n"

    // Two stacks, as large as the kernel's and aligned like them.
    .balign 0x4000
    .space  0x4000
other_stack_end:
    .space  0x4000
stack_end:
    "#
);

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    loop {}
}

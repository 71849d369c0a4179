//! The header of an arm64 Linux `Image`, the first instructions of each vCPU, and the vectors.
//!
//! The guest takes no interrupts as exceptions: it polls its CPU interface. Any exception is a
//! mistake, and is reported.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;

use crate::{MOST_VCPUS, first, second};

const STACK: usize = 16 << 10;

unsafe extern "C" {
    /// Enters Rust on any other vCPU. `x0` is the number of the vCPU.
    pub(crate) fn start_second() -> !;
}

global_asm!(
    r#"
    .section .head, "ax"
    .global start
start:
    b       start_first
    .long   0
    .quad   0                       // text_offset: at a 2 MiB boundary
    .quad   image_size
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

start_first:
    adrp    x1, bss_start
    add     x1, x1, :lo12:bss_start
    adrp    x2, bss_end
    add     x2, x2, :lo12:bss_end
0:  cmp     x1, x2
    b.hs    1f
    stp     xzr, xzr, [x1], #16
    b       0b
1:  adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    add     sp, x1, #{stack}
    adr     x2, vectors
    msr     vbar_el1, x2
    isb
    b       {first}

    .global start_second
start_second:
    adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    mov     x2, #{stack}
    add     x3, x0, #1
    madd    x1, x2, x3, x1
    mov     sp, x1
    adr     x2, vectors
    msr     vbar_el1, x2
    isb
    b       {second}

    .balign 0x800
vectors:
    .rept   16
    .balign 0x80
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {fault}
    .endr

    .section .bss.stacks, "aw", @nobits
    .balign 16
stacks:
    .space  {vcpus} * {stack}
    .text
    "#,
    stack = const STACK,
    vcpus = const MOST_VCPUS,
    first = sym first,
    second = sym second,
    fault = sym crate::fault,
);

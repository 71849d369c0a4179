//! The first instructions of each CPU: from reset with the MMU off to Rust with the MMU on.
//!
//! The image starts with the header of an arm64 Linux `Image`. Memory is mapped by identity, in
//! blocks of 1 GiB: devices below RAM, redistributors at 256 GiB, and the block of RAM with the
//! image as write-back memory, so that exclusive accesses work as the architecture promises.
#![expect(unsafe_code)]
// UNSAFETY: assembly, and declarations of its symbols.

use core::arch::global_asm;

use crate::cpus::MAX_CPUS;

/// Bytes of the stack of CPU 0, on which the cases run.
const FIRST_STACK: usize = 64 << 10;

/// Bytes of the stack of each other CPU.
const STACK: usize = 16 << 10;

/// `MAIR_EL1`: attribute 0 is Device-nGnRnE, attribute 1 normal write-back memory.
const MAIR: u64 = 0xff00;

/// `TCR_EL1`: 39-bit addresses in `TTBR0_EL1` only, 4 KiB pages, cacheable and inner shareable
/// walks, 40-bit physical addresses.
const TCR: u64 = 2 << 32 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25;

/// `SCTLR_EL1`: MMU and caches on, and the bits that are RES1 in Armv8.0.
const SCTLR: u64 = 0x30d0_0800 | 1 << 12 | 1 << 2 | 1;

/// Block of 1 GiB of device memory: never executed, accessed.
const DEVICE: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 1;

/// Block of device memory at 256 GiB, with the redistributors of CPUs from 123 on.
const HIGH_DEVICE: u64 = 1 << 38 | DEVICE;

/// First block of 1 GiB of RAM: accessed, inner shareable, attribute 1.
const RAM: u64 = 0x4000_0000 | 1 << 10 | 3 << 8 | 1 << 2 | 1;

unsafe extern "C" {
    /// Enters Rust on a CPU that is turned on, with the CPU's number in `x0`.
    pub fn secondary_start() -> !;
}

global_asm!(
    r#"
    .section .head, "ax"
image_start:
    b       primary_start
    .long   0
    .quad   0                       // text_offset: at a 2 MiB boundary
    .quad   image_size
    .quad   0x2                     // little endian, 4 KiB pages
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

primary_start:
    mov     x20, x0                 // the device tree
    adrp    x1, bss_start
    add     x1, x1, :lo12:bss_start
    adrp    x2, image_end
    add     x2, x2, :lo12:image_end
0:  cmp     x1, x2                  // both are multiples of 16
    b.hs    1f
    stp     xzr, xzr, [x1], #16
    b       0b
1:  mov     x19, xzr
    bl      set_up
    mov     x0, x20
    bl      guest_first

    .global secondary_start
secondary_start:
    mov     x19, x0
    bl      set_up
    mov     x0, x19
    bl      {secondary}

    // With the CPU's number in x19.
set_up:
    msr     daifset, #0xf
    msr     spsel, #1
    adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    mov     x2, #{first_stack}
    add     x1, x1, x2
    mov     x3, #{stack}
    madd    x1, x19, x3, x1
    mov     sp, x1
    mov     x29, xzr
    msr     tpidr_el1, x19
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    ldr     x1, ={mair}
    msr     mair_el1, x1
    ldr     x1, ={tcr}
    msr     tcr_el1, x1
    adrp    x1, translation
    add     x1, x1, :lo12:translation
    msr     ttbr0_el1, x1
    dsb     ish
    tlbi    vmalle1
    ic      iallu
    dsb     ish
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el1, x1
    isb
    ret
    .ltorg

    .section .rodata.translation, "a"
    .balign 4096
translation:
    .quad   {device}
    .quad   {ram}
    .zero   254 * 8
    .quad   {high_device}
    .zero   255 * 8

    .section .bss.stacks, "aw", @nobits
    .balign 16
stacks:
    .space  {first_stack} + ({cpus} - 1) * {stack}
    .text
    "#,
    secondary = sym crate::cpus::secondary,
    first_stack = const FIRST_STACK,
    stack = const STACK,
    cpus = const MAX_CPUS,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    device = const DEVICE,
    high_device = const HIGH_DEVICE,
    ram = const RAM,
);

/// Declares what a program does, by three functions.
///
/// A `fn(usize) -> !` is the first on CPU 0, with the address of the device tree. A `fn(bool) ->
/// u32` acknowledges the interrupt of an exception, an FIQ if true, and returns what it has read. A
/// `fn(bool, u32)` ends such an interrupt.
#[macro_export]
macro_rules! guest {
    ($first:path, $acknowledge:path, $end:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_first(tree: usize) -> ! {
            $first(tree)
        }

        #[unsafe(no_mangle)]
        extern "C" fn guest_acknowledge(by_fiq: bool) -> u32 {
            $acknowledge(by_fiq)
        }

        #[unsafe(no_mangle)]
        extern "C" fn guest_end(by_fiq: bool, read: u32) {
            $end(by_fiq, read);
        }
    };
}

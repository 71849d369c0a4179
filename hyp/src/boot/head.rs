//! The first instructions: from the boot loader's jump, MMU off, to Rust at its link address.
//!
//! The image starts with the header of an arm64 Linux `Image`, so that every boot loader for Linux
//! can place and enter it: at a multiple of 2 MiB anywhere in RAM, with the device tree's address
//! in `x0`. This code runs wherever the image was loaded, and must not touch the stack.
//!
//! * `image_start`: the boot CPU. Clears `.bss`, builds the tables of [`super::early`], turns the
//!   MMU on.
//! * `secondary_start`: every other CPU, entered by the firmware with the virtual address of its
//!   `PerCpu` in `x0`, at the image's final place.
//! * `relocate`: moves the image and continues under new tables.
//! * `enable_mmu`: the common part of the three.
#![expect(unsafe_code)]
// UNSAFETY: assembly, and declarations of its symbols.

use core::arch::global_asm;
use core::ops::Range;

use crate::cpu::percpu::{PerCpu, offsets};
use crate::memory::layout::IMAGE_BASE;

/// Bytes of the boot CPU's stack until the CPU enters the guest.
const BOOT_STACK_SIZE: usize = 64 << 10;

/// `MAIR_EL2`: attribute 0 is normal write-back memory, attribute 1 Device-nGnRE.
const MAIR: u64 = 0x04ff;

/// `TCR_EL2` without the physical address size: 48-bit addresses, 4 KiB pages, walks cacheable and
/// inner shareable, and the bits that are RES1.
const TCR: u64 = (1 << 31) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 16;

/// `SCTLR_EL2`: MMU, data and instruction caches, stack alignment check, and the bits that are
/// RES1.
const SCTLR: u64 = 0x30c5_0830 | (1 << 12) | (1 << 3) | (1 << 2) | 1;

/// Attributes of a 2 MiB or 1 GiB block of normal memory: accessed, inner shareable, attribute 0.
pub(super) const NORMAL_BLOCK: u64 = (1 << 10) | (3 << 8) | 1;

/// The root table of the final mapping of EL2, for CPUs that start with the MMU off.
#[unsafe(no_mangle)]
pub(super) static FINAL_ROOT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

unsafe extern "C" {
    /// Moves the image of `length` bytes from physical address `from` to `to`, which is mapped at
    /// `window`. Returns at the unchanged virtual address in the new place, with `root` as
    /// translation table. The current tables must map `from` by identity.
    pub(super) fn relocate(window: usize, length: usize, from: usize, to: usize, root: u64);

    /// Enters Rust on a secondary CPU. The firmware jumps to this address.
    pub(super) fn secondary_start() -> !;
}

global_asm!(
    r#"
    .section .head, "ax"
    .global image_start
image_start:
    b       boot_start
    .long   0
    .quad   0                       // text_offset: at a 2 MiB boundary
    .quad   image_size
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

boot_start:
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    halt
    msr     spsel, #1
    bl      begin_el2
    mov     x20, x0                 // the device tree
    adr     x21, image_start        // load address of the image

    // Clear .bss with the cache off, then drop stale lines of .bss from the cache.
    adrp    x0, bss_start
    adrp    x1, image_end
0:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    0b

    // EARLY_TABLES: root, image level 1, image level 2, and a pool, one page each. The root's last
    // entry covers the link address.
    adrp    x0, {early_tables}
    add     x0, x0, :lo12:{early_tables}
    mov     x3, #{normal_block}
    add     x1, x0, #({image_1} * 0x1000)
    orr     x2, x1, #3
    str     x2, [x0, #(511 * 8)]
    add     x2, x1, #0x1000
    orr     x4, x2, #3
    str     x4, [x1]
    adrp    x6, image_end
    orr     x5, x3, x21
    mov     x7, x21
1:  str     x5, [x2], #8
    add     x5, x5, #0x200000
    add     x7, x7, #0x200000
    cmp     x7, x6
    b.lo    1b

    // By identity: the image's first block, the device tree's first block and the one after it.
    add     x2, x0, #({pool} * 0x1000)
    mov     x1, x21
    bl      map_block
    mov     x1, x20
    bl      map_block
    add     x1, x20, #0x200000
    bl      map_block

    adrp    x1, bss_start
    adrp    x2, image_end
2:  dc      ivac, x1
    add     x1, x1, #16             // no cache line is shorter
    cmp     x1, x2
    b.lo    2b
    dsb     sy

    ldr     x30, =boot_high
    b       enable_mmu

boot_high:
    adrp    x1, {boot_stack} + {boot_stack_size}
    add     sp, x1, :lo12:{boot_stack} + {boot_stack_size}
    adrp    x1, exception_vectors
    add     x1, x1, :lo12:exception_vectors
    msr     vbar_el2, x1
    msr     tpidr_el2, xzr
    isb
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x21
    b       {boot}

    // x0 root, x1 address, x2 next free table, which is moved on, x3 attributes. Maps the block of
    // 2 MiB around the address by identity.
map_block:
    lsr     x4, x1, #39
    add     x5, x0, x4, lsl #3
    ubfx    x4, x1, #30, #9
    ldr     x6, [x5]
    cbnz    x6, 6f
    orr     x6, x2, #3
    str     x6, [x5]
    add     x2, x2, #0x1000
6:  and     x6, x6, #0xfffffffff000
    add     x5, x6, x4, lsl #3
    ubfx    x4, x1, #21, #9
    ldr     x6, [x5]
    cbnz    x6, 7f
    orr     x6, x2, #3
    str     x6, [x5]
    add     x2, x2, #0x1000
7:  and     x6, x6, #0xfffffffff000
    lsr     x5, x1, #21
    orr     x5, x3, x5, lsl #21
    str     x5, [x6, x4, lsl #3]
    ret

    // Not EL2: nothing can be run or reported. At EL1, firmware answers to HVC.
halt:
    cmp     x1, #(1 << 2)
    b.ne    0f
    ldr     w0, =0x84000008         // PSCI SYSTEM_OFF
    hvc     #0
0:  wfe
    b       0b

    .global secondary_start
secondary_start:
    msr     daifset, #0xf
    msr     spsel, #1
    bl      begin_el2
    mov     x19, x0
    adrp    x0, {final_root}
    ldr     x0, [x0, :lo12:{final_root}]
    ldr     x30, =secondary_high
    b       enable_mmu

secondary_high:
    msr     tpidr_el2, x19
    ldr     x0, [x19, #{stack_top}]
    mov     sp, x0
    adrp    x1, exception_vectors
    add     x1, x1, :lo12:exception_vectors
    msr     vbar_el2, x1
    isb
    mov     x30, xzr
    mov     x0, x19
    b       {secondary}

    // x0 window, x1 length, x2 from, x3 to, x4 root. While the MMU is switched, instructions run
    // from addresses that both tables map by identity.
    .global relocate
relocate:
    adrp    x5, image_start
    mov     x6, x5
    add     x7, x6, x1
3:  ldp     x8, x9, [x6], #16
    stp     x8, x9, [x0]
    dc      civac, x0               // no cache line is shorter than 16 bytes
    add     x0, x0, #16
    cmp     x6, x7
    b.lo    3b
    dsb     sy
    ic      iallu                   // the new place has not held these instructions
    dsb     nsh
    adr     x6, 4f
    sub     x6, x6, x5
    add     x7, x6, x2
    add     x8, x6, x3
    add     x8, x8, #(5f - 4f)
    br      x7
4:  mrs     x9, sctlr_el2
    bic     x9, x9, #1
    msr     sctlr_el2, x9
    isb
    br      x8
5:  mov     x0, x4
    b       enable_mmu

    // Firmware may have run at EL2 as a host (HCR_EL2.E2H), whose control registers are laid out
    // differently, or may have interrupts and exceptions routed there (TGE).
begin_el2:
    mov     x1, #(1 << 31)          // RW
    msr     hcr_el2, x1
    isb
    ret

    // x0 root; continues at the virtual address in x30.
enable_mmu:
    mov     x1, #{mair}
    msr     mair_el2, x1
    ldr     x1, ={tcr}
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    cmp     x2, #5                  // 48 bits, the most that 4 KiB pages describe without FEAT_LPA2
    mov     x3, #5
    csel    x2, x2, x3, lo
    bfi     x1, x2, #16, #3
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    tlbi    alle1                   // a guest of the boot loader's may have had the VMIDs
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el2, x1
    isb
    ret
    .ltorg
    "#,
    early_tables = sym super::early::EARLY_TABLES,
    boot_stack = sym BOOT_STACK,
    boot_stack_size = const BOOT_STACK_SIZE,
    boot = sym super::boot,
    secondary = sym super::secondary::secondary,
    final_root = sym FINAL_ROOT,
    normal_block = const NORMAL_BLOCK,
    image_1 = const super::early::IMAGE_1,
    pool = const super::early::POOL,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    stack_top = const offsets::STACK_TOP,
);

/// Memory of the boot CPU's stack.
#[repr(C, align(4096))]
struct BootStack(core::cell::UnsafeCell<[u8; BOOT_STACK_SIZE]>);

// SAFETY: only the boot CPU uses the memory, as its stack.
unsafe impl Sync for BootStack {}

static BOOT_STACK: BootStack = BootStack(core::cell::UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// Returns the stack of the boot CPU until it has its own.
pub(crate) fn boot_stack() -> Range<usize> {
    let start = BOOT_STACK.0.get().addr();
    start..start + BOOT_STACK_SIZE
}

// The root's last entry covers the image, and `TCR_EL2.T0SZ` reaches it.
const _: () = assert!(IMAGE_BASE >> 39 == 511);
const _: () = assert!(core::mem::offset_of!(PerCpu, stack_top) == offsets::STACK_TOP);

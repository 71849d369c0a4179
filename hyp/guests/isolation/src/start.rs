//! From the first instruction of a vCPU to Rust, and exceptions.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

use crate::cpu::MAX_VCPUS;
use crate::{attacker, mrs, msr, psci, victim};

const STACK_SIZE: usize = 16 << 10;

/// Stacks of all vCPUs.
#[repr(C, align(16))]
struct Stacks(core::cell::UnsafeCell<[[u8; STACK_SIZE]; MAX_VCPUS]>);

// SAFETY: each vCPU uses its own stack.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(core::cell::UnsafeCell::new([[0; STACK_SIZE]; MAX_VCPUS]));

/// Translation table: blocks of 1 GiB by identity, RAM in the second block and devices, or nothing,
/// elsewhere.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static TABLE: Table = Table({
    /// An accessed block.
    const BLOCK: u64 = 1 << 10 | 1;
    /// Inner shareable, attribute 0.
    const RAM: u64 = BLOCK | 3 << 8;
    /// Attribute 1.
    const DEVICE: u64 = BLOCK | 1 << 2;
    let mut table = [0; 512];
    let mut index = 0;
    while index < 512 {
        table[index] = (index as u64) << 30 | if index == 1 { RAM } else { DEVICE };
        index += 1;
    }
    table
});

/// Function that vCPUs other than the first run.
static OTHERS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn start_other() -> !;
}

/// Turns vCPU number `index` on, to run `entry`.
pub(crate) fn power_on(index: usize, entry: fn() -> !) -> u64 {
    psci::cpu_on(crate::cpu::affinity(index), entry_of_others(entry))
}

/// Returns the entry point of a vCPU that is to run `entry`, as every vCPU but the first does.
pub(crate) fn entry_of_others(entry: fn() -> !) -> u64 {
    // Release: pairs with the Acquire in `other`.
    OTHERS.store(entry as usize, Ordering::Release);
    crate::cpu::publish();
    start_other as *const () as u64
}

extern "C" fn first(tree: *const u8) -> ! {
    // SAFETY: the hypervisor enters the guest with the address of a device tree, which nobody
    // writes.
    let tree = unsafe { Fdt::from_raw(tree) }.expect("the device tree is well-formed");
    let chosen = tree
        .find_node("/chosen")
        .expect("the tree has a command line");
    let arguments = chosen.property("bootargs");
    let arguments = arguments.and_then(|text| text.value_as::<&str>().ok());
    crate::main(arguments.expect("the command line is text"))
}

extern "C" fn other() -> ! {
    // Acquire: pairs with the Release in `power_on`.
    let entry = OTHERS.load(Ordering::Acquire);
    // SAFETY: `power_on` has stored a function of this type.
    let entry: fn() -> ! = unsafe { core::mem::transmute(entry) };
    entry()
}

/// Interrupted registers that a handler may look at.
#[repr(C)]
pub(crate) struct Frame {
    /// `x0` to `x18`, and `x30`.
    x: [u64; 20],
    elr: u64,
    spsr: u64,
}

impl Frame {
    const SIZE: usize = size_of::<Self>();
}

extern "C" fn interrupt(_frame: &mut Frame) {
    if attacker::is_running() {
        attacker::interrupt();
    } else {
        victim::interrupt();
    }
}

/// Handles an exception. The attacker continues behind the instruction; the victim has failed.
extern "C" fn exception(frame: &mut Frame) {
    const INSTRUCTION_ABORT: u64 = 0x21;
    let syndrome = mrs!("esr_el1");
    if !attacker::is_running() {
        let address = mrs!("far_el1");
        panic!(
            "exception {syndrome:#x} at {:#x}, address {address:#x}",
            frame.elr
        );
    }
    attacker::count_exception();
    frame.elr = match syndrome >> 26 {
        // The attacker has jumped to an unmapped address: it returns behind the jump.
        INSTRUCTION_ABORT => frame.x[19],
        _ => frame.elr + 4,
    };
}

/// Sets the calling vCPU's vectors. An attack may have changed them.
pub(crate) fn set_vectors() {
    unsafe extern "C" {
        static vectors: u8;
    }
    msr!("vbar_el1", (&raw const vectors).addr() as u64);
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
    ldr     x1, =bss_start
    ldr     x2, =bss_end
0:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    0b
    adr     x19, first_argument
    str     x0, [x19]
    ldr     x20, ={first}
    b       set_up
    .balign 8
first_argument:
    .quad   0

    .global start_other
start_other:
    adrp    x20, {other}
    add     x20, x20, :lo12:{other}

set_up:
    mrs     x0, mpidr_el1
    and     x1, x0, #0xff
    ubfx    x0, x0, #8, #8
    add     x0, x1, x0, lsl #4
    msr     tpidr_el1, x0
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    add     x0, x0, #1
    mov     x2, #{stack_size}
    madd    x1, x0, x2, x1
    mov     sp, x1
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    // Attribute 0 is normal write-back memory, attribute 1 Device-nGnRE. 39 bits, 4 KiB pages,
    // walks cacheable and shareable, 40 bits of physical address, no second table.
    mov     x0, #0x04ff
    msr     mair_el1, x0
    ldr     x0, =0x200803519
    msr     tcr_el1, x0
    adrp    x0, {table}
    msr     ttbr0_el1, x0
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    mrs     x0, sctlr_el1
    mov     x1, #0x1005             // MMU, data and instruction caches
    orr     x0, x0, x1
    msr     sctlr_el1, x0
    isb
    adr     x0, first_argument
    ldr     x0, [x0]
    mov     x29, xzr
    mov     x30, xzr
    br      x20
    .ltorg

    .macro enter handler
    .balign 0x80
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    adr     x0, \handler
    b       handle
    .endm

    .text
    .balign 0x800
vectors:
    .rept 2
    enter   {exception}
    enter   {interrupt}
    enter   {interrupt}
    enter   {exception}
    .endr
    .rept 2
    enter   {exception}
    enter   {exception}
    enter   {exception}
    enter   {exception}
    .endr

handle:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    stp     x2, x3, [sp, #160]
    mov     x1, x0
    mov     x0, sp
    blr     x1
    ldp     x2, x3, [sp, #160]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #{frame}
    eret
    "#,
    first = sym first,
    other = sym other,
    stacks = sym STACKS,
    stack_size = const STACK_SIZE,
    table = sym TABLE,
    frame = const Frame::SIZE,
    exception = sym exception,
    interrupt = sym interrupt,
);

const _: () = assert!(Frame::SIZE == 176);

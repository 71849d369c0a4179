//! The exception vectors: faults that a case provokes, and interrupts that it takes.
//!
//! A synchronous exception is recorded and its instruction skipped, so that the harness can name
//! the case and continue. An interrupt is acknowledged, recorded and ended.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;
use core::ops::RangeInclusive;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use crate::console::println;
use crate::cpu::Timer;
use crate::cpus::MAX_CPUS;
use crate::{cpu, psci};

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Number of interrupts that are recorded.
const TAKEN: usize = 64;

/// INTIDs that stand for no interrupt.
const SPECIAL: RangeInclusive<u32> = 1020..=1023;

unsafe extern "C" {
    /// Acknowledges the interrupt of an exception, as [`guest!`](crate::guest) declares.
    safe fn guest_acknowledge(by_fiq: bool) -> u32;

    /// Ends the interrupt of an exception, as [`guest!`](crate::guest) declares.
    safe fn guest_end(by_fiq: bool, read: u32);
}

/// Exceptions of one CPU since the last look.
struct Record {
    faults: AtomicU32,
    syndrome: AtomicU64,
    pc: AtomicU64,
    count: AtomicUsize,
    taken: [AtomicU32; TAKEN],
}

static RECORDS: [Record; MAX_CPUS] = [const {
    Record {
        faults: AtomicU32::new(0),
        syndrome: AtomicU64::new(0),
        pc: AtomicU64::new(0),
        count: AtomicUsize::new(0),
        taken: [const { AtomicU32::new(0) }; TAKEN],
    }
}; MAX_CPUS];

/// A synchronous exception or an SError.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// `ESR_EL1`.
    pub syndrome: u64,
    /// Address of the instruction.
    pub pc: u64,
}

/// Takes the record of a CPU's last fault, if there was one since the last call.
pub fn take_fault(cpu: usize) -> Option<Fault> {
    let record = &RECORDS[cpu];
    (record.faults.swap(0, Relaxed) != 0).then(|| Fault {
        syndrome: record.syndrome.load(Relaxed),
        pc: record.pc.load(Relaxed),
    })
}

/// Clears the record of interrupts that the calling CPU has taken.
pub fn forget_taken() {
    RECORDS[cpu::number()].count.store(0, Relaxed);
}

/// Returns the number of interrupts that a CPU has taken.
pub fn taken(cpu: usize) -> usize {
    RECORDS[cpu].count.load(Relaxed)
}

/// Returns the interrupt that the calling CPU took as number `index`, with [`BY_FIQ`] for an FIQ.
pub fn taken_at(index: usize) -> u32 {
    RECORDS[cpu::number()].taken[index].load(Relaxed)
}

/// Bit of an interrupt that was taken as an FIQ.
pub const BY_FIQ: u32 = 1 << 31;

/// Kinds of exceptions, in the order of the vectors.
const SYNCHRONOUS: u64 = 0;
const IRQ: u64 = 1;
const FIQ: u64 = 2;

/// Exception class of a single step at this exception level.
const SINGLE_STEP: u64 = 0x33;

/// Handles an exception. Entered by the vectors; `kind` is the index among the four vectors of each
/// source.
extern "C" fn exception(kind: u64) {
    let record = &RECORDS[cpu::number()];
    match kind {
        IRQ | FIQ => {
            let by_fiq = kind == FIQ;
            let by = if by_fiq { BY_FIQ } else { 0 };
            let read = guest_acknowledge(by_fiq);
            let count = record.count.load(Relaxed);
            if let Some(place) = record.taken.get(count) {
                place.store(read | by, Relaxed);
                record.count.store(count + 1, Relaxed);
            }
            if !SPECIAL.contains(&read) {
                // A level that stayed high would interrupt for ever.
                Timer::ALL
                    .iter()
                    .filter(|timer| timer.intid() == read)
                    .for_each(|timer| timer.stop());
                guest_end(by_fiq, read);
            }
        }
        _ => {
            let pc = cpu::read!("elr_el1");
            let syndrome = cpu::read!("esr_el1");
            record.syndrome.store(syndrome, Relaxed);
            record.pc.store(pc, Relaxed);
            let faults = record.faults.fetch_add(1, Relaxed);
            let class = syndrome >> 26 & 0x3f;
            let fetch = matches!(class, 0x20 | 0x21);
            if fetch || faults > 10_000 {
                println!("Bail out! exception at {pc:#x}, ESR_EL1 {syndrome:#x}");
                psci::system_off();
            }
            if class == SINGLE_STEP {
                // The instruction at `pc` is still to be executed, without a step.
                cpu::write!("mdscr_el1", 0);
            } else if kind == SYNCHRONOUS {
                cpu::write!("elr_el1", pc + INSTRUCTION);
            }
        }
    }
}

global_asm!(
    r#"
    .macro vector kind
    .balign 0x80
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       exception_entry
    .endm

    .balign 0x800
    .global vectors
vectors:
    .rept   4
    vector  0
    vector  1
    vector  2
    vector  3
    .endr

exception_entry:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x29, x2, [sp, #160]
    bl      {exception}
    ldp     x29, x2, [sp, #160]
    msr     spsr_el1, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    ldp     x0, x1, [sp]
    add     sp, sp, #192
    eret
    "#,
    exception = sym exception,
);

//! Exceptions injected into the guest.

use aarch64_cpu::registers::{
    ELR_EL1, ELR_EL2, ESR_EL1, FAR_EL1, FAR_EL2, Readable, SCTLR_EL1, SPSR_EL1, SPSR_EL2, VBAR_EL1,
    Writeable,
};

/// `ESR_EL1` fields and values.
mod esr {
    pub(super) const EC_SHIFT: u32 = 26;
    pub(super) const EC_UNKNOWN: u64 = 0;
    pub(super) const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub(super) const EC_DATA_ABORT_LOWER: u64 = 0x24;
    /// Difference to the class of an abort without a change of exception level.
    pub(super) const SAME_LEVEL: u64 = 1;
    pub(super) const IL: u64 = 1 << 25;
    /// Fault status: synchronous external abort, not on a table walk.
    pub(super) const EXTERNAL: u64 = 0x10;
}

/// `SPSR` fields.
mod spsr {
    pub(super) const AARCH32: u64 = 1 << 4;
    pub(super) const MODE: u64 = 0x1f;
    pub(super) const EL0: u64 = 0;
    pub(super) const EL1T: u64 = 4;
    pub(super) const EL1H: u64 = 5;
    pub(super) const DAIF: u64 = 0xf << 6;
    pub(super) const SSBS: u64 = 1 << 12;
    pub(super) const PAN: u64 = 1 << 22;
    pub(super) const DIT: u64 = 1 << 24;
    pub(super) const TCO: u64 = 1 << 25;
}

/// Injects an external abort for the access that has just trapped.
pub(crate) fn external_abort(instruction: bool) {
    let class = if instruction {
        esr::EC_INSTRUCTION_ABORT_LOWER
    } else {
        esr::EC_DATA_ABORT_LOWER
    };
    let same = if from_el0() { 0 } else { esr::SAME_LEVEL };
    FAR_EL1.set(FAR_EL2.get());
    take_to_el1((class + same) << esr::EC_SHIFT | esr::IL | esr::EXTERNAL);
}

/// Injects an Undefined Instruction exception.
pub(crate) fn undefined() {
    take_to_el1(esr::EC_UNKNOWN << esr::EC_SHIFT | esr::IL);
}

/// Returns true if the trap came from EL0.
fn from_el0() -> bool {
    let state = SPSR_EL2.get();
    state & spsr::AARCH32 != 0 || state & spsr::MODE == spsr::EL0
}

/// Takes a synchronous exception to EL1, as the CPU would (DDI 0487, `AArch64.TakeException`).
fn take_to_el1(syndrome: u64) {
    /// `SCTLR_EL1.DSSBS`.
    const DSSBS: u64 = 1 << 44;
    /// `SCTLR_EL1.SPAN`.
    const SPAN: u64 = 1 << 23;
    let state = SPSR_EL2.get();
    let vector = match state & spsr::MODE {
        spsr::EL1T => 0,
        spsr::EL1H => 0x200,
        spsr::EL0 => 0x400,
        _ => 0x600,
    };

    ESR_EL1.set(syndrome);
    ELR_EL1.set(ELR_EL2.get());
    SPSR_EL1.set(state);

    let control = SCTLR_EL1.get();
    let mut new = spsr::EL1H | spsr::DAIF | state & (spsr::PAN | spsr::DIT | spsr::TCO);
    if control & SPAN == 0 {
        new |= spsr::PAN;
    }
    if control & DSSBS != 0 {
        new |= spsr::SSBS;
    }
    SPSR_EL2.set(new);
    ELR_EL2.set(VBAR_EL1.get() + vector);
}

//! Floating-point and vector registers of a vCPU. The hypervisor itself uses none: they stay in the
//! CPU until another vCPU gets it.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use alloc::boxed::Box;
use core::arch::{asm, global_asm};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CPTR_EL2, Readable, Writeable};
use spin::Once;

use crate::cpu::registers::{FPCR, FPSR, ID_AA64PFR0, ZCR_EL1, ZCR_EL2, id_field};
use crate::snapshot::state;

/// Bytes of a register without SVE.
const SHORT: usize = 16;

/// `CPTR_EL2.TZ`: SVE traps, at EL2 too.
pub(crate) const SVE_TRAP: u64 = 1 << 8;

/// `ZCR_EL2.LEN`: the longest vectors.
const LONGEST: u64 = 0xf;

/// Vector registers. With SVE `Z0` to `Z31`, `P0` to `P15` and `FFR`, otherwise `V0` to `V31`.
///
/// # Invariants
/// `vectors` has room for the registers at the length that [`length`] returns.
pub(crate) struct VectorRegisters {
    vectors: Box<[u128]>,
    /// `FPSR`, `FPCR` and `ZCR_EL1`.
    status: u64,
    control: u64,
    length: u64,
}

unsafe extern "C" {
    fn vectors_save(registers: *mut u128);
    fn vectors_restore(registers: *const u128);
    fn long_vectors_save(registers: *mut u128);
    fn long_vectors_restore(registers: *const u128);
}

/// Returns the bytes of a vector register: those of the boot CPU's longest vectors. The first call
/// is made on the boot CPU, before [`configure`](crate::cpu::control::configure).
pub(crate) fn length() -> usize {
    static LENGTH: Once<usize> = Once::new();
    *LENGTH.call_once(|| {
        if !has_sve() {
            return SHORT;
        }
        CPTR_EL2.set(CPTR_EL2.get() & !SVE_TRAP);
        barrier::isb(barrier::SY);
        ZCR_EL2.set(LONGEST);
        barrier::isb(barrier::SY);
        let bytes;
        // SAFETY: reads the length of vectors. The CPU has SVE.
        unsafe {
            asm!(
                ".arch_extension sve",
                "rdvl {}, #1",
                ".arch_extension nosve",
                out(reg) bytes,
                options(nomem, nostack, preserves_flags)
            );
        }
        bytes
    })
}

/// Lets guests use SVE, with vectors of [`length`] bytes, on the calling CPU, which does not trap
/// SVE. Does nothing without SVE.
///
/// # Panics
/// If the CPU has no vectors of that length.
pub(crate) fn limit_length() {
    let length = length();
    if !has_sve() {
        assert_eq!(length, SHORT, "this CPU has no SVE, and the boot CPU has");
        return;
    }
    ZCR_EL2.set((length / SHORT - 1) as u64);
}

pub(crate) fn has_sve() -> bool {
    const SVE: u32 = 32;
    id_field(ID_AA64PFR0, SVE) != 0
}

impl VectorRegisters {
    /// Returns registers of zeros.
    pub(crate) fn new() -> Self {
        let length = length();
        // 32 vectors, and 17 predicates with a bit for each byte of a vector.
        let bytes = 32 * length + 17 * length / 8;
        Self {
            // INVARIANT: the room is made here.
            vectors: alloc::vec![0; bytes.div_ceil(size_of::<u128>())].into(),
            status: 0,
            control: 0,
            length: 0,
        }
    }

    /// Fills the registers with zeros.
    pub(crate) fn reset(&mut self) {
        self.vectors.fill(0);
        (self.status, self.control, self.length) = (0, 0, 0);
    }

    /// Returns the registers as plain data.
    pub(crate) fn state(&self) -> state::VectorRegisters {
        let bytes = self.vectors.iter().flat_map(|word| word.to_le_bytes());
        state::VectorRegisters {
            vectors: bytes.collect(),
            status: self.status,
            control: self.control,
            length: self.length,
        }
    }

    /// Sets the registers. Returns false, and changes nothing, if they have another length here.
    pub(crate) fn set(&mut self, state: &state::VectorRegisters) -> bool {
        let (words, rest) = state.vectors.as_chunks();
        if words.len() != self.vectors.len() || !rest.is_empty() {
            return false;
        }
        for (word, bytes) in self.vectors.iter_mut().zip(words) {
            *word = u128::from_le_bytes(*bytes);
        }
        (self.status, self.control, self.length) = (state.status, state.control, state.length);
        true
    }

    /// Saves the CPU's registers.
    pub(crate) fn save(&mut self) {
        let registers = self.vectors.as_mut_ptr();
        if length() == SHORT {
            // SAFETY: by the type's invariants, the routine writes the room and nothing else.
            unsafe { vectors_save(registers) };
        } else {
            // SAFETY: by the type's invariants, the routine writes the room and nothing else. The
            // CPU has SVE.
            unsafe { long_vectors_save(registers) };
            self.length = ZCR_EL1.get();
        }
        (self.status, self.control) = (FPSR.get(), FPCR.get());
    }

    /// Loads the CPU's registers.
    pub(crate) fn restore(&self) {
        let registers = self.vectors.as_ptr();
        if length() == SHORT {
            // SAFETY: the hypervisor has no values in these registers.
            unsafe { vectors_restore(registers) };
        } else {
            ZCR_EL1.set(self.length);
            // SAFETY: the hypervisor has no values in these registers. The CPU has SVE.
            unsafe { long_vectors_restore(registers) };
        }
        FPSR.set(self.status);
        FPCR.set(self.control);
    }
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .global vectors_save
vectors_save:
    stp     q0, q1, [x0, #0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    ret

    .global vectors_restore
vectors_restore:
    ldp     q0, q1, [x0, #0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ret

    .arch_extension sve
    .macro each_vector operation
    .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \operation z\n, [x0, #\n, mul vl]
    .endr
    .irp    n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    \operation z\n, [x0, #\n, mul vl]
    .endr
    .endm
    .macro each_predicate operation
    .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \operation p\n, [x1, #\n, mul vl]
    .endr
    .endm

    .global long_vectors_save
long_vectors_save:
    addvl   x1, x0, #31
    addvl   x1, x1, #1
    each_vector str
    each_predicate str
    rdffr   p0.b
    str     p0, [x1, #16, mul vl]
    ret

    .global long_vectors_restore
long_vectors_restore:
    addvl   x1, x0, #31
    addvl   x1, x1, #1
    ldr     p0, [x1, #16, mul vl]
    wrffr   p0.b
    each_predicate ldr
    each_vector ldr
    ret
    .arch_extension nosve
    .arch_extension nosimd
    .arch_extension nofp
    "#
);

//! Floating-point and vector registers of a vCPU. The hypervisor itself uses none: they stay in the
//! CPU until another vCPU gets it.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;

/// `V0` to `V31`, `FPSR` and `FPCR`.
#[repr(C, align(16))]
#[derive(Default)]
pub(crate) struct VectorRegisters {
    v: [u128; 32],
    status: u64,
    control: u64,
}

unsafe extern "C" {
    fn vector_save(registers: *mut VectorRegisters);
    fn vector_restore(registers: *const VectorRegisters);
}

impl VectorRegisters {
    /// Saves the CPU's registers.
    pub(crate) fn save(&mut self) {
        // SAFETY: the routine writes the whole of `self`, and nothing else.
        unsafe { vector_save(self) }
    }

    /// Loads the CPU's registers.
    pub(crate) fn restore(&self) {
        // SAFETY: the hypervisor has no values in these registers.
        unsafe { vector_restore(self) }
    }
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd

    .global vector_save
vector_save:
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
    mrs     x1, fpsr
    mrs     x2, fpcr
    str     x1, [x0, #512]
    str     x2, [x0, #520]
    ret

    .global vector_restore
vector_restore:
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
    ldr     x1, [x0, #512]
    ldr     x2, [x0, #520]
    msr     fpsr, x1
    msr     fpcr, x2
    ret
    .arch_extension nosimd
    .arch_extension nofp
    "#
);

const _: () = assert!(core::mem::offset_of!(VectorRegisters, status) == 512);

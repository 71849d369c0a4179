//! Vector registers: a guest finds what it left there, whatever other guests do.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;

use crate::{cpu, msr};

unsafe extern "C" {
    /// Writes `low` and `high` to every vector register, and `FPCR` and `FPSR`.
    fn vectors_fill(low: u64, high: u64, control: u64, status: u64);

    /// Returns 0 if the registers are as [`vectors_fill`] left them.
    fn vectors_differ(low: u64, high: u64, control: u64, status: u64) -> u64;
}

/// `FPCR` bits that every CPU has: flush to zero, default NaN, rounding mode.
const CONTROL: u64 = 0xf << 22;

/// `FPSR` bits that every CPU has: saturation and the cumulative exceptions.
const STATUS: u64 = 1 << 27 | 0x9f;

/// Lets the calling vCPU use the registers.
pub(crate) fn enable() {
    // FPEN: no trap.
    msr!("cpacr_el1", 3 << 20);
    cpu::synchronize();
}

/// Fills the registers with values that depend on `seed`.
pub(crate) fn fill(seed: u64) {
    // SAFETY: the guest has no values in these registers.
    unsafe { vectors_fill(seed, !seed, seed & CONTROL, seed & STATUS) }
}

/// Returns true if the registers are as [`fill`] has left them.
pub(crate) fn are_filled(seed: u64) -> bool {
    // SAFETY: reads registers only.
    unsafe { vectors_differ(seed, !seed, seed & CONTROL, seed & STATUS) == 0 }
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .global vectors_fill
vectors_fill:
    fmov    d0, x0
    fmov    v0.d[1], x1
    fmov    d1, x0
    fmov    v1.d[1], x1
    fmov    d2, x0
    fmov    v2.d[1], x1
    fmov    d3, x0
    fmov    v3.d[1], x1
    fmov    d4, x0
    fmov    v4.d[1], x1
    fmov    d5, x0
    fmov    v5.d[1], x1
    fmov    d6, x0
    fmov    v6.d[1], x1
    fmov    d7, x0
    fmov    v7.d[1], x1
    fmov    d8, x0
    fmov    v8.d[1], x1
    fmov    d9, x0
    fmov    v9.d[1], x1
    fmov    d10, x0
    fmov    v10.d[1], x1
    fmov    d11, x0
    fmov    v11.d[1], x1
    fmov    d12, x0
    fmov    v12.d[1], x1
    fmov    d13, x0
    fmov    v13.d[1], x1
    fmov    d14, x0
    fmov    v14.d[1], x1
    fmov    d15, x0
    fmov    v15.d[1], x1
    fmov    d16, x0
    fmov    v16.d[1], x1
    fmov    d17, x0
    fmov    v17.d[1], x1
    fmov    d18, x0
    fmov    v18.d[1], x1
    fmov    d19, x0
    fmov    v19.d[1], x1
    fmov    d20, x0
    fmov    v20.d[1], x1
    fmov    d21, x0
    fmov    v21.d[1], x1
    fmov    d22, x0
    fmov    v22.d[1], x1
    fmov    d23, x0
    fmov    v23.d[1], x1
    fmov    d24, x0
    fmov    v24.d[1], x1
    fmov    d25, x0
    fmov    v25.d[1], x1
    fmov    d26, x0
    fmov    v26.d[1], x1
    fmov    d27, x0
    fmov    v27.d[1], x1
    fmov    d28, x0
    fmov    v28.d[1], x1
    fmov    d29, x0
    fmov    v29.d[1], x1
    fmov    d30, x0
    fmov    v30.d[1], x1
    fmov    d31, x0
    fmov    v31.d[1], x1
    msr     fpcr, x2
    msr     fpsr, x3
    ret

    .global vectors_differ
vectors_differ:
    mrs     x4, fpcr
    eor     x2, x2, x4
    mrs     x4, fpsr
    eor     x3, x3, x4
    orr     x2, x2, x3
    fmov    x4, d0
    fmov    x5, v0.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d1
    fmov    x5, v1.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d2
    fmov    x5, v2.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d3
    fmov    x5, v3.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d4
    fmov    x5, v4.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d5
    fmov    x5, v5.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d6
    fmov    x5, v6.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d7
    fmov    x5, v7.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d8
    fmov    x5, v8.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d9
    fmov    x5, v9.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d10
    fmov    x5, v10.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d11
    fmov    x5, v11.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d12
    fmov    x5, v12.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d13
    fmov    x5, v13.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d14
    fmov    x5, v14.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d15
    fmov    x5, v15.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d16
    fmov    x5, v16.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d17
    fmov    x5, v17.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d18
    fmov    x5, v18.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d19
    fmov    x5, v19.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d20
    fmov    x5, v20.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d21
    fmov    x5, v21.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d22
    fmov    x5, v22.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d23
    fmov    x5, v23.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d24
    fmov    x5, v24.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d25
    fmov    x5, v25.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d26
    fmov    x5, v26.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d27
    fmov    x5, v27.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d28
    fmov    x5, v28.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d29
    fmov    x5, v29.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d30
    fmov    x5, v30.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    fmov    x4, d31
    fmov    x5, v31.d[1]
    eor     x4, x4, x0
    eor     x5, x5, x1
    orr     x2, x2, x4
    orr     x2, x2, x5
    mov     x0, x2
    ret
    .arch_extension nosimd
    .arch_extension nofp
    "#
);

//! Vector registers: a guest finds what it left there, whatever other guests do.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::cpu::MAX_VCPUS;
use crate::{cpu, mrs, msr};

unsafe extern "C" {
    /// Writes `low` and `high` to every vector register, and `FPCR` and `FPSR`.
    fn vectors_fill(low: u64, high: u64, control: u64, status: u64);

    /// Returns 0 if the registers are as [`vectors_fill`] left them.
    fn vectors_differ(low: u64, high: u64, control: u64, status: u64) -> u64;

    /// Writes to lane `i` of vector register `n`, of 64 bits each, `seed + i * (n % 16)`, and sets
    /// the first `count % 256` bits of every predicate register.
    fn long_vectors_fill(seed: u64, count: u64);

    /// Copies all vector registers to `to`, and all predicate registers behind them. Returns the
    /// bytes of a vector.
    fn long_vectors_copy(to: *mut u64) -> u64;
}

/// Double words of the longest vectors and predicates.
const LONGEST: usize = 32 * 32 + 17 * 4;

/// Room for the vectors of each vCPU.
struct Room(UnsafeCell<[[u64; LONGEST]; MAX_VCPUS]>);

// SAFETY: each vCPU uses its own part.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([[0; LONGEST]; MAX_VCPUS]));

/// `FPCR` bits that every CPU has: flush to zero, default NaN, rounding mode.
const CONTROL: u64 = 0xf << 22;

/// `FPSR` bits that every CPU has: saturation and the cumulative exceptions.
const STATUS: u64 = 1 << 27 | 0x9f;

/// Lets the calling vCPU use the registers.
pub(crate) fn enable() {
    // FPEN and ZEN: no trap.
    msr!("cpacr_el1", 3 << 20 | 3 << 16);
    cpu::synchronize();
    if has_sve() {
        // ZCR_EL1: the longest vectors.
        msr!("s3_0_c1_c2_0", 0xf);
        cpu::synchronize();
    }
}

fn has_sve() -> bool {
    mrs!("id_aa64pfr0_el1") >> 32 & 0xf != 0
}

/// Fills the registers with values that depend on `seed`.
pub(crate) fn fill(seed: u64) {
    // SAFETY: the guest has no values in these registers.
    unsafe { vectors_fill(seed, !seed, seed & CONTROL, seed & STATUS) }
    if has_sve() {
        // SAFETY: the guest has no values in these registers.
        unsafe { long_vectors_fill(seed, seed & 0xff) }
    }
}

/// Returns true if the registers are as [`fill`] has left them.
pub(crate) fn are_filled(seed: u64) -> bool {
    if has_sve() {
        return are_long_filled(seed);
    }
    // SAFETY: reads registers only.
    unsafe { vectors_differ(seed, !seed, seed & CONTROL, seed & STATUS) == 0 }
}

fn are_long_filled(seed: u64) -> bool {
    // SAFETY: the part is the calling vCPU's.
    let room = unsafe { &mut (*ROOM.0.get())[cpu::index()] };
    // SAFETY: the room is large enough for the longest vectors.
    let bytes = unsafe { long_vectors_copy(room.as_mut_ptr()) } as usize;
    let (vectors, predicates) = room.split_at(32 * bytes / 8);
    let lanes = |(n, vector): (u64, &[u64])| {
        let expected = (0..).map(|lane| seed.wrapping_add(lane * (n % 16)));
        vector.iter().copied().eq(expected.take(bytes / 8))
    };

    let ones = (seed & 0xff).min(bytes as u64);
    let expected = |bit: u64| bit < ones;
    let bit = |at: u64| predicates[at as usize / 64] >> (at % 64) & 1 != 0;
    // Sixteen predicates and FFR, with a bit for each byte of a vector.
    let bits = 0..17 * bytes as u64;
    (0..).zip(vectors.chunks(bytes / 8)).all(lanes)
        && bits
            .into_iter()
            .all(|at| bit(at) == expected(at % bytes as u64))
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

    .arch_extension sve
    .global long_vectors_fill
long_vectors_fill:
    mov     x2, #0
    index   z0.d, x0, x2
    mov     x2, #1
    index   z1.d, x0, x2
    mov     x2, #2
    index   z2.d, x0, x2
    mov     x2, #3
    index   z3.d, x0, x2
    mov     x2, #4
    index   z4.d, x0, x2
    mov     x2, #5
    index   z5.d, x0, x2
    mov     x2, #6
    index   z6.d, x0, x2
    mov     x2, #7
    index   z7.d, x0, x2
    mov     x2, #8
    index   z8.d, x0, x2
    mov     x2, #9
    index   z9.d, x0, x2
    mov     x2, #10
    index   z10.d, x0, x2
    mov     x2, #11
    index   z11.d, x0, x2
    mov     x2, #12
    index   z12.d, x0, x2
    mov     x2, #13
    index   z13.d, x0, x2
    mov     x2, #14
    index   z14.d, x0, x2
    mov     x2, #15
    index   z15.d, x0, x2
    mov     x2, #0
    index   z16.d, x0, x2
    mov     x2, #1
    index   z17.d, x0, x2
    mov     x2, #2
    index   z18.d, x0, x2
    mov     x2, #3
    index   z19.d, x0, x2
    mov     x2, #4
    index   z20.d, x0, x2
    mov     x2, #5
    index   z21.d, x0, x2
    mov     x2, #6
    index   z22.d, x0, x2
    mov     x2, #7
    index   z23.d, x0, x2
    mov     x2, #8
    index   z24.d, x0, x2
    mov     x2, #9
    index   z25.d, x0, x2
    mov     x2, #10
    index   z26.d, x0, x2
    mov     x2, #11
    index   z27.d, x0, x2
    mov     x2, #12
    index   z28.d, x0, x2
    mov     x2, #13
    index   z29.d, x0, x2
    mov     x2, #14
    index   z30.d, x0, x2
    mov     x2, #15
    index   z31.d, x0, x2
    setffr
    whilelo p0.b, xzr, x1
    wrffr   p0.b
    whilelo p0.b, xzr, x1
    whilelo p1.b, xzr, x1
    whilelo p2.b, xzr, x1
    whilelo p3.b, xzr, x1
    whilelo p4.b, xzr, x1
    whilelo p5.b, xzr, x1
    whilelo p6.b, xzr, x1
    whilelo p7.b, xzr, x1
    whilelo p8.b, xzr, x1
    whilelo p9.b, xzr, x1
    whilelo p10.b, xzr, x1
    whilelo p11.b, xzr, x1
    whilelo p12.b, xzr, x1
    whilelo p13.b, xzr, x1
    whilelo p14.b, xzr, x1
    whilelo p15.b, xzr, x1
    ret

    .global long_vectors_copy
long_vectors_copy:
    addvl   x1, x0, #31
    addvl   x1, x1, #1
    str     z0, [x0, #0, mul vl]
    str     z1, [x0, #1, mul vl]
    str     z2, [x0, #2, mul vl]
    str     z3, [x0, #3, mul vl]
    str     z4, [x0, #4, mul vl]
    str     z5, [x0, #5, mul vl]
    str     z6, [x0, #6, mul vl]
    str     z7, [x0, #7, mul vl]
    str     z8, [x0, #8, mul vl]
    str     z9, [x0, #9, mul vl]
    str     z10, [x0, #10, mul vl]
    str     z11, [x0, #11, mul vl]
    str     z12, [x0, #12, mul vl]
    str     z13, [x0, #13, mul vl]
    str     z14, [x0, #14, mul vl]
    str     z15, [x0, #15, mul vl]
    str     z16, [x0, #16, mul vl]
    str     z17, [x0, #17, mul vl]
    str     z18, [x0, #18, mul vl]
    str     z19, [x0, #19, mul vl]
    str     z20, [x0, #20, mul vl]
    str     z21, [x0, #21, mul vl]
    str     z22, [x0, #22, mul vl]
    str     z23, [x0, #23, mul vl]
    str     z24, [x0, #24, mul vl]
    str     z25, [x0, #25, mul vl]
    str     z26, [x0, #26, mul vl]
    str     z27, [x0, #27, mul vl]
    str     z28, [x0, #28, mul vl]
    str     z29, [x0, #29, mul vl]
    str     z30, [x0, #30, mul vl]
    str     z31, [x0, #31, mul vl]
    str     p0, [x1, #0, mul vl]
    str     p1, [x1, #1, mul vl]
    str     p2, [x1, #2, mul vl]
    str     p3, [x1, #3, mul vl]
    str     p4, [x1, #4, mul vl]
    str     p5, [x1, #5, mul vl]
    str     p6, [x1, #6, mul vl]
    str     p7, [x1, #7, mul vl]
    str     p8, [x1, #8, mul vl]
    str     p9, [x1, #9, mul vl]
    str     p10, [x1, #10, mul vl]
    str     p11, [x1, #11, mul vl]
    str     p12, [x1, #12, mul vl]
    str     p13, [x1, #13, mul vl]
    str     p14, [x1, #14, mul vl]
    str     p15, [x1, #15, mul vl]
    rdffr   p0.b
    str     p0, [x1, #16, mul vl]
    rdvl    x0, #1
    ret
    .arch_extension nosve
    .arch_extension nosimd
    .arch_extension nofp
    "#
);

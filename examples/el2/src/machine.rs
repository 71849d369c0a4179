//! The CPU, its GIC, and the way into a guest and out. The machine is QEMU's `virt` board.

use core::arch::{asm, global_asm};

/// Reads a system register.
macro_rules! mrs {
    ($register:ident) => {{
        let value: u64;
        // SAFETY: no read in this program has an effect on memory.
        unsafe { core::arch::asm!(concat!("mrs {}, ", stringify!($register)), out(reg) value) };
        value
    }};
}

/// Writes a system register.
macro_rules! msr {
    ($register:ident, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: no write in this program changes the way in which Rust code runs.
        unsafe { core::arch::asm!(concat!("msr ", stringify!($register), ", {}"), in(reg) value) };
    }};
}

/// Writes a memory-mapped register, or memory that holds nothing of Rust's.
pub fn write<T>(address: u64, value: T) {
    // SAFETY: callers keep to the sentence above.
    unsafe { (address as *mut T).write_volatile(value) };
}

/// Reads a memory-mapped register, or memory that anybody may write.
pub fn read<T>(address: u64) -> T {
    // SAFETY: callers keep to the sentence above, and read integers.
    unsafe { (address as *const T).read_volatile() }
}

/// Completes all writes.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", "isb") };
}

/// Waits for an interrupt, which stays masked.
pub fn sleep() {
    // SAFETY: the CPU goes on after the instruction.
    unsafe { asm!("wfi") };
}

/// PPIs, as in Arm's Base System Architecture. The maintenance interrupt is PPI 25.
pub const EL2_TIMER: u32 = 26;
pub const VIRTUAL_TIMER: u32 = 27;

/// Returns the address of `GICR_ICACTIVER0`, `GICR_ISPENDR0` and the like of a CPU.
pub fn gicr(cpu: u64, register: u64) -> u64 {
    0x080b_0000 + cpu * 0x2_0000 + register
}

/// Sets the registers of the calling CPU that are the same for every guest, and starts its GIC.
pub fn start(cpu: u64) {
    msr!(vbar_el2, &raw const vectors as u64);
    // RW; TSC; TWI; DC, for a guest without MMU to have cacheable memory; AMO, IMO and FMO; VM.
    msr!(hcr_el2, 1 << 31 | 1 << 19 | 1 << 13 | 1 << 12 | 0b111 << 3 | 1);
    msr!(vtcr_el2, 1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 25); // from level 1
    msr!(cptr_el2, 0x33ff | 1 << 10); // floating point traps: its registers are not switched
    msr!(cnthctl_el2, 0); // the physical timer traps
    msr!(cntvoff_el2, 0);
    msr!(cntv_ctl_el0, 0);

    if cpu == 0 {
        write(0x0800_0000, 0x10_u32); // GICD_CTLR: affinity routing,
        write(0x0800_0000, 0x12_u32); // and Group 1
    }
    let waker = gicr(cpu, 0) - 0x1_0000 + 0x14;
    write(waker, 0_u32);
    while read::<u32>(waker) & 1 << 2 != 0 {}
    write(gicr(cpu, 0x80), u32::MAX); // GICR_IGROUPR0
    write(gicr(cpu, 0x100), 0b111_u32 << 25 | 1 << 1); // GICR_ISENABLER0: three PPIs, and SGI 1
    msr!(icc_sre_el2, 0xf);
    barrier();
    msr!(icc_pmr_el1, 0xff);
    msr!(icc_ctlr_el1, 1 << 1); // EOImode 1: an end drops the priority, and does not deactivate
    msr!(icc_igrpen1_el1, 1);
    barrier();
}

/// Takes the next pending interrupt, and stops the EL2 timer if it is the timer's. The virtual
/// timer's stays active.
pub fn take_interrupt() -> Option<u32> {
    let intid = mrs!(icc_iar1_el1) as u32;
    barrier(); // the interrupt is active before it is handled
    match intid {
        1020.. => return None,
        EL2_TIMER => set_timer(u64::MAX),
        _ => {}
    }
    msr!(icc_eoir1_el1, intid.into());
    if intid != VIRTUAL_TIMER {
        msr!(icc_dir_el1, intid.into());
    }
    Some(intid)
}

/// Makes a CPU leave its guest, or wake up, by SGI 1.
pub fn kick(cpu: u64) {
    barrier(); // the reason is visible before the interrupt
    msr!(icc_sgi1r_el1, 1 << 24 | 1 << cpu);
    barrier(); // it is sent before the CPU sleeps
}

/// Returns the time in ticks, `microseconds` from now.
pub fn time_in(microseconds: u64) -> u64 {
    mrs!(cntpct_el0) + mrs!(cntfrq_el0) * microseconds / 1_000_000
}

/// Sets the calling CPU's EL2 timer; `u64::MAX` is never.
pub fn set_timer(at: u64) {
    msr!(cnthp_cval_el2, at);
    msr!(cnthp_ctl_el2, 1);
    barrier();
}

macro_rules! system_registers {
    ($($name:ident)*) => {
        /// A vCPU's program counter and state, and the system registers that its guest may use.
        #[derive(Default)]
        pub struct SystemRegisters { $(pub $name: u64,)* }

        impl SystemRegisters {
            pub fn save(&mut self) { $(self.$name = mrs!($name);)* }
            pub fn restore(&self) { $(msr!($name, self.$name);)* }
        }
    };
}

// The timer's deadline comes first: the timer must not fire at another vCPU's.
system_registers! {
    elr_el2 spsr_el2 vmpidr_el2 sp_el0 sp_el1 elr_el1 spsr_el1 esr_el1 far_el1 vbar_el1 sctlr_el1
    cpacr_el1 tcr_el1 ttbr0_el1 ttbr1_el1 mair_el1 amair_el1 contextidr_el1 par_el1 tpidr_el0
    tpidrro_el0 tpidr_el1 afsr0_el1 afsr1_el1 csselr_el1 cntkctl_el1 cntv_cval_el0 cntv_ctl_el0
}

unsafe extern "C" {
    static vectors: u8;
    /// Enters the guest with these general registers, and returns at its exit: 0 for a trap, 1 for
    /// an interrupt, 2 for a system error. The system registers must be the vCPU's.
    pub fn enter_guest(general: &mut [u64; 32]) -> u64;
}

extern "C" fn fault() -> ! {
    panic!("fault at EL2: ESR {:#x}, ELR {:#x}", mrs!(esr_el2), mrs!(elr_el2));
}

global_asm!(
    r#"
    .macro leave_guest exit
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mov     x1, \exit
    b       leave
    .endm
    .global vectors, enter_guest
    .balign 0x800
vectors:
    .rept   8                       // from EL2
    .balign 0x80
    b       {fault}
    .endr
    leave_guest 0                   // from AArch64 below: trap, IRQ, FIQ, system error
    leave_guest 1
    leave_guest 1
    leave_guest 2
    .rept   4                       // from AArch32 below
    leave_guest 2
    .endr
enter_guest:
    sub     sp, sp, #112
    str     x0, [sp, #96]
    .irp n, 19,20,21,22,23,24,25,26,27,28,29,30
    str     x\n, [sp, #8 * (\n - 19)]
    .endr
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,0
    ldr     x\n, [x0, #8 * \n]
    .endr
    eret
    dsb     nsh                     // no speculation past the ERET
    isb
leave:
    ldr     x0, [sp, #16 + 96]
    .irp n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    str     x\n, [x0, #8 * \n]
    .endr
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mov     x0, x1
    .irp n, 19,20,21,22,23,24,25,26,27,28,29,30
    ldr     x\n, [sp, #8 * (\n - 19)]
    .endr
    add     sp, sp, #112
    ret
    "#,
    fault = sym fault,
);

//! The CPU: barriers, time, interrupt masks, timers.
#![expect(unsafe_code)]
// UNSAFETY: system registers.

use core::arch::asm;

/// Reads a system register.
#[macro_export]
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: these registers may be read at any time at EL1.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack));
        };
        value
    }};
}

/// Writes a system register, and makes the write take effect.
#[macro_export]
macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: none of the registers written here changes how memory is seen.
        unsafe {
            core::arch::asm!(
                concat!("msr ", $register, ", {}"),
                "isb",
                in(reg) value,
                options(nostack)
            );
        };
    }};
}

pub use {read, write};

/// Returns the number of the calling CPU.
pub fn number() -> usize {
    read!("tpidr_el1") as usize
}

/// Returns the calling CPU's `MPIDR_EL1`.
pub fn mpidr() -> u64 {
    read!("mpidr_el1")
}

/// Makes earlier writes to memory visible to devices and other CPUs.
pub fn synchronize() {
    // SAFETY: barriers.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
}

/// Instructions of a CPU that spins, from one hint to the next.
const SPIN: u64 = 400;

/// Spins for a moment, and lets other CPUs run. An emulator whose one thread runs all CPUs goes on
/// with the next CPU at each hint, which costs as much as hundreds of instructions.
pub fn relax() {
    // SAFETY: a loop over a register, and a hint.
    unsafe {
        asm!(
            "2: subs {0}, {0}, #2",
            "b.hi 2b",
            "yield",
            inout(reg) SPIN => _,
            options(nostack)
        );
    };
}

/// Sleeps until an interrupt is pending.
pub fn wait_for_interrupt() {
    // SAFETY: a barrier and a hint.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Runs `f` with IRQs and FIQs taken as exceptions.
pub fn unmasked<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the vectors handle interrupts.
    unsafe { asm!("msr daifclr, #3", "isb", options(nostack)) };
    let result = f();
    // SAFETY: masks interrupts.
    unsafe { asm!("msr daifset, #3", "isb", options(nostack)) };
    result
}

/// Returns true if an IRQ is asserted, masked or not.
pub fn irq() -> bool {
    read!("isr_el1") & 1 << 7 != 0
}

/// Returns true if an FIQ is asserted, masked or not.
pub fn fiq() -> bool {
    read!("isr_el1") & 1 << 6 != 0
}

/// Returns the time in ticks of the counter.
pub fn now() -> u64 {
    read!("cntvct_el0")
}

/// Returns the ticks of the counter in `microseconds`.
pub fn ticks(microseconds: u64) -> u64 {
    microseconds * read!("cntfrq_el0") / 1_000_000
}

/// Spins until `done` returns true, for at most `microseconds`. Returns the last result of `done`.
pub fn spin_until(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + ticks(microseconds);
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return done();
        }
        relax();
    }
}

/// Spins for `microseconds`.
pub fn spin(microseconds: u64) {
    spin_until(microseconds, || false);
}

/// Timer of the CPU, whose interrupt is a PPI.
#[derive(Clone, Copy)]
pub enum Timer {
    /// `CNTV_*`.
    Virtual,
    /// `CNTP_*`.
    Physical,
}

impl Timer {
    /// Both timers.
    pub const ALL: [Self; 2] = [Self::Virtual, Self::Physical];

    const ENABLE: u64 = 1 << 0;
    const IMASK: u64 = 1 << 1;
    const ISTATUS: u64 = 1 << 2;

    /// Returns the INTID of the PPI.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Virtual => 27,
            Self::Physical => 30,
        }
    }

    fn write_control(self, value: u64) {
        match self {
            Self::Virtual => write!("cntv_ctl_el0", value),
            Self::Physical => write!("cntp_ctl_el0", value),
        }
    }

    fn set_deadline(self, microseconds: u64) {
        match self {
            Self::Virtual => write!("cntv_cval_el0", read!("cntvct_el0") + ticks(microseconds)),
            Self::Physical => write!("cntp_cval_el0", read!("cntpct_el0") + ticks(microseconds)),
        }
    }

    /// Sets the timer to `microseconds` from now. The interrupt lasts until the timer is stopped.
    pub fn set(self, microseconds: u64) {
        self.set_deadline(microseconds);
        self.write_control(Self::ENABLE);
    }

    /// Sets the timer to `microseconds` from now, with its interrupt masked.
    pub fn set_masked(self, microseconds: u64) {
        self.set_deadline(microseconds);
        self.write_control(Self::ENABLE | Self::IMASK);
    }

    /// Unmasks the timer's interrupt.
    pub fn unmask(self) {
        self.write_control(Self::ENABLE);
    }

    /// Returns the virtual timer's control, but for the status, and its deadline.
    pub fn virtual_registers() -> [u64; 2] {
        [
            read!("cntv_ctl_el0") & !Self::ISTATUS,
            read!("cntv_cval_el0"),
        ]
    }

    /// Returns true if the timer is due.
    pub fn status(self) -> bool {
        let control = match self {
            Self::Virtual => read!("cntv_ctl_el0"),
            Self::Physical => read!("cntp_ctl_el0"),
        };
        control & Self::ISTATUS != 0
    }

    /// Stops the timer.
    pub fn stop(self) {
        self.write_control(0);
    }
}

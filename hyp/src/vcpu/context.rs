//! The registers of a vCPU that is on no CPU: every register of EL1 and EL0 that a VM with a part
//! of the machine may use, its timers among them, and its program counter and state.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTV_CTL_EL0,
    CNTV_CVAL_EL0, CONTEXTIDR_EL1, CPACR_EL1, CSSELR_EL1, ELR_EL1, ELR_EL2, ESR_EL1, FAR_EL1,
    MAIR_EL1, MDSCR_EL1, PAR_EL1, Readable, SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1, SPSR_EL2, TCR_EL1,
    TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable,
};

use super::interrupts::VIRTUAL_TIMER;
use super::vector::VectorRegisters;
use crate::exception::frame::Frame;
use crate::snapshot::state::{Registers, SystemRegisters};

macro_rules! registers {
    ($($field:ident = $register:ident,)*) => {
        /// Saves the CPU's registers.
        fn save(registers: &mut SystemRegisters) {
            $(registers.$field = $register.get();)*
        }

        /// Loads the CPU's registers.
        fn restore(registers: &SystemRegisters) {
            $($register.set(registers.$field);)*
        }
    };
}

registers! {
    afsr0 = AFSR0_EL1,
    afsr1 = AFSR1_EL1,
    amair = AMAIR_EL1,
    cntkctl = CNTKCTL_EL1,
    // The deadlines come first: at the previous vCPU's deadline a timer would cost an exit.
    cntp_cval = CNTP_CVAL_EL0,
    cntp_ctl = CNTP_CTL_EL0,
    cntv_cval = CNTV_CVAL_EL0,
    cntv_ctl = CNTV_CTL_EL0,
    contextidr = CONTEXTIDR_EL1,
    cpacr = CPACR_EL1,
    csselr = CSSELR_EL1,
    elr = ELR_EL1,
    elr_el2 = ELR_EL2,
    esr = ESR_EL1,
    far = FAR_EL1,
    mair = MAIR_EL1,
    mdscr = MDSCR_EL1,
    par = PAR_EL1,
    sctlr = SCTLR_EL1,
    sp_el0 = SP_EL0,
    sp_el1 = SP_EL1,
    spsr = SPSR_EL1,
    spsr_el2 = SPSR_EL2,
    tpidr_el0 = TPIDR_EL0,
    tpidr_el1 = TPIDR_EL1,
    tpidrro = TPIDRRO_EL0,
    ttbr0 = TTBR0_EL1,
    ttbr1 = TTBR1_EL1,
    vbar = VBAR_EL1,
}

/// `SPSR_EL2.M` of what a guest runs in: EL0t, EL1t and EL1h, and EL0 of AArch32.
const GUEST_MODES: [u64; 4] = [0b0000, 0b0100, 0b0101, 0b1_0000];

/// `SPSR_EL2.M`.
const MODE: u64 = 0x1f;

/// Registers of a vCPU while it is on no CPU.
// Aligned to cache lines of its own: other CPUs write the neighbouring fields of `Vcpu`.
#[repr(align(64))]
pub(crate) struct Context {
    frame: Frame,
    registers: SystemRegisters,
    vector: VectorRegisters,
    /// True from the vCPU's start until its power-off.
    pub(crate) is_started: bool,
}

impl Context {
    /// Returns the registers of a vCPU that is off.
    pub(crate) fn new() -> Self {
        Self {
            frame: Frame::new(),
            registers: SystemRegisters::default(),
            vector: VectorRegisters::new(),
            is_started: false,
        }
    }

    /// Resets the registers of a vCPU that starts at `entry` with `argument` in `x0`. The timers of
    /// a vCPU that was suspended keep running.
    pub(crate) fn start(&mut self, entry: u64, argument: u64) {
        let masked = SPSR_EL2::M::EL1h
            + SPSR_EL2::D::Masked
            + SPSR_EL2::A::Masked
            + SPSR_EL2::I::Masked
            + SPSR_EL2::F::Masked;
        let mut registers = SystemRegisters {
            // MMU and caches off, little endian; the bits that are RES1 in Armv8.0.
            sctlr: 0x30d0_0800,
            elr_el2: entry,
            spsr_el2: masked.value,
            ..SystemRegisters::default()
        };
        if self.is_started {
            let old = &self.registers;
            (registers.cntp_ctl, registers.cntp_cval) = (old.cntp_ctl, old.cntp_cval);
            (registers.cntv_ctl, registers.cntv_cval) = (old.cntv_ctl, old.cntv_cval);
        }

        self.registers = registers;
        self.frame = Frame::new();
        self.frame.x[0] = argument;
        self.vector.reset();
        self.is_started = true;
    }

    /// Saves the CPU's registers, with the general ones in `frame`.
    pub(crate) fn save(&mut self, frame: &Frame) {
        self.frame.copy_from(frame);
        save(&mut self.registers);
        self.registers.tcr = TCR_EL1.get();
        self.vector.save();
    }

    /// Loads the CPU's registers, but for the general ones, which it returns.
    pub(crate) fn restore(&self) -> &Frame {
        restore(&self.registers);
        // The vCPUs of a VM mostly have one value. An emulator forgets all translations, those of
        // EL2 among them, when the register is written.
        if TCR_EL1.get() != self.registers.tcr {
            TCR_EL1.set(self.registers.tcr);
        }
        self.vector.restore();
        &self.frame
    }

    /// Returns the registers as plain data.
    pub(crate) fn state(&self) -> Registers {
        Registers {
            general: self.frame.x,
            system: self.registers.clone(),
            vector: self.vector.state(),
        }
    }

    /// Sets the registers. Returns false, and changes nothing, if they are not those of a vCPU that
    /// runs at EL1 or EL0, or vectors have another length here.
    #[must_use]
    pub(crate) fn set(&mut self, state: &Registers) -> bool {
        let is_guests = GUEST_MODES.contains(&(state.system.spsr_el2 & MODE));
        if !is_guests || !self.vector.set(&state.vector) {
            return false;
        }
        self.frame.x = state.general;
        self.registers = state.system.clone();
        self.is_started = true;
        true
    }

    /// Moves the deadline of the physical timer by `ticks`, which the machine's clock is ahead of
    /// the one that the vCPU had before.
    pub(crate) fn delay_physical_timer(&mut self, ticks: u64) {
        self.registers.cntp_cval = self.registers.cntp_cval.wrapping_add(ticks);
    }

    /// Returns the time at which a saved timer of the vCPU fires, if one does. The guest's clock is
    /// `offset` ticks behind.
    pub(crate) fn deadline(&self, offset: u64) -> Option<u64> {
        let SystemRegisters {
            cntv_ctl,
            cntv_cval,
            cntp_ctl,
            cntp_cval,
            ..
        } = self.registers;
        let fires = |control: u64, at: u64| {
            let fires = control & CTL_ENABLE != 0 && control & CTL_IMASK == 0;
            fires.then_some(at)
        };
        // The guest's clock may be ahead: then the offset is negative.
        let cntv_cval = cntv_cval.saturating_add_signed(offset.cast_signed());
        let deadlines = [fires(cntv_ctl, cntv_cval), fires(cntp_ctl, cntp_cval)];
        deadlines.into_iter().flatten().min()
    }
}

/// Stops the calling CPU's timers of EL1. Their lines fall before their interrupts are deactivated.
pub(crate) fn stop_timers() {
    CNTV_CTL_EL0.set(0);
    CNTP_CTL_EL0.set(0);
    barrier::isb(barrier::SY);
}

/// Has the calling CPU compare the deadline of the virtual timer of EL1 with the clock anew.
pub(crate) fn look_at_virtual_timer() {
    CNTV_CVAL_EL0.set(CNTV_CVAL_EL0.get());
}

/// Returns true if the line of the timer of EL1 whose PPI is `intid` is high on the calling CPU.
pub(crate) fn is_timer_high(intid: u32) -> bool {
    const ENABLED_UNMASKED_FIRED: u64 = 0b101;
    let control = match intid {
        VIRTUAL_TIMER => CNTV_CTL_EL0.get(),
        _ => CNTP_CTL_EL0.get(),
    };
    control & 0b111 == ENABLED_UNMASKED_FIRED
}

/// `CNTV_CTL_EL0.ENABLE`, `CNTP_CTL_EL0.ENABLE`: the timer is enabled.
const CTL_ENABLE: u64 = 1 << 0;
/// `CNTV_CTL_EL0.IMASK`, `CNTP_CTL_EL0.IMASK`: the timer's interrupt is masked.
const CTL_IMASK: u64 = 1 << 1;

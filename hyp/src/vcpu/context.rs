//! The state of a vCPU that shares its CPU: every register of EL1 and EL0 that a VM may use, its
//! timer, and its program counter and state. The general registers are in the [`Frame`].

use aarch64_cpu::registers::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CNTV_CTL_EL0, CNTV_CVAL_EL0, CONTEXTIDR_EL1,
    CPACR_EL1, CSSELR_EL1, ELR_EL1, ELR_EL2, ESR_EL1, FAR_EL1, MAIR_EL1, PAR_EL1, Readable,
    SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1, SPSR_EL2, TCR_EL1, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0,
    TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable,
};

use crate::exception::frame::Frame;

macro_rules! registers {
    ($($field:ident = $register:ident,)*) => {
        /// System registers, by name.
        #[derive(Default)]
        struct Registers {
            $($field: u64,)*
        }

        impl Registers {
            fn save(&mut self) {
                $(self.$field = $register.get();)*
            }

            fn restore(&self) {
                $($register.set(self.$field);)*
            }
        }
    };
}

registers! {
    afsr0 = AFSR0_EL1,
    afsr1 = AFSR1_EL1,
    amair = AMAIR_EL1,
    cntkctl = CNTKCTL_EL1,
    // The deadline comes first: at the previous vCPU's deadline the timer would cost an exit.
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
    par = PAR_EL1,
    sctlr = SCTLR_EL1,
    sp_el0 = SP_EL0,
    sp_el1 = SP_EL1,
    spsr = SPSR_EL1,
    spsr_el2 = SPSR_EL2,
    tcr = TCR_EL1,
    tpidr_el0 = TPIDR_EL0,
    tpidr_el1 = TPIDR_EL1,
    tpidrro = TPIDRRO_EL0,
    ttbr0 = TTBR0_EL1,
    ttbr1 = TTBR1_EL1,
    vbar = VBAR_EL1,
}

/// State of a vCPU while another vCPU has the CPU.
pub(crate) struct Context {
    /// `x0` to `x30`, also valid while the vCPU is on the CPU.
    pub(crate) frame: Frame,
    registers: Registers,
}

impl Context {
    /// Returns the reset state of a vCPU that starts at `entry` with `argument` in `x0`.
    pub(crate) fn reset(entry: u64, argument: u64) -> Self {
        let mut frame = Frame::new();
        frame.x[0] = argument;

        let masked = SPSR_EL2::M::EL1h
            + SPSR_EL2::D::Masked
            + SPSR_EL2::A::Masked
            + SPSR_EL2::I::Masked
            + SPSR_EL2::F::Masked;

        Self {
            frame,
            registers: Registers {
                // MMU and caches off, little endian; the bits that are RES1 in Armv8.0.
                sctlr: 0x30d0_0800,
                elr_el2: entry,
                spsr_el2: masked.value,
                ..Registers::default()
            },
        }
    }

    /// Saves the CPU's registers.
    pub(crate) fn save(&mut self) {
        self.registers.save();
    }

    /// Loads the CPU's registers.
    pub(crate) fn restore(&self) {
        self.registers.restore();
    }

    /// Returns the deadline of the vCPU's virtual timer, if the saved timer is enabled and not
    /// masked.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let control = self.registers.cntv_ctl;
        let ticks = control & CTL_ENABLE != 0 && control & CTL_IMASK == 0;
        ticks.then_some(self.registers.cntv_cval)
    }
}

/// `CNTV_CTL_EL0.ENABLE`: the timer is enabled.
const CTL_ENABLE: u64 = 1 << 0;
/// `CNTV_CTL_EL0.IMASK`: the timer's interrupt is masked.
const CTL_IMASK: u64 = 1 << 1;

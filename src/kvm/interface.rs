//! `CPU_SYSREGS`: registers of a CPU interface (IHI 0069, 12.2), 64 bits at a time, over
//! `ICH_VMCR_EL2` and the active priorities.

use super::{Devices, Errno};
use crate::cpu_interface::{Vtr, vmcr};

/// Returns the encoding of the register Op0 3, Op1 0, CRn, CRm, Op2.
const fn register(crn: u64, crm: u64, op2: u64) -> u64 {
    3 << 14 | crn << 7 | crm << 3 | op2
}

const PMR: u64 = register(4, 6, 0);

const BPR0: u64 = register(12, 8, 3);

/// `ICC_AP0R0_EL1`, the first of four.
const AP0R: u64 = register(12, 8, 4);

const AP0R_END: u64 = AP0R + 4;

/// `ICC_AP1R0_EL1`, the first of four.
const AP1R: u64 = register(12, 9, 0);

const AP1R_END: u64 = AP1R + 4;

const BPR1: u64 = register(12, 12, 3);

const CTLR: u64 = register(12, 12, 4);

const SRE: u64 = register(12, 12, 5);

const IGRPEN0: u64 = register(12, 12, 6);

const IGRPEN1: u64 = register(12, 12, 7);

/// `ICC_SRE_EL1`: system registers, and no bypass.
const SRE_VALUE: u64 = 0b111;

/// `ICC_CTLR_EL1.CBPR`.
const CTLR_CBPR: u64 = 1 << 0;

/// `ICC_CTLR_EL1.EOImode`.
const CTLR_EOI_MODE: u64 = 1 << 1;

/// Lowest bit of `ICC_CTLR_EL1.PRIbits`: bits of priority, less 1.
const PRI_BITS_SHIFT: u32 = 8;

/// Lowest bit of `ICC_CTLR_EL1.IDbits`: 0 for 16 bits of INTID, 1 for 24.
const ID_BITS_SHIFT: u32 = 11;

const CTLR_SEIS: u64 = 1 << 14;

const CTLR_A3V: u64 = 1 << 15;

impl Devices {
    /// Reads the register of a vCPU's CPU interface.
    pub(super) fn interface(&self, index: usize, register: u64) -> Result<u64, Errno> {
        let vcpu = self.vcpu(index)?;
        let value = vcpu.vmcr;
        let field = |shift, mask| (value >> shift) & mask;

        Ok(match register {
            PMR => field(vmcr::VPMR_SHIFT, 0xff),
            BPR0 => field(vmcr::VBPR0_SHIFT, 7),
            // One binary point for both groups: Group 1 preempts by one bit less.
            BPR1 if value & vmcr::VCBPR != 0 => {
                field(vmcr::VBPR0_SHIFT, 7).saturating_add(1).min(7)
            }
            BPR1 => field(vmcr::VBPR1_SHIFT, 7),
            CTLR => {
                let bit = |flag, bit| if value & flag != 0 { bit } else { 0 };
                properties(self.vtr) | bit(vmcr::VCBPR, CTLR_CBPR) | bit(vmcr::VEOIM, CTLR_EOI_MODE)
            }
            SRE => SRE_VALUE,
            IGRPEN0 => u64::from(value & vmcr::VENG0 != 0),
            IGRPEN1 => u64::from(value & vmcr::VENG1 != 0),
            AP0R..AP0R_END | AP1R..AP1R_END => {
                let (group, n) = self.active_priorities(register)?;
                let words = vcpu.active_priorities.get(group);
                words
                    .and_then(|words| words.get(n))
                    .map_or(0, |&word| word.into())
            }
            _ => return Err(Errno::Nxio),
        })
    }

    /// Writes the register of a vCPU's CPU interface.
    pub(super) fn set_interface(
        &mut self,
        index: usize,
        register: u64,
        value: u64,
    ) -> Result<(), Errno> {
        let _ = self.interface(index, register)?;
        match register {
            CTLR => check_properties(self.vtr, value)?,
            SRE if value & 1 == 0 => return Err(Errno::Inval),
            _ => {}
        }

        if matches!(register, AP0R..AP0R_END | AP1R..AP1R_END) {
            let (group, n) = self.active_priorities(register)?;
            let words = self.vcpu_mut(index)?.active_priorities.get_mut(group);
            if let Some(word) = words.and_then(|words| words.get_mut(n)) {
                *word = value as u32;
            }
            return Ok(());
        }

        let vmcr = &mut self.vcpu_mut(index)?.vmcr;
        let old = *vmcr;
        let with_field = |shift: u32, mask: u64| old & !(mask << shift) | (value & mask) << shift;
        let with = |flag: u64, on| if on { old | flag } else { old & !flag };

        *vmcr = match register {
            PMR => with_field(vmcr::VPMR_SHIFT, 0xff),
            BPR0 => with_field(vmcr::VBPR0_SHIFT, 7),
            BPR1 if old & vmcr::VCBPR == 0 => with_field(vmcr::VBPR1_SHIFT, 7),
            IGRPEN0 => with(vmcr::VENG0, value & 1 != 0),
            IGRPEN1 => with(vmcr::VENG1, value & 1 != 0),
            CTLR => {
                let rest = old & !(vmcr::VCBPR | vmcr::VEOIM);
                let bit = |flag, bit| if value & flag != 0 { bit } else { 0 };
                rest | bit(CTLR_CBPR, vmcr::VCBPR) | bit(CTLR_EOI_MODE, vmcr::VEOIM)
            }
            _ => old,
        };
        Ok(())
    }

    /// Returns the group and the number of an active priorities register that the CPUs have.
    fn active_priorities(&self, register: u64) -> Result<(usize, usize), Errno> {
        let (group, first) = if register < AP0R_END {
            (0, AP0R)
        } else {
            (1, AP1R)
        };
        let n = register.saturating_sub(first) as usize;
        if n < self.vtr.apr_count() {
            Ok((group, n))
        } else {
            Err(Errno::Inval)
        }
    }
}

/// Returns the read-only fields of `ICC_CTLR_EL1`.
fn properties(vtr: Vtr) -> u64 {
    let bit = |on, bit| if on { bit } else { 0 };
    u64::from(vtr.priority_bits.saturating_sub(1)) << PRI_BITS_SHIFT
        | u64::from(vtr.id_bits == 24) << ID_BITS_SHIFT
        | bit(vtr.local_serrors, CTLR_SEIS)
        | bit(vtr.affinity3, CTLR_A3V)
}

/// Checks that CPUs with the properties of `vtr` can run a vCPU with an `ICC_CTLR_EL1`.
fn check_properties(vtr: Vtr, value: u64) -> Result<(), Errno> {
    let found = properties(vtr);
    let field = |value: u64, shift: u32| (value >> shift) & 7;
    let fits = |shift| field(value, shift) <= field(found, shift);
    let is_like = (value ^ found) & (CTLR_SEIS | CTLR_A3V) == 0;
    if fits(PRI_BITS_SHIFT) && fits(ID_BITS_SHIFT) && is_like {
        Ok(())
    } else {
        Err(Errno::Inval)
    }
}

//! Trapped system registers: SGI generation, deactivation, and the interface enable (IHI 0069,
//! 12.2).
//!
//! With `HCR_EL2.IMO` and `FMO` set, a guest's `ICC_*` accesses reach the virtual CPU interface
//! without a trap. Exceptions:
//! * the SGI registers always trap;
//! * `ICC_DIR_EL1` traps because the vGIC sets `ICH_HCR_EL2.TDIR`;
//! * on a CPU without TDIR (`ICH_VTR_EL2.TDS` is 0), `ICC_DIR_EL1`, `ICC_PMR_EL1`, `ICC_CTLR_EL1`
//!   and `ICC_RPR_EL1` trap because the vGIC sets `ICH_HCR_EL2.TC`;
//! * `ICC_SRE_EL1` traps only if the embedder sets the trap.
//!
//! A guest with a GICv2 ([`Config::gicv2`](crate::Config::gicv2)) has none of these registers: the
//! vGIC sets `ICH_HCR_EL2.TALL0`, `TALL1` and `TC`, and the embedder answers every trapped access
//! by an Undefined Instruction exception.
//!
//! The CPU's identification registers describe the machine's GIC. [`IdRegister`] is for an embedder
//! that traps them.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use crate::cpu::Cpu;
use crate::cpu_interface::{CpuInterface, ICC_CTLR_EXT_RANGE, Vtr, priority, vmcr};
use crate::delivery::{change, sgi};
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::AccessError;
use crate::host::Host;
use crate::intid::{IntId, Kind, VcpuId};
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

/// System register whose accesses the vGIC handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SysReg {
    /// `ICC_SGI0R_EL1`, write-only: generation of Group 0 SGIs.
    Sgi0r,
    /// `ICC_SGI1R_EL1`, write-only: generation of Group 1 SGIs.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`, write-only: generation of SGIs of the other security state. With one
    /// security state, of Group 0 SGIs.
    Asgi1r,
    /// `ICC_DIR_EL1`, write-only: deactivation of an interrupt.
    Dir,
    /// `ICC_SRE_EL1`: enable of the system-register interface, always on.
    Sre,
    /// `ICC_PMR_EL1`: the priority mask.
    Pmr,
    /// `ICC_CTLR_EL1`: EOImode, CBPR, and the interface's properties.
    Ctlr,
    /// `ICC_RPR_EL1`, read-only: the running priority.
    Rpr,
}

/// Returns the fields of a syndrome for a register of the CPU interface.
const fn icc(crm: u32, op2: u32) -> u32 {
    3 << 20 | op2 << 17 | 12 << 10 | crm << 1
}

impl SysReg {
    /// Converts the syndrome of a trapped `MSR`/`MRS` (DDI 0487, `ESR_EL2.ISS` of EC 0x18),
    /// ignoring the general register and the direction. Returns `None` for any other register.
    #[inline]
    #[must_use]
    pub const fn from_syndrome(iss: u32) -> Option<Self> {
        /// Op0 in 21:20, Op2 in 19:17, Op1 in 16:14, CRn in 13:10, CRm in 4:1.
        const FIELDS: u32 = 0x3f_fc1e;
        const SGI1R: u32 = icc(11, 5);
        match iss & FIELDS {
            SGI1R => Some(Self::Sgi1r),
            fields => Self::from_fields(fields),
        }
    }

    /// Converts the fields of the syndrome of a register that is accessed less often than
    /// `ICC_SGI1R_EL1`.
    // Out of line: the compiler would compare with the registers in their order.
    #[inline(never)]
    const fn from_fields(fields: u32) -> Option<Self> {
        const DIR: u32 = icc(11, 1);
        const ASGI1R: u32 = icc(11, 6);
        const SGI0R: u32 = icc(11, 7);
        const SRE: u32 = icc(12, 5);
        const CTLR: u32 = icc(12, 4);
        const RPR: u32 = icc(11, 3);
        const PMR: u32 = 3 << 20 | 4 << 10 | 6 << 1;

        match fields {
            DIR => Some(Self::Dir),
            ASGI1R => Some(Self::Asgi1r),
            SGI0R => Some(Self::Sgi0r),
            SRE => Some(Self::Sre),
            PMR => Some(Self::Pmr),
            CTLR => Some(Self::Ctlr),
            RPR => Some(Self::Rpr),
            _ => None,
        }
    }

    /// Converts the encoding of the register in an `MSR`/`MRS` (DDI 0487, `ESR_EL2.ISS` of EC
    /// 0x18). Returns `None` for any other register.
    #[must_use]
    pub const fn decode(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Option<Self> {
        match (op0, op1, crn, crm, op2) {
            (3, 0, 12, 11, 1) => Some(Self::Dir),
            (3, 0, 12, 11, 5) => Some(Self::Sgi1r),
            (3, 0, 12, 11, 6) => Some(Self::Asgi1r),
            (3, 0, 12, 11, 7) => Some(Self::Sgi0r),
            (3, 0, 12, 12, 5) => Some(Self::Sre),
            (3, 0, 4, 6, 0) => Some(Self::Pmr),
            (3, 0, 12, 12, 4) => Some(Self::Ctlr),
            (3, 0, 12, 11, 3) => Some(Self::Rpr),
            _ => None,
        }
    }
}

/// Identification register of the CPU with a field that describes the GIC (DDI 0487).
///
/// The CPU's own value describes the machine's GIC, perhaps a GICv4.1 with NMIs, and not the vGIC.
/// An embedder that traps the identification registers (`HCR_EL2.TID3`) passes the CPU's value of
/// these through [`IdRegister::guest_value`]. The other fields are the embedder's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdRegister {
    /// `ID_AA64PFR0_EL1`, with `GIC`: the system registers of GICv3, and not those of GICv4.1.
    Aa64Pfr0,
    /// `ID_AA64PFR1_EL1`, with `NMI`: there is no non-maskable interrupt (FEAT_GICv3_NMI).
    Aa64Pfr1,
    /// `ID_PFR1_EL1`, with `GIC`, for AArch32.
    Pfr1,
}

impl IdRegister {
    /// Converts the syndrome of a trapped `MRS`, like [`SysReg::from_syndrome`].
    #[must_use]
    pub const fn from_syndrome(iss: u32) -> Option<Self> {
        Self::decode(
            (iss >> 20 & 3) as u8,
            (iss >> 14 & 7) as u8,
            (iss >> 10 & 0xf) as u8,
            (iss >> 1 & 0xf) as u8,
            (iss >> 17 & 7) as u8,
        )
    }

    /// Converts the encoding of the register in an `MRS`, like [`SysReg::decode`].
    #[must_use]
    pub const fn decode(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Option<Self> {
        match (op0, op1, crn, crm, op2) {
            (3, 0, 0, 4, 0) => Some(Self::Aa64Pfr0),
            (3, 0, 0, 4, 1) => Some(Self::Aa64Pfr1),
            (3, 0, 0, 1, 1) => Some(Self::Pfr1),
            _ => None,
        }
    }

    /// Returns the value that a guest of the vGIC reads, where the CPU's own value is `cpu`.
    ///
    /// ```
    /// use vgic::sysreg::IdRegister;
    ///
    /// // GICv4.1 becomes GICv3. No other field changes.
    /// assert_eq!(IdRegister::Aa64Pfr0.guest_value(0x1111_1133_0322_1111), 0x1111_1133_0122_1111);
    /// ```
    #[must_use]
    pub const fn guest_value(self, cpu: u64) -> u64 {
        const SYSTEM_REGISTERS: u64 = 1;
        self.with_gic(cpu, SYSTEM_REGISTERS)
    }

    /// Returns the value that a guest with a GICv2 ([`Config::gicv2`](crate::Config::gicv2)) reads,
    /// where the CPU's own value is `cpu`: there are no system registers of a GIC, and no
    /// non-maskable interrupt.
    ///
    /// ```
    /// use vgic::sysreg::IdRegister;
    ///
    /// let cpu = 0x1111_1133_0122_1111;
    /// assert_eq!(IdRegister::Aa64Pfr0.gicv2_guest_value(cpu), 0x1111_1133_0022_1111);
    /// ```
    #[must_use]
    pub const fn gicv2_guest_value(self, cpu: u64) -> u64 {
        const NO_SYSTEM_REGISTERS: u64 = 0;
        self.with_gic(cpu, NO_SYSTEM_REGISTERS)
    }

    /// Returns the CPU's value with the field about the GIC replaced: `gic`, or that there is no
    /// NMI.
    const fn with_gic(self, cpu: u64, gic: u64) -> u64 {
        const NO_NMI: u64 = 0;
        let (shift, value) = match self {
            Self::Aa64Pfr0 => (24, gic),
            Self::Aa64Pfr1 => (36, NO_NMI),
            Self::Pfr1 => (28, gic),
        };
        cpu & !(0xf << shift) | value << shift
    }
}

/// `ICC_SRE_EL1` (12.2): SRE, DFB and DIB are RAO/WI. Cases `ident.system_registers`,
/// `cpu.system_registers_stay`.
const SRE: u64 = 0b111;

/// `ICC_CTLR_EL1` (12.2): CBPR and EOImode, the writable fields.
const CTLR_CBPR: u64 = 1 << 0;
const CTLR_EOI_MODE: u64 = 1 << 1;

/// Returns the value that `vcpu` on `cpu` reads from `register`; `None` for a write-only register,
/// whose read is UNDEFINED, or if `cpu` does not have the vCPU or is of another domain.
#[must_use]
pub(crate) fn sysreg_read<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    register: SysReg,
) -> Option<u64> {
    vm.admit(pin).ok()?;
    if register == SysReg::Sre {
        return Some(SRE);
    }

    let interface = cpu.interface();
    vm.vcpu(vcpu)?.shadow(cpu.local())?;
    match register {
        SysReg::Pmr => Some(u64::from(vmcr::priority_mask(interface.read_vmcr()))),
        SysReg::Ctlr => Some(ctlr(interface.read_vmcr(), cpu.vtr())),
        SysReg::Rpr => Some(u64::from(priority::running(interface))),
        _ => None,
    }
}

/// Returns `ICC_CTLR_EL1` (12.2): the guest's fields, and the interface's properties. RSS is 1: the
/// SGI registers, which always trap, have the range selector.
fn ctlr(vmcr: u64, vtr: Vtr) -> u64 {
    const RSS: u64 = 1 << 18;
    let flag = |bit, field| if vmcr & bit != 0 { field } else { 0 };
    flag(vmcr::VCBPR, CTLR_CBPR)
        | flag(vmcr::VEOIM, CTLR_EOI_MODE)
        | u64::from(vtr.priority_bits).wrapping_sub(1) << 8
        | u64::from(vtr.id_bits == 24) << 11
        | u64::from(vtr.affinity3) << 15
        | if vtr.extended_range {
            ICC_CTLR_EXT_RANGE
        } else {
            0
        }
        | RSS
}

/// Writes `ICC_PMR_EL1` or `ICC_CTLR_EL1` (12.2) through `ICH_VMCR_EL2`, if `cpu` has the vCPU.
fn write_vmcr<I: CpuInterface>(cpu: &Cpu<I>, vcpu: &Vcpu, change: impl FnOnce(u64) -> u64) {
    if vcpu.shadow(cpu.local()).is_some() {
        let interface = cpu.interface();
        interface.write_vmcr(change(interface.read_vmcr()));
    }
}

/// Returns `vmcr` with the fields of a write of `ICC_CTLR_EL1`.
fn with_ctlr(vmcr: u64, value: u64) -> u64 {
    let flag = |field, bit| if value & field != 0 { bit } else { 0 };
    vmcr & !(vmcr::VCBPR | vmcr::VEOIM)
        | flag(CTLR_CBPR, vmcr::VCBPR)
        | flag(CTLR_EOI_MODE, vmcr::VEOIM)
}

/// Returns `vmcr` with the priority mask of a write of `ICC_PMR_EL1`. The implemented bits count.
fn with_mask(vmcr: u64, value: u64, vtr: Vtr) -> u64 {
    let implemented = 0xff_u64.wrapping_shl(8_u32.wrapping_sub(vtr.priority_bits.into())) & 0xff;
    vmcr & !(0xff << vmcr::VPMR_SHIFT) | (value & implemented) << vmcr::VPMR_SHIFT
}

/// Writes `register` for `vcpu`, whose access trapped on `cpu`; after
/// [`Vgic::exit`](crate::Vgic::exit).
#[inline]
pub(crate) fn sysreg_write<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    register: SysReg,
    value: u64,
) -> Result<(), AccessError> {
    let vcpu = vm.accessor(pin, vcpu)?;

    if register != SysReg::Sgi1r {
        write_other(vm, cpu, pin, vcpu, register, value);
        return Ok(());
    }

    let targets = value & !SGI_INTID;
    // Saves 123 of the 558 instructions of an SGI to itself. Case `sgi.all_16_to_self`.
    let target = if targets == vcpu.sgi_to_itself() {
        Some(vcpu)
    } else {
        vm.sgi_targets.find(&vm.vcpus, targets)
    };
    match (target, sgi_intid(value)) {
        (Some(target), Some(intid)) => sgi::send_listed(vm, pin, target, intid, true),
        _ => generate_sgi(vm, pin, vcpu, value, true),
    }

    Ok(())
}

/// Writes a register that is written less often than [`SysReg::Sgi1r`].
#[inline(never)]
fn write_other<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    register: SysReg,
    value: u64,
) {
    match register {
        SysReg::Sgi1r => generate_sgi(vm, pin, vcpu, value, true),
        SysReg::Sgi0r | SysReg::Asgi1r => generate_sgi(vm, pin, vcpu, value, false),
        SysReg::Dir => write_dir(vm, cpu, pin, vcpu, value),
        SysReg::Pmr => write_vmcr(cpu, vcpu, |vmcr| with_mask(vmcr, value, cpu.vtr())),
        SysReg::Ctlr => write_vmcr(cpu, vcpu, |vmcr| with_ctlr(vmcr, value)),
        SysReg::Sre | SysReg::Rpr => {}
    }
}

/// `INTID` in a write of an SGI register (12.2.19).
const SGI_INTID_SHIFT: u32 = 24;
const SGI_INTID: u64 = 0xf << SGI_INTID_SHIFT;

/// Returns the SGI that a write of an SGI register names.
#[inline]
fn sgi_intid(value: u64) -> Option<IntId> {
    IntId::sgi(((value & SGI_INTID) >> SGI_INTID_SHIFT) as u32)
}

/// Generates the SGI that a write of an SGI register asks for (12.2.19).
///
/// Bits 27:24 are the INTID. With IRM the targets are all vCPUs but the sender. Otherwise `RS` and
/// the affinity fields choose 16 vCPUs, and the target list chooses among the 16. Cases
/// `sgi.between_every_pair`, `sgi.list_leaves_others_out`, `sgi.range_selector`,
/// `sgi.another_cluster`, `sgi.empty_list`.
#[inline]
fn generate_sgi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, sender: &Vcpu, value: u64, group1: bool) {
    let Some(intid) = sgi_intid(value) else {
        return;
    };

    if value & 1 << 40 != 0 {
        sgi::broadcast(vm, pin, sender, intid, group1);
    } else {
        send_sgis(vm, pin, value, intid, group1);
    }
}

/// Sends an SGI to the vCPUs of a target list. Case `sgi.list_of_all`.
// Out of line: saves 26 of the 461 instructions of an SGI to itself.
#[inline(never)]
fn send_sgis<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, value: u64, intid: IntId, group1: bool) {
    let topology = vm.topology.load(pin.guard());
    let Some(group) = topology.group(value) else {
        return;
    };

    let mut list = value as u16;
    while list != 0 {
        let place = list.trailing_zeros() as usize;
        list &= list.wrapping_sub(1);
        if let Some(target) = group.member(place).and_then(|id| vm.vcpu(id)) {
            sgi::send(vm, pin, target, intid, group1);
        }
    }
}

/// Writes `ICC_DIR_EL1` (12.2.10): deactivates an interrupt on any vCPU. A write with EOImode 0, or
/// of an INTID that cannot be deactivated, is ignored. Cases `cpu.eoi_mode_1`,
/// `cpu.deactivate_elsewhere`, `lpi.needs_no_deactivation`.
fn write_dir<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    value: u64,
) {
    if cpu.interface().read_vmcr() & vmcr::VEOIM == 0 {
        return;
    }

    let Some(intid) = IntId::new(value as u32 & 0x00ff_ffff) else {
        return;
    };

    if intid.kind() == Kind::Lpi {
        return;
    }

    if let Some(irq) = vm.irq(pin, vcpu, intid) {
        // An interrupt in this vCPU's list registers may have become active since the fill.
        fold::refresh_states(cpu, pin, vcpu);
        change::deactivate(vm, pin, irq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_a_gicv3_without_nmi_whatever_the_cpu_says() {
        for cpu in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let [pfr0, pfr1, aarch32] =
                [IdRegister::Aa64Pfr0, IdRegister::Aa64Pfr1, IdRegister::Pfr1]
                    .map(|register| register.guest_value(cpu));
            assert_eq!((pfr0 >> 24 & 0xf, pfr0 | 0xf << 24), (1, cpu | 0xf << 24));
            assert_eq!((pfr1 >> 36 & 0xf, pfr1 | 0xf << 36), (0, cpu | 0xf << 36));
            assert_eq!(
                (aarch32 >> 28 & 0xf, aarch32 | 0xf << 28),
                (1, cpu | 0xf << 28)
            );
        }

        // MRS X5, ID_AA64PFR1_EL1.
        let syndrome = 3 << 20 | 1 << 17 | 5 << 5 | 4 << 1 | 1;
        assert_eq!(
            IdRegister::from_syndrome(syndrome),
            Some(IdRegister::Aa64Pfr1)
        );
        assert_eq!(IdRegister::from_syndrome(syndrome | 1 << 14), None);
        assert_eq!(
            IdRegister::decode(3, 0, 0, 4, 0),
            Some(IdRegister::Aa64Pfr0)
        );
        assert_eq!(IdRegister::decode(3, 0, 0, 1, 1), Some(IdRegister::Pfr1));
    }

    #[test]
    fn a_guest_with_a_gicv2_has_no_system_registers_of_a_gic() {
        for cpu in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let value = |register: IdRegister| register.gicv2_guest_value(cpu);
            assert_eq!(value(IdRegister::Aa64Pfr0), cpu & !(0xf << 24));
            assert_eq!(value(IdRegister::Aa64Pfr1), cpu & !(0xf << 36));
            assert_eq!(value(IdRegister::Pfr1), cpu & !(0xf << 28));
        }
    }

    #[test]
    fn a_syndrome_and_its_fields_name_the_same_register() {
        for encoding in 0_u32..1 << 16 {
            let [op0, op1] = [encoding >> 14, encoding >> 11 & 7];
            let [crn, crm, op2] = [encoding >> 7 & 15, encoding >> 3 & 15, encoding & 7];
            let fields = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
            let [op0, op1, crn, crm, op2] = [op0, op1, crn, crm, op2].map(|field| field as u8);
            let register = SysReg::decode(op0, op1, crn, crm, op2);
            // Any general register and direction.
            for rest in [0, 1, 31 << 5 | 1] {
                assert_eq!(SysReg::from_syndrome(fields | rest), register);
            }
        }
    }
}

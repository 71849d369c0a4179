//! The register frames as the guest sees them: GICD, GICR and GITS (IHI 0069, chapter 12).
//!
//! | file | frame |
//! |---|---|
//! | [`gicd`] | distributor |
//! | [`gicr`] | redistributors: `RD_base` and `SGI_base` |
//! | [`gits`] | ITS control frame |
//! | [`bank`] | the per-interrupt registers that GICD and GICR share, 32 interrupts at a time |
//! | [`lpi_tables`] | the LPI configuration and pending tables in guest memory |
//!
//! An access of a width or alignment that the architecture does not allow for a register reads as zero
//! and writes nothing, one of the choices that it leaves (12.1.3). So do registers that do not exist.
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

pub(crate) mod bank;
pub(crate) mod gicd;
pub(crate) mod gicr;
pub(crate) mod gits;

use crate::config::{DISTRIBUTOR_SIZE, ITS_SIZE, REDISTRIBUTOR_STRIDE};
use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{ItsId, VcpuId};
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

/// Width of a register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

impl Width {
    /// From a size in bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Half),
            4 => Some(Self::Word),
            8 => Some(Self::Double),
            _ => None,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }
}

/// What the embedder does with a trapped access.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmioOutcome {
    /// Done; a read gives the guest this value (0 for a write). Go on after the instruction.
    Done(u64),
    /// The value is with another vCPU, which has been asked for it. Enter the guest *at the same
    /// instruction*; it will trap again.
    Retry,
    /// The address is in none of the vGIC's frames.
    Unclaimed,
}

/// Where an address falls.
enum Frame {
    Distributor(u64),
    Redistributor(VcpuId, u64),
    Its(ItsId, u64),
}

/// Who makes an access, for registers whose value is partly in list registers.
pub(crate) struct Access<'a, H: Host, I: CpuInterface> {
    pub(crate) vm: &'a Vm<H>,
    pub(crate) cpu: &'a Cpu<I>,
    pub(crate) pin: &'a CpuPin<'a>,
    pub(crate) vcpu: &'a Vcpu,
    pub(crate) gpa: u64,
}

/// Whether `gpa` is in one of the vGIC's frames.
#[must_use]
pub(crate) fn claims<H: Host>(vm: &Vm<H>, gpa: u64) -> bool {
    frame(vm, gpa).is_some()
}

fn frame<H: Host>(vm: &Vm<H>, gpa: u64) -> Option<Frame> {
    let config = &vm.config;
    let within = |base: u64, size: u64| gpa.checked_sub(base).filter(|offset| *offset < size);
    if let Some(offset) = within(config.distributor, DISTRIBUTOR_SIZE) {
        return Some(Frame::Distributor(offset));
    }
    let mut first = 0_usize;
    for region in &config.redistributors {
        if let Some(offset) = gpa.checked_sub(region.base)
            && let place = (offset / REDISTRIBUTOR_STRIDE) as usize
            && place < region.count
        {
            return Some(Frame::Redistributor(
                VcpuId::new(first.wrapping_add(place))?,
                offset % REDISTRIBUTOR_STRIDE,
            ));
        }
        // A region is less than 2^52 bytes.
        first = first.wrapping_add(region.count);
    }
    config.its.iter().enumerate().find_map(|(index, its)| {
        within(its.base, ITS_SIZE).map(|offset| Frame::Its(ItsId(index as u8), offset))
    })
}

/// Reads a register for `vcpu`, whose access trapped on `cpu` (after [`Vgic::exit`]). `gpa` is the
/// guest-physical address.
pub(crate) fn mmio_read<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    gpa: u64,
    width: Width,
) -> MmioOutcome {
    let (Some(frame), Some(vcpu)) = (frame(vm, gpa), vm.vcpu(vcpu)) else {
        return MmioOutcome::Unclaimed;
    };
    if !gpa.is_multiple_of(width.bytes()) {
        return MmioOutcome::Done(0);
    }
    let access = Access {
        vm,
        cpu,
        pin,
        vcpu,
        gpa,
    };
    let value = match frame {
        Frame::Distributor(offset) => gicd::gicd_read(vm, &access, offset, width),
        Frame::Redistributor(owner, offset) => match vm.vcpu(owner) {
            Some(owner) => gicr::gicr_read(vm, &access, owner, offset, width),
            // The frame of a vCPU that has not been added: as if nothing answered.
            None => Some(0),
        },
        Frame::Its(its, offset) => Some(gits::gits_read(vm, pin, its, offset, width)),
    };
    value.map_or(MmioOutcome::Retry, MmioOutcome::Done)
}

/// Writes a register for a vCPU whose access trapped (after [`Vgic::exit`]); which vCPU makes no
/// difference. Never answers [`MmioOutcome::Retry`].
pub(crate) fn mmio_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    gpa: u64,
    width: Width,
    value: u64,
) -> MmioOutcome {
    let Some(frame) = frame(vm, gpa) else {
        return MmioOutcome::Unclaimed;
    };
    if !gpa.is_multiple_of(width.bytes()) {
        return MmioOutcome::Done(0);
    }
    match frame {
        Frame::Distributor(offset) => gicd::gicd_write(vm, pin, offset, width, value),
        Frame::Redistributor(owner, offset) => {
            if let Some(owner) = vm.vcpu(owner) {
                gicr::gicr_write(vm, pin, owner, offset, width, value);
            }
        }
        Frame::Its(its, offset) => gits::gits_write(vm, pin, its, offset, width, value),
    }
    MmioOutcome::Done(0)
}

/// Peripheral and component identification, 0xFFD0-0xFFFC of every frame (12.1.2).
pub(crate) fn identification(offset: u64) -> u32 {
    match offset {
        0xffd0 => 0x44, // PIDR4: 64 KiB frame
        0xffe0 => 0x92, // PIDR0
        0xffe4 => 0xb4, // PIDR1
        0xffe8 => 0x3b, // PIDR2: ArchRev 3, GICv3
        0xfff0 => 0x0d, // CIDR0-3: the preamble
        0xfff4 => 0xf0,
        0xfff8 => 0x05,
        0xfffc => 0xb1,
        _ => 0,
    }
}

/// Identification of this implementation: `GICD_IIDR`, `GICR_IIDR`, `GITS_IIDR`. No JEP106 code, product
/// 0x76, variant 0, revision 1; no driver's quirk matches it.
pub(crate) const IIDR: u32 = 0x7600_1000;

/// The field of a `TYPER` that holds one less than `count`, which is at least 1.
pub(crate) fn one_less(count: impl Into<u64>) -> u64 {
    count.into().wrapping_sub(1)
}

/// The part of a 64-bit register that an access reads: all of it or a 32-bit half.
pub(crate) fn read_half(value: u64, offset: u64, width: Width) -> u64 {
    match (width, offset & 7) {
        (Width::Double, 0) => value,
        (Width::Word, 0) => value & 0xffff_ffff,
        (Width::Word, _) => value >> 32,
        _ => 0,
    }
}

/// `old` with the part that an access writes replaced; `None` for a width that is not allowed.
pub(crate) fn write_half(old: u64, offset: u64, width: Width, value: u64) -> Option<u64> {
    match (width, offset & 7) {
        (Width::Double, 0) => Some(value),
        (Width::Word, 0) => Some(old & !0xffff_ffff | value & 0xffff_ffff),
        (Width::Word, _) => Some(old & 0xffff_ffff | value << 32),
        _ => None,
    }
}

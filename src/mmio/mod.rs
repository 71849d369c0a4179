//! Memory-mapped register frames of the guest: GICD, GICR and GITS (IHI 0069, chapter 12).
//!
//! | file | content |
//! |---|---|
//! | this file | frames by address, access widths, identification registers |
//! | `gicd` | distributor |
//! | `gicr` | redistributors: `RD_base` and `SGI_base` |
//! | `gits` | ITS control frame |
//! | `extended` | registers of extended SPIs in GICD, and of extended PPIs in GICR |
//! | `gicv2` | the frames of a GICv2 (IHI 0048) |
//! | `bank` | per-interrupt registers common to GICD and GICR, 32 interrupts at a time |
//! | `data_abort` | syndrome of a trapped access |
//!
//! An access of a width or alignment that the architecture does not allow for a register reads as
//! zero and writes nothing, one of the choices that 12.1.3 leaves (case `keep.unsupported_widths`).
//! Registers that do not exist read as zero and ignore writes (cases `raz.*`).
//!
//! Documentation of a register names the section of IHI 0069 and the conformance case that holds
//! the described behaviour. The cases are in `hyp/guests/conformance/src/cases`.
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
mod data_abort;
pub(crate) mod extended;
pub(crate) mod gicd;
pub(crate) mod gicr;
pub(crate) mod gicv2;
pub(crate) mod gits;

use crate::config::{DISTRIBUTOR_SIZE, ITS_SIZE, REDISTRIBUTOR_STRIDE};
use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::AccessError;
use crate::host::Host;
use crate::intid::{ItsId, VcpuId};
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

pub use data_abort::DataAbort;

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
    /// Converts a size in bytes: 1, 2, 4 or 8. Returns `None` for any other size.
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

    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self as u32
    }
}

/// Instruction to the embedder on how to complete a trapped access.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmioOutcome {
    /// The access is done. A read returns the contained value to the guest; for a write the value
    /// is 0. Continue after the instruction.
    Done(u64),
    /// The value is in the list registers of another vCPU, and that vCPU has been recalled. Enter
    /// the guest at the trapping instruction, which traps again.
    Retry,
    /// The address is in none of the vGIC's frames.
    Unclaimed,
}

/// Frame of an address, with the offset from the frame's base.
enum Frame {
    Distributor(u64),
    /// Redistributor of a vCPU: `RD_base` and `SGI_base`.
    Redistributor(VcpuId, u64),
    Its(ItsId, u64),
}

/// Read access, for registers whose value is partly in list registers.
pub(crate) struct Access<'a, H: Host> {
    pub(crate) vm: &'a Vm<H>,
    pub(crate) pin: &'a CpuPin<'a>,
    /// The accessing vCPU; `None` for a read of no vCPU.
    pub(crate) reader: Option<Reader<'a>>,
    pub(crate) gpa: u64,
}

/// The vCPU whose read has trapped on the calling CPU.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) vcpu: &'a Vcpu,
    pub(crate) cpu: &'a dyn RefreshStates,
}

/// A CPU that can read its list registers.
pub(crate) trait RefreshStates {
    /// Updates the states of the interrupts in the list registers, if the CPU has the vCPU.
    fn refresh_states(&self, pin: &CpuPin<'_>, vcpu: &Vcpu);
}

impl<I: CpuInterface> RefreshStates for Cpu<I> {
    fn refresh_states(&self, pin: &CpuPin<'_>, vcpu: &Vcpu) {
        fold::refresh_states(self, pin, vcpu);
    }
}

/// Returns whether the guest-physical address `gpa` is in one of the vGIC's frames.
#[must_use]
pub(crate) fn claims<H: Host>(vm: &Vm<H>, gpa: u64) -> bool {
    frame(vm, gpa).is_some() || gicv2::claims(vm, gpa)
}

/// Returns the frame of the guest-physical address `gpa`, unless of a GICv2.
#[inline]
fn frame<H: Host>(vm: &Vm<H>, gpa: u64) -> Option<Frame> {
    let config = &vm.config;
    let within = |base: u64, size: u64| gpa.checked_sub(base).filter(|offset| *offset < size);
    if let Some(offset) = within(vm.gicd, DISTRIBUTOR_SIZE) {
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
        // A region is less than 2^52 bytes: the sum does not wrap.
        first = first.wrapping_add(region.count);
    }

    config.its.iter().enumerate().find_map(|(index, its)| {
        within(its.base, ITS_SIZE).map(|offset| Frame::Its(ItsId(index as u8), offset))
    })
}

/// Reads the register at the guest-physical address `gpa` for `vcpu`, whose access trapped on
/// `cpu`; after [`Vgic::exit`](crate::Vgic::exit). Case `keep.from_any_cpu`.
pub(crate) fn mmio_read<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    gpa: u64,
    width: Width,
) -> Result<MmioOutcome, AccessError> {
    let vcpu = vm.accessor(pin, vcpu)?;
    let reader = Reader { vcpu, cpu };
    Ok(match read(vm, pin, Some(reader), gpa, width) {
        MmioOutcome::Unclaimed => gicv2::read_of(vm, cpu, pin, vcpu, gpa, width),
        outcome => outcome,
    })
}

/// Reads the register at the guest-physical address `gpa`.
#[inline(always)]
fn read<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    reader: Option<Reader<'_>>,
    gpa: u64,
    width: Width,
) -> MmioOutcome {
    let Some(frame) = frame(vm, gpa) else {
        return MmioOutcome::Unclaimed;
    };

    if !gpa.is_multiple_of(width.bytes()) {
        return MmioOutcome::Done(0);
    }

    let access = Access {
        vm,
        pin,
        reader,
        gpa,
    };

    let value = match frame {
        Frame::Distributor(offset) => gicd::gicd_read(vm, &access, offset, width),
        Frame::Redistributor(owner, offset) => match vm.vcpu(owner) {
            Some(owner) => gicr::gicr_read(vm, &access, owner, offset, width),
            None => Some(gicr::absent_read(vm, pin, owner, offset, width)),
        },
        Frame::Its(its, offset) => Some(gits::gits_read(vm, pin, its, offset, width)),
    };

    value.map_or(MmioOutcome::Retry, MmioOutcome::Done)
}

/// Reads as many bytes as `data` has at `gpa`, for no vCPU:
/// [`Vgic::bus_read`](crate::Vgic::bus_read).
pub(crate) fn bus_read<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    gpa: u64,
    data: &mut [u8],
) -> Result<bool, AccessError> {
    vm.admit(pin)?;
    data.fill(0);
    let Some(width) = Width::from_bytes(data.len() as u64) else {
        return Ok(claims(vm, gpa));
    };

    let outcome = match read(vm, pin, None, gpa, width) {
        MmioOutcome::Unclaimed => gicv2::read(vm, pin, gpa, width),
        outcome => outcome,
    };
    match outcome {
        MmioOutcome::Done(value) => {
            for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
                *byte = value;
            }
            Ok(true)
        }
        // A read of no vCPU is not tried again.
        MmioOutcome::Retry => Ok(true),
        MmioOutcome::Unclaimed => Ok(false),
    }
}

/// Writes the bytes of `data` at `gpa`: [`Vgic::bus_write`](crate::Vgic::bus_write).
pub(crate) fn bus_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    gpa: u64,
    data: &[u8],
) -> Result<bool, AccessError> {
    let Some(width) = Width::from_bytes(data.len() as u64) else {
        vm.admit(pin)?;
        return Ok(claims(vm, gpa));
    };

    let bytes = data.iter().rev();
    let value = bytes.fold(0, |value, byte| value << 8 | u64::from(*byte));
    let outcome = mmio_write(vm, pin, gpa, width, value)?;
    Ok(outcome != MmioOutcome::Unclaimed)
}

/// Writes the register at the guest-physical address `gpa` for `vcpu`, whose access trapped on
/// `cpu`: [`Vgic::mmio_write_of`](crate::Vgic::mmio_write_of).
pub(crate) fn mmio_write_of<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    gpa: u64,
    width: Width,
    value: u64,
) -> Result<MmioOutcome, AccessError> {
    if vm.gicv2.is_none() {
        return mmio_write(vm, pin, gpa, width, value);
    }
    let vcpu = vm.accessor(pin, vcpu)?;
    Ok(gicv2::write_of(vm, cpu, pin, vcpu, gpa, width, value))
}

/// Writes the register at the guest-physical address `gpa` for a vCPU whose access trapped; after
/// [`Vgic::exit`](crate::Vgic::exit). A write has one effect from every vCPU (case
/// `keep.from_any_cpu`), but for a GICv2. Never returns [`MmioOutcome::Retry`].
pub(crate) fn mmio_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    gpa: u64,
    width: Width,
    value: u64,
) -> Result<MmioOutcome, AccessError> {
    vm.admit(pin)?;
    let Some(frame) = frame(vm, gpa) else {
        return Ok(gicv2::write(vm, pin, gpa, width, value));
    };

    if !gpa.is_multiple_of(width.bytes()) {
        return Ok(MmioOutcome::Done(0));
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

    Ok(MmioOutcome::Done(0))
}

/// Returns a peripheral or component identification register, 0xFFD0-0xFFFC of every frame
/// (12.1.2). Cases `ident.gicd_pidr2`, `ident.gicr_pidr2`, `ident.gits_pidr2`, `ident.gicd_cidr`,
/// `ident.gicr_cidr`, `ident.gits_cidr`.
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

/// Identification of this implementation: `GICD_IIDR` (12.9), `GICR_IIDR` (12.11), `GITS_IIDR`
/// (12.19).
///
/// No JEP106 code, product 0x76, variant 0, revision 1. No driver's quirk matches the value. Cases
/// `ident.gicd_iidr_is_read_only`, `ident.gicr_iidr_is_read_only`, `ident.gits_iidr_is_read_only`.
pub(crate) const IIDR: u32 = 0x7600_1000;

/// Returns the `TYPER` field for `count`, at least 1: one less than `count`.
pub(crate) fn one_less(count: impl Into<u64>) -> u64 {
    count.into().wrapping_sub(1)
}

/// Returns the part of a 64-bit register that an access reads: the whole or a 32-bit half. Any
/// other width reads as zero.
pub(crate) fn read_half(value: u64, offset: u64, width: Width) -> u64 {
    match (width, offset & 7) {
        (Width::Double, 0) => value,
        (Width::Word, 0) => value & 0xffff_ffff,
        (Width::Word, _) => value >> 32,
        _ => 0,
    }
}

/// Returns `old` with the whole or the 32-bit half that an access writes replaced; `None` for any
/// other width.
pub(crate) fn write_half(old: u64, offset: u64, width: Width, value: u64) -> Option<u64> {
    match (width, offset & 7) {
        (Width::Double, 0) => Some(value),
        (Width::Word, 0) => Some(old & !0xffff_ffff | value & 0xffff_ffff),
        (Width::Word, _) => Some(old & 0xffff_ffff | value << 32),
        _ => None,
    }
}

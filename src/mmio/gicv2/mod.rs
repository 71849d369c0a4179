//! Register frames of a GICv2 (IHI 0048, chapter 4), and GICv2m frames.
//!
//! | file | content |
//! |---|---|
//! | this file | frames by address |
//! | `gicd` | distributor |
//! | `gicc` | CPU interface |
//! | `v2m` | MSIs that make SPIs pending |
//!
//! Registers of SGIs and PPIs, and of the CPU interface, are banked: each CPU finds its own at one
//! address. An access of no vCPU finds none there: it reads as zero and writes nothing.

mod gicc;
mod gicd;
mod v2m;

use crate::config::{GICV2_CPU_INTERFACE_SIZE, GICV2_DISTRIBUTOR_SIZE, V2M_SIZE, V2mConfig};
use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::entry::gicc::Gicc;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

use super::{Access, MmioOutcome, Reader, Width};

/// Frame of an address, with the offset from the frame's base.
enum Frame<'a> {
    Distributor(u64),
    CpuInterface(u64),
    V2m(&'a V2mConfig, u64),
}

/// Returns the frame of the guest-physical address `gpa`; `None` in a VM with a GICv3.
fn frame<H: Host>(vm: &Vm<H>, gpa: u64) -> Option<Frame<'_>> {
    let gicv2 = vm.config.gicv2.as_ref()?;
    let within = |base: u64, size: u64| gpa.checked_sub(base).filter(|offset| *offset < size);

    within(vm.config.distributor, GICV2_DISTRIBUTOR_SIZE)
        .map(Frame::Distributor)
        .or_else(|| within(gicv2.cpu_interface, GICV2_CPU_INTERFACE_SIZE).map(Frame::CpuInterface))
        .or_else(|| {
            let mut frames = gicv2.v2m.iter();
            frames.find_map(|v2m| within(v2m.base, V2M_SIZE).map(|offset| Frame::V2m(v2m, offset)))
        })
}

/// Returns whether the guest-physical address `gpa` is in a frame of a GICv2.
pub(super) fn claims<H: Host>(vm: &Vm<H>, gpa: u64) -> bool {
    frame(vm, gpa).is_some()
}

/// Reads the register at `gpa` for `vcpu`, whose access has trapped on `cpu`.
#[inline(never)]
pub(super) fn read_of<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    gpa: u64,
    width: Width,
) -> MmioOutcome {
    match frame(vm, gpa) {
        Some(Frame::CpuInterface(offset)) if width == Width::Word && offset & 3 == 0 => {
            let gicc = Gicc::new(vm, cpu, pin, vcpu);
            MmioOutcome::Done(gicc.map_or(0, |gicc| gicc::read(&gicc, offset)).into())
        }
        frame => read_shared(vm, pin, Some(Reader { vcpu, cpu }), gpa, width, frame),
    }
}

/// Reads the register at `gpa` for no vCPU.
#[inline(never)]
pub(super) fn read<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, gpa: u64, width: Width) -> MmioOutcome {
    read_shared(vm, pin, None, gpa, width, frame(vm, gpa))
}

/// Reads a register of a frame that has registers of no CPU.
fn read_shared<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    reader: Option<Reader<'_>>,
    gpa: u64,
    width: Width,
    frame: Option<Frame<'_>>,
) -> MmioOutcome {
    if frame.is_some() && !gpa.is_multiple_of(width.bytes()) {
        return MmioOutcome::Done(0);
    }

    let value = match frame {
        None => return MmioOutcome::Unclaimed,
        Some(Frame::CpuInterface(_)) => Some(0),
        Some(Frame::V2m(v2m, offset)) => Some(v2m::read(v2m, offset, width).into()),
        Some(Frame::Distributor(offset)) => {
            let access = Access {
                vm,
                pin,
                reader,
                gpa,
            };
            gicd::read(&access, offset, width)
        }
    };
    value.map_or(MmioOutcome::Retry, MmioOutcome::Done)
}

/// Writes the register at `gpa` for `vcpu`, whose access has trapped on `cpu`.
#[inline(never)]
pub(super) fn write_of<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    gpa: u64,
    width: Width,
    value: u64,
) -> MmioOutcome {
    match frame(vm, gpa) {
        Some(Frame::CpuInterface(offset)) => {
            if width == Width::Word
                && offset & 3 == 0
                && let Some(gicc) = Gicc::new(vm, cpu, pin, vcpu)
            {
                gicc::write(&gicc, offset, value as u32);
                gicc.publish();
            }
            MmioOutcome::Done(0)
        }
        frame => write_shared(vm, pin, Some(vcpu), gpa, width, value, frame),
    }
}

/// Writes the register at `gpa` for no vCPU.
#[inline(never)]
pub(super) fn write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    gpa: u64,
    width: Width,
    value: u64,
) -> MmioOutcome {
    write_shared(vm, pin, None, gpa, width, value, frame(vm, gpa))
}

/// Writes a register of a frame that has registers of no CPU.
fn write_shared<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    writer: Option<&Vcpu>,
    gpa: u64,
    width: Width,
    value: u64,
    frame: Option<Frame<'_>>,
) -> MmioOutcome {
    let aligned = gpa.is_multiple_of(width.bytes());

    match frame {
        None => return MmioOutcome::Unclaimed,
        Some(Frame::Distributor(offset)) if aligned => {
            gicd::write(vm, pin, writer, offset, width, value);
        }
        Some(Frame::V2m(v2m, offset)) if aligned => v2m::write(vm, pin, v2m, offset, width, value),
        Some(_) => {}
    }
    MmioOutcome::Done(0)
}

/// Returns a peripheral or component identification register (IHI 0048, 4.1.2 and 4.3.18), at an
/// offset from 0xFD0 up: architecture revision 2.
fn identification(offset: u64) -> u32 {
    match offset {
        0xfd0 => 0x04, // PIDR4
        0xfe0 => 0x90, // PIDR0
        0xfe4 => 0xb4, // PIDR1
        0xfe8 => 0x2b, // PIDR2: ArchRev 2, GICv2
        0xff0 => 0x0d, // CIDR0-3: the preamble
        0xff4 => 0xf0,
        0xff8 => 0x05,
        0xffc => 0xb1,
        _ => 0,
    }
}

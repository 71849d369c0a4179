//! The distributor of a GICv2 (IHI 0048, 4.3).
//!
//! Without Security Extensions, and with two groups. Registers of SGIs and PPIs are banked. SGIs
//! are always enabled, and become pending and not pending by `GICD_SGIR`, `GICD_SPENDSGIR<n>` and
//! `GICD_CPENDSGIR<n>` only.

use crate::delivery::{group_enables, routing, sgi_sources};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::mmio::bank::{self, Bank, offset};
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

use super::super::gicd::CTLR_GROUPS;
use super::super::{Access, IIDR, Width, one_less};
use super::identification;

const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
const IIDR_OFFSET: u64 = 0x008;

/// Registers with a bit for each interrupt, in blocks of [`offset::BITS_BLOCK`] bytes.
const BITS_START: u64 = offset::IGROUPR;
const BITS_END: u64 = offset::IPRIORITYR;

/// Registers with a byte for each interrupt.
const PRIORITIES_START: u64 = offset::IPRIORITYR;
const PRIORITIES_END: u64 = 0x800;
const TARGETS_START: u64 = 0x800;
const TARGETS_END: u64 = 0xc00;

/// Registers with two bits for each interrupt.
const TRIGGERS_START: u64 = offset::ICFGR;
const TRIGGERS_END: u64 = 0xd00;

const SGIR: u64 = 0xf00;

/// Registers with a byte for each SGI.
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;
const SPENDSGIR_END: u64 = 0xf30;

/// Bits of SGIs in a register of SGIs and PPIs.
const SGIS: u64 = 0xffff;

/// Returns `GICD_TYPER` (4.3.2).
fn typer<H: Host>(vm: &Vm<H>) -> u64 {
    let cpus = one_less(vm.config.vcpus.len() as u64);
    one_less(vm.config.spi_end().div_ceil(32)) | cpus << 5
}

/// Returns the interrupts of the 32-bit register number `register`: SPIs, or the SGIs and PPIs of
/// the accessing vCPU.
fn bank<'a, H: Host>(vm: &'a Vm<H>, vcpu: Option<&'a Vcpu>, register: u64) -> Bank<'a> {
    if register != 0 {
        return vm.distributor.bank(register);
    }
    Bank {
        irqs: vcpu.map_or(&[], Vcpu::privates),
        owner: vcpu.map(|vcpu| vcpu.id),
    }
}

/// Returns the bit of a vCPU.
fn bit(vcpu: VcpuId) -> u8 {
    1_u8.checked_shl(vcpu.0.into()).unwrap_or(0)
}

/// Returns the SPI whose byte of `GICD_ITARGETSR<n>` is at an offset, and the byte. With one vCPU
/// the registers are RAZ/WI.
fn target<H: Host>(vm: &Vm<H>, at: u64) -> Option<(&Irq, &AtomicU64)> {
    let intid = IntId::spi(at.wrapping_sub(TARGETS_START) as u32)?;
    let router = vm.distributor.router(intid)?;
    (vm.config.gicv2_targets() != 0).then_some(router)
}

/// Returns the offsets of the bytes of an access, the first the lowest.
fn bytes(at: u64, width: Width) -> impl DoubleEndedIterator<Item = u64> {
    at..at.saturating_add(width.bytes())
}

/// Reads bytes of registers with a byte for each interrupt.
fn read_bytes(at: u64, width: Width, byte: impl Fn(u64) -> u8) -> u64 {
    let from_last = bytes(at, width).rev();
    from_last.fold(0, |word, at| word << 8 | u64::from(byte(at)))
}

/// Writes bytes of registers with a byte for each interrupt.
fn write_bytes(at: u64, width: Width, word: u64, write: impl Fn(u64, u8)) {
    for (at, byte) in bytes(at, width).zip(word.to_le_bytes()) {
        write(at, byte);
    }
}

/// Reads the register at an offset. Returns `None` if the vCPU has to retry the access.
pub(super) fn read<H: Host>(access: &Access<'_, H>, at: u64, width: Width) -> Option<u64> {
    let vm = access.vm;
    let reader = access.reader.map(|reader| reader.vcpu);

    Some(match (at, width) {
        (CTLR, Width::Word) => u64::from(vm.distributor.group_enables() & CTLR_GROUPS),
        (TYPER, Width::Word) => typer(vm),
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (BITS_START..BITS_END, Width::Word) => {
            let bank = bank(vm, reader, at % offset::BITS_BLOCK / 4);
            return access.read_bits(bank, at & !offset::BITS_BLOCK.wrapping_sub(1));
        }
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            bank(vm, reader, place / 32).priorities(place as usize % 32, width)
        }
        (TARGETS_START..TARGETS_END, Width::Byte | Width::Word) => {
            let own = reader.map_or(0, |vcpu| bit(vcpu.id));
            let own = own & vm.config.gicv2_targets();
            read_bytes(at, width, |at| {
                let private = at.wrapping_sub(TARGETS_START) < u64::from(IntId::PRIVATE);
                // Relaxed: no partner; the register only keeps the guest's value.
                let router = target(vm, at).map(|(_, router)| router.load(Relaxed) as u8);
                if private { own } else { router.unwrap_or(0) }
            })
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            bank(vm, reader, place / 8).half(place & 4 != 0).triggers()
        }
        (CPENDSGIR..SPENDSGIR_END, Width::Byte | Width::Word) => {
            let interface = reader.and_then(|reader| vm.gicv2_interface(reader.id));
            read_bytes(at, width, |at| {
                interface.map_or(0, |interface| interface.sources(at as usize & 0xf))
            })
        }
        (0xfd0..=0xffc, Width::Word) => u64::from(identification(at)),
        _ => 0,
    })
}

/// Writes the register at an offset for `writer`, if any vCPU.
pub(super) fn write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    writer: Option<&Vcpu>,
    at: u64,
    width: Width,
    value: u64,
) {
    match (at, width) {
        (CTLR, Width::Word) => group_enables::write(vm, pin, value as u32 & CTLR_GROUPS),
        (BITS_START..BITS_END, Width::Word) => {
            let register = at & !offset::BITS_BLOCK.wrapping_sub(1);
            let number = at % offset::BITS_BLOCK / 4;
            let bank = bank(vm, writer, number);
            let word = match (number, register) {
                (0, offset::ISENABLER | offset::ICENABLER | offset::ISPENDR | offset::ICPENDR) => {
                    value & !SGIS
                }
                _ => value,
            };
            bank::write_bits(vm, pin, bank, register, word);
            if register == offset::IGROUPR {
                routing::settle_shared(vm, pin);
            }
        }
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            let bank = bank(vm, writer, place / 32);
            bank::write_priorities(vm, pin, bank, place as usize % 32, width, value);
            routing::settle_shared(vm, pin);
        }
        (TARGETS_START..TARGETS_END, Width::Byte | Width::Word) => {
            write_bytes(at, width, value, |at, byte| {
                if let Some((irq, router)) = target(vm, at) {
                    routing::write_targets(vm, pin, irq, router, byte & vm.config.gicv2_targets());
                }
            });
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            let bank = bank(vm, writer, place / 8).half(place & 4 != 0);
            bank::write_triggers(vm, pin, bank, value);
        }
        (SGIR, Width::Word) => {
            if let Some(sender) = writer {
                generate_sgi(vm, pin, sender, value);
            }
        }
        (CPENDSGIR..SPENDSGIR_END, Width::Byte | Width::Word) => {
            let Some(vcpu) = writer else {
                return;
            };
            write_bytes(at, width, value, |at, byte| {
                if let Some(intid) = IntId::sgi(at as u32 & 0xf) {
                    let change = if at < SPENDSGIR {
                        sgi_sources::clear
                    } else {
                        sgi_sources::send
                    };
                    change(vm, pin, vcpu, intid, byte & vm.config.gicv2_cpus());
                }
            });
        }
        _ => {}
    }
}

/// Writes `GICD_SGIR` (4.3.15): sends an SGI to the CPUs of a list (TargetListFilter 0), to all
/// but the sender (1), or to the sender (2).
fn generate_sgi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, sender: &Vcpu, value: u64) {
    let own = bit(sender.id);
    let targets = match value >> 24 & 3 {
        0 => (value >> 16) as u8,
        1 => !own,
        2 => own,
        _ => 0,
    };

    let Some(intid) = IntId::sgi(value as u32 & 0xf) else {
        return;
    };

    for target in vm.added_vcpus() {
        if targets & bit(target.id) != 0 {
            sgi_sources::send(vm, pin, target, intid, own);
        }
    }
}

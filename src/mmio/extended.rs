//! Registers of the extended ranges of GICv3.1: extended SPIs, INTIDs 4096-5119, in the distributor
//! (IHI 0069, 12.9), and extended PPIs, INTIDs 1056-1119, in a redistributor's `SGI_base` (12.11).
//!
//! The fields are as in the registers of SPIs and PPIs ([`bank`](super::bank)), at other offsets.
//! Registers beyond the VM's ranges are RES0, and all registers of a VM without the ranges (cases
//! `extended.*`).

use crate::config::Config;
use crate::delivery::routing;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, IntId};
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;
use crate::vm::Vm;
use crate::vm::distributor::Distributor;
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

use super::bank::{self, Bank, offset};
use super::{Access, Width, read_half, write_half};

/// `GICD_IGROUPR<n>E`, the first of the blocks with a bit for each interrupt, in the order of
/// [`offset`].
const BITS_START: u64 = 0x1000;
/// End of `GICD_ICACTIVER<n>E`.
const BITS_END: u64 = 0x1e00;
/// Bytes of the block of a register with a bit for each extended SPI.
const BITS_BLOCK: u64 = 0x200;

/// `GICD_IPRIORITYR<n>E`.
const PRIORITIES_START: u64 = 0x2000;
const PRIORITIES_END: u64 = 0x2400;

/// `GICD_ICFGR<n>E`.
const TRIGGERS_START: u64 = 0x3000;
const TRIGGERS_END: u64 = 0x3100;

/// `GICD_IROUTER<n>E`.
const IROUTER: u64 = 0x8000;
const IROUTER_END: u64 = 0xa000;

/// Returns `GICR_TYPER.PPInum` (12.11): 0 for a "maximum PPI INTID" of 31, 1 for 1087, 2 for 1119.
/// Case `extended.ppi_num`.
pub(super) fn ppi_num(config: &Config) -> u64 {
    u64::from(config.extended_ppis / 32) << 27
}

/// Returns the extended SPIs of the 32-bit register number `register`.
fn spi_bank(distributor: &Distributor, register: u64) -> Bank<'_> {
    Bank::of_spis(distributor.extended_spis(), register as usize)
}

/// Returns the offset in [`offset`] of the register with a bit for each extended SPI at `at`.
fn bits_register(at: u64) -> u64 {
    let block = at.wrapping_sub(BITS_START) / BITS_BLOCK;
    offset::IGROUPR.wrapping_add(block.wrapping_mul(offset::BITS_BLOCK))
}

/// Reads the distributor register at the offset `at`, if it is of extended SPIs; else returns 0.
/// Returns `None` if the vCPU has to retry the access.
// Out of line: other VMs' reads do not pay for it.
#[inline(never)]
pub(super) fn gicd_read<H: Host>(access: &Access<'_, H>, at: u64, width: Width) -> Option<u64> {
    let distributor = &access.vm.distributor;

    Some(match (at, width) {
        (BITS_START..BITS_END, Width::Word) => {
            let bank = spi_bank(distributor, at % BITS_BLOCK / 4);
            return access.read_bits(bank, bits_register(at));
        }
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            spi_bank(distributor, place / 32).priorities(place as usize % 32, width)
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            let bank = spi_bank(distributor, place / 8);
            bank.half(place & 4 != 0).triggers()
        }
        (IROUTER..IROUTER_END, _) => {
            // Relaxed: no partner, as for `GICD_IROUTER<n>`.
            let value = router(distributor, at).map_or(0, |(_, router)| router.load(Relaxed));
            read_half(value, at, width)
        }
        _ => 0,
    })
}

/// Writes the distributor register at the offset `at`, if it is of extended SPIs.
// Out of line: other VMs' writes do not pay for it.
#[inline(never)]
pub(super) fn gicd_write<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, at: u64, width: Width, value: u64) {
    let distributor = &vm.distributor;

    match (at, width) {
        (BITS_START..BITS_END, Width::Word) => {
            let bank = spi_bank(distributor, at % BITS_BLOCK / 4);
            bank::write_bits(vm, pin, bank, bits_register(at), value);
        }
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            let bank = spi_bank(distributor, place / 32);
            bank::write_priorities(vm, pin, bank, place as usize % 32, width, value);
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            let bank = spi_bank(distributor, place / 8).half(place & 4 != 0);
            bank::write_triggers(vm, pin, bank, value);
        }
        (IROUTER..IROUTER_END, _) => {
            if let Some((irq, router)) = router(distributor, at)
                // Relaxed: no partner; concurrent writers of one register are the guest's race.
                && let Some(new) = write_half(router.load(Relaxed), at, width, value)
            {
                // Interrupt_Routing_Mode is RAZ/WI, as in `GICD_IROUTER<n>`. Case
                // `extended.irouter`.
                routing::write_router(vm, pin, irq, router, Affinity::from_mpidr(new));
            }
        }
        _ => {}
    }
}

/// Returns the extended SPI whose `GICD_IROUTER<n>E` is at the offset `at`, and the register.
fn router(distributor: &Distributor, at: u64) -> Option<(&Irq, &AtomicU64)> {
    // 8 bytes each: n is the number of the extended SPI.
    let number = at.wrapping_sub(IROUTER) / 8;
    let intid = IntId::spi(IntId::FIRST_EXTENDED_SPI.wrapping_add(number as u32))?;
    distributor.router(intid)
}

/// Ends of the registers with a byte and with two bits for each SGI and PPI, extended PPIs last.
const PPI_PRIORITIES_END: u64 = 0x0460;
const PPI_TRIGGERS_END: u64 = 0x0c18;

/// Returns the extended PPIs of `owner` in the 32-bit register number `register`, 1 or 2. Register
/// 0 is for SGIs and PPIs.
fn ppi_bank(owner: &Vcpu, register: u64) -> Bank<'_> {
    Bank {
        owner: Some(owner.id),
        ..Bank::of_spis(owner.extended_ppis(), (register as usize).wrapping_sub(1))
    }
}

/// Reads the register at the offset `at` in `owner`'s `SGI_base`, if it is of extended PPIs; else
/// returns 0. Returns `None` if the vCPU has to retry the access.
#[inline(never)]
pub(super) fn gicr_read<H: Host>(
    access: &Access<'_, H>,
    owner: &Vcpu,
    at: u64,
    width: Width,
) -> Option<u64> {
    Some(match (at, width) {
        (0..offset::IPRIORITYR, Width::Word) => {
            let bank = ppi_bank(owner, at % offset::BITS_BLOCK / 4);
            return access.read_bits(bank, at & !(offset::BITS_BLOCK - 1));
        }
        (offset::IPRIORITYR..PPI_PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(offset::IPRIORITYR);
            ppi_bank(owner, place / 32).priorities(place as usize % 32, width)
        }
        (offset::ICFGR..PPI_TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(offset::ICFGR);
            ppi_bank(owner, place / 8).half(place & 4 != 0).triggers()
        }
        _ => 0,
    })
}

/// Writes the register at the offset `at` in `owner`'s `SGI_base`, if it is of extended PPIs.
#[inline(never)]
pub(super) fn gicr_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    at: u64,
    width: Width,
    value: u64,
) {
    match (at, width) {
        (0..offset::IPRIORITYR, Width::Word) => {
            let bank = ppi_bank(owner, at % offset::BITS_BLOCK / 4);
            bank::write_bits(vm, pin, bank, at & !(offset::BITS_BLOCK - 1), value);
        }
        (offset::IPRIORITYR..PPI_PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(offset::IPRIORITYR);
            let bank = ppi_bank(owner, place / 32);
            bank::write_priorities(vm, pin, bank, place as usize % 32, width, value);
        }
        (offset::ICFGR..PPI_TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(offset::ICFGR);
            let bank = ppi_bank(owner, place / 8).half(place & 4 != 0);
            bank::write_triggers(vm, pin, bank, value);
        }
        _ => {}
    }
}

//! The distributor (IHI 0069, 12.9): SPIs, and the registers of the whole VM.
//!
//! * One security state: `GICD_CTLR.DS` is RAO/WI (case `reset.gicd_ctlr_one_state`).
//! * Affinity routing only: `GICD_CTLR.ARE` is RAO/WI. The fields of SGIs and PPIs are RAZ/WI in
//!   the distributor (cases `raz.gicd_isenabler0` and others) and live in the redistributors.
//! * `GICD_CTLR.RWP` reads 1 while a vCPU in the guest still has an interrupt in a list register
//!   that a write has disabled, and while vCPUs are still to be notified of a change of the group
//!   enables, a slice at a time (cases `spi.disabled_while_pending`,
//!   `cpu.distributor_disabled_while_pending`). A guest that polls `GICD_CTLR` notifies further
//!   slices.

use crate::config::Config;
use crate::delivery::{change, group_enables, routing};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, IntId};
use crate::mmio::bank;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU64, Mutant, mutant};
use crate::vm::distributor::{Distributor, NO_ACTIVE_SGIS};
use crate::vm::irq::Irq;
use crate::vm::{Vm, rwp};

use super::bank::{Bank, offset};
use super::extended;
use super::{Access, IIDR, Width, identification, read_half, write_half};

pub(crate) const CTLR: u64 = 0x0000;

pub(crate) const TYPER: u64 = 0x0004;

pub(crate) const IIDR_OFFSET: u64 = 0x0008;

const SETSPI_NSR: u64 = 0x0040;

const CLRSPI_NSR: u64 = 0x0048;

pub(crate) const IROUTER: u64 = 0x6000;

pub(crate) const IROUTER_END: u64 = 0x8000;

/// Bits of the offset of an `IROUTER<n>` in its block.
const IROUTER_PLACE: u64 = 0x1fff;

/// `EnableGrp0` and `EnableGrp1`.
pub(crate) const CTLR_GROUPS: u32 = 0b11;

pub(crate) const CTLR_ARE: u32 = 1 << 4;

pub(crate) const CTLR_DS: u32 = 1 << 6;

const CTLR_RWP: u32 = 1 << 31;

pub(crate) const TYPER2: u64 = 0x000c;

impl Distributor {
    /// Returns the SPIs of the 32-bit register number `register`. Register 0 is for SGIs and PPIs,
    /// and empty.
    pub(super) fn bank(&self, register: u64) -> Bank<'_> {
        Bank::of_spis(self.spis(), (register as usize).wrapping_sub(1))
    }
}

/// Returns `GICD_CTLR`.
fn ctlr<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> u32 {
    // RWP is of the writes that the enables show, and of earlier ones: the enables come first.
    let early = mutant(Mutant::RwpBeforeEnables).then(|| group_enables::poll(vm, pin));
    let control = vm.distributor.control.get();
    let complete =
        early.unwrap_or_else(|| group_enables::poll(vm, pin) && !rwp::is_being_written(control));

    let rwp = if complete { 0 } else { CTLR_RWP };
    ctlr_of(control) | rwp
}

/// Returns `GICD_CTLR` without RWP, of the enables in [`Distributor::control`].
pub(crate) const fn ctlr_of(control: u32) -> u32 {
    control & (CTLR_GROUPS | NO_ACTIVE_SGIS) | CTLR_ARE | CTLR_DS
}

/// Returns the enables in [`Distributor::control`] after a write of `GICD_CTLR` in a VM with
/// `config`, where they were `old`. While a group is enabled, a change of nASSGIreq is
/// UNPREDICTABLE (12.9), and has no effect here.
pub(crate) const fn control_of(config: &Config, ctlr: u32, old: u32) -> u32 {
    let stays = old & CTLR_GROUPS != 0 && ctlr & CTLR_GROUPS != 0;
    let nassgireq = match (stays, config.nassgi_cap) {
        (true, _) => old,
        (false, true) => ctlr,
        (false, false) => 0,
    };
    ctlr & CTLR_GROUPS | nassgireq & NO_ACTIVE_SGIS
}

/// Returns `GICD_TYPER2` (12.9): nASSGIcap.
pub(crate) const fn typer2(config: &Config) -> u32 {
    (config.nassgi_cap as u32) << 8
}

/// Offsets of the registers with a bit for each interrupt, in blocks of [`offset::BITS_BLOCK`]
/// bytes.
const BITS_START: u64 = offset::IGROUPR;
const BITS_END: u64 = offset::IPRIORITYR;

/// Offsets of the registers with a byte for each interrupt.
const PRIORITIES_START: u64 = offset::IPRIORITYR;
const PRIORITIES_END: u64 = 0x0800;

/// Offsets of the registers with two bits for each interrupt.
const TRIGGERS_START: u64 = offset::ICFGR;
const TRIGGERS_END: u64 = 0x0d00;

/// Reads the distributor register at the offset `at`. Returns `None` if the vCPU has to retry the
/// access.
pub(crate) fn gicd_read<H: Host>(
    vm: &Vm<H>,
    access: &Access<'_, H>,
    at: u64,
    width: Width,
) -> Option<u64> {
    let distributor = &vm.distributor;

    Some(match (at, width) {
        (BITS_START..BITS_END, Width::Word) => {
            let bank = distributor.bank(at % offset::BITS_BLOCK / 4);
            return access.read_bits(bank, at & !(offset::BITS_BLOCK - 1));
        }
        (CTLR, Width::Word) => u64::from(ctlr(vm, access.pin)),
        (TYPER, Width::Word) => distributor.typer,
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            distributor
                .bank(place / 32)
                .priorities(place as usize % 32, width)
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            distributor.bank(place / 8).half(place & 4 != 0).triggers()
        }
        (IROUTER..IROUTER_END, _) => {
            // Relaxed: no partner; the register only keeps the guest's value. Delivery uses the
            // target in the SPI's state word. Cases `keep.irouter`, `keep.irouter_halves`.
            let value = router(vm, at).map_or(0, |(_, router)| router.load(Relaxed));
            read_half(value, at, width)
        }
        (0xffd0..=0xfffc, Width::Word) => u64::from(identification(at)),
        _ => return other(vm, access, at, width),
    })
}

/// Returns the distributor register at the offset `at` that is read less often than others.
// Out of line: saves 5 of the 120 instructions of a read of `GICD_TYPER`.
#[inline(never)]
fn other<H: Host>(vm: &Vm<H>, access: &Access<'_, H>, at: u64, width: Width) -> Option<u64> {
    match (at, width) {
        (TYPER2, Width::Word) => Some(u64::from(typer2(&vm.config))),
        _ => extended::gicd_read(access, at, width),
    }
}

/// Writes the distributor register at the offset `at`.
pub(crate) fn gicd_write<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, at: u64, width: Width, value: u64) {
    let distributor = &vm.distributor;

    match (at, width) {
        (BITS_START..BITS_END, Width::Word) => {
            let bank = distributor.bank(at % offset::BITS_BLOCK / 4);
            bank::write_bits(vm, pin, bank, at & !(offset::BITS_BLOCK - 1), value);
        }
        (CTLR, Width::Word) => {
            let old = distributor.group_enables();
            group_enables::write(vm, pin, control_of(&vm.config, value as u32, old));
        }
        (PRIORITIES_START..PRIORITIES_END, Width::Byte | Width::Word) => {
            let place = at.wrapping_sub(PRIORITIES_START);
            let bank = distributor.bank(place / 32);
            bank::write_priorities(vm, pin, bank, place as usize % 32, width, value);
        }
        (TRIGGERS_START..TRIGGERS_END, Width::Word) => {
            let place = at.wrapping_sub(TRIGGERS_START);
            let bank = distributor.bank(place / 8).half(place & 4 != 0);
            bank::write_triggers(vm, pin, bank, value);
        }
        (IROUTER..IROUTER_END, _) => {
            if let Some((irq, router)) = router(vm, at)
                // Relaxed: no partner; concurrent writers of one register are the guest's race.
                && let Some(new) = write_half(router.load(Relaxed), at, width, value)
            {
                // `GICD_IROUTER<n>` (12.9): Interrupt_Routing_Mode is RAZ/WI, since
                // `GICD_TYPER.No1N` is 1. Cases `keep.irouter_mode`, `spi.routed_to_each`,
                // `spi.retargeted_while_pending`.
                routing::write_router(vm, pin, irq, router, Affinity::from_mpidr(new));
            }
        }
        (SETSPI_NSR, Width::Half | Width::Word) => message_spi(vm, pin, value, true),
        (CLRSPI_NSR, Width::Half | Width::Word) => message_spi(vm, pin, value, false),
        _ => extended::gicd_write(vm, pin, at, width, value),
    }
}

/// Writes `GICD_SETSPI_NSR` (`set`) or `GICD_CLRSPI_NSR` (12.9): a message makes an SPI pending or
/// takes the pending state away. A level-sensitive SPI stays pending until the message is taken
/// back; a message and the line are two sources of the level. INTIDs other than SPIs, extended ones
/// included, are ignored.
/// Cases `spi.setspi_edge`, `spi.clrspi_edge`, `spi.setspi_level`, `spi.clrspi_keeps_the_line`,
/// `spi.clrspi_of_a_latch`, `spi.setspi_by_halfword`, `spi.setspi_of_a_special_intid`.
fn message_spi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, value: u64, set: bool) {
    let Some(irq) = IntId::spi(value as u32 & 0x1fff).and_then(|intid| vm.distributor.spi(intid))
    else {
        return;
    };

    if set {
        change::set_message(vm, pin, irq);
    } else {
        change::clear_message(vm, pin, irq);
    }
}

/// Returns the SPI whose `GICD_IROUTER<n>` is at the offset `at`, and the register. Case
/// `raz.gicd_irouter_private`.
fn router<H: Host>(vm: &Vm<H>, at: u64) -> Option<(&Irq, &AtomicU64)> {
    // 8 bytes each, numbered by INTID.
    let intid = IntId::spi(((at & IROUTER_PLACE) / 8) as u32)?;
    vm.distributor.router(intid)
}

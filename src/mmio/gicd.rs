//! The distributor (IHI 0069, 12.9): SPIs and what concerns the whole VM.
//!
//! One security state (`GICD_CTLR.DS` = 1) and affinity routing only (`ARE` = 1, RAO/WI): the fields of
//! SGIs and PPIs in banked registers are RAZ/WI here and live in the redistributors.
//!
//! `GICD_CTLR.RWP` is real: it reads 1 while a vCPU that was in the guest still has an interrupt in a list
//! register that a write has disabled, and while vCPUs are still to be told of a change of the group
//! enables, which happens in slices.

use crate::cpu_interface::CpuInterface;
use crate::delivery::{change, group_enables, inject, routing};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, IntId};
use crate::mmio::bank;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;
use crate::vm::Vm;
use crate::vm::distributor::Distributor;
use crate::vm::irq::Irq;

use super::bank::{Bank, offset};
use super::{Access, IIDR, Width, identification, one_less, read_half, write_half};

const CTLR: u64 = 0x0000;

const TYPER: u64 = 0x0004;

const IIDR_OFFSET: u64 = 0x0008;

const SETSPI_NSR: u64 = 0x0040;

const CLRSPI_NSR: u64 = 0x0048;

const IROUTER: u64 = 0x6000;

const IROUTER_END: u64 = 0x8000;

const IROUTER_PLACE: u64 = 0x1fff;

const CTLR_GROUPS: u32 = 0b11;

const CTLR_ARE: u32 = 1 << 4;

const CTLR_DS: u32 = 1 << 6;

const CTLR_RWP: u32 = 1 << 31;

impl Distributor {
    /// The SPIs of a 32-bit register, numbered as the architecture does: 0 is the private ones.
    fn bank(&self, register: u64) -> Bank<'_> {
        let first = (register as usize).wrapping_sub(1).wrapping_mul(32);
        let spis = self.spis().get(first..).unwrap_or_default();
        Bank {
            irqs: spis.get(..32).unwrap_or(spis),
            owner: None,
        }
    }
}

/// Returns `GICD_CTLR`.
fn ctlr<H: Host>(vm: &Vm<H>) -> u32 {
    let complete = group_enables::is_complete(vm);
    let rwp = if complete { 0 } else { CTLR_RWP };
    vm.distributor.group_enables() | CTLR_ARE | CTLR_DS | rwp
}

/// Splits an offset into its register block and the place in it, in bytes.
fn block(at: u64) -> (u64, u64) {
    match at {
        0x0080..0x0400 => (at & !0x7f, at & 0x7f),
        0x0400..0x0800 => (offset::IPRIORITYR, at & 0x3ff),
        0x0c00..0x0d00 => (offset::ICFGR, at & 0xff),
        _ => (at, 0),
    }
}

/// `GICD_TYPER`.
fn gicd_typer<H: Host>(vm: &Vm<H>) -> u64 {
    let config = &vm.config;
    let lines = one_less(config.spi_end().div_ceil(32));
    let lpis = if config.lpi_bits == 0 {
        0
    } else {
        // num_LPIs: 2^(n + 1) of them; LPIS.
        one_less(config.lpi_bits) << 11 | 1 << 17
    };
    // MBIS, A3V, No1N, RSS.
    lines | lpis | 1 << 16 | one_less(config.intid_bits()) << 19 | 1 << 24 | 1 << 25 | 1 << 26
}

/// Reads a distributor register; `None` asks for the access to be tried again.
pub(crate) fn gicd_read<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    access: &Access<'_, H, I>,
    at: u64,
    width: Width,
) -> Option<u64> {
    let distributor = &vm.distributor;
    if let IROUTER..IROUTER_END = at {
        // Relaxed: what the guest wrote, for the guest; where the SPI goes is in its state word.
        let value = router(vm, at).map_or(0, |(_, router)| router.load(Relaxed));
        return Some(read_half(value, at, width));
    }
    let (register, place) = block(at);
    if register == offset::IPRIORITYR {
        return Some(match width {
            Width::Byte | Width::Word => distributor
                .bank(place / 32)
                .priorities(place as usize % 32, width),
            _ => 0,
        });
    }
    if width != Width::Word {
        return Some(0);
    }
    let bank = distributor.bank(place / 4);
    Some(match register {
        CTLR => {
            // The guest polls RWP: this is where what it waits for goes on.
            group_enables::advance(vm, access.pin);
            u64::from(ctlr(vm))
        }
        TYPER => gicd_typer(vm),
        IIDR_OFFSET => u64::from(IIDR),
        offset::ICFGR => distributor.bank(place / 8).half(place & 4 != 0).triggers(),
        0xffd0..=0xfffc => u64::from(identification(at)),
        _ => return access.read_bits(bank, register),
    })
}

/// Writes a distributor register.
pub(crate) fn gicd_write<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, at: u64, width: Width, value: u64) {
    let distributor = &vm.distributor;
    if let IROUTER..IROUTER_END = at {
        if let Some((irq, router)) = router(vm, at)
            // Relaxed: concurrent writers of one register are the guest's race.
            && let Some(new) = write_half(router.load(Relaxed), at, width, value)
        {
            // Interrupt_Routing_Mode is RAZ/WI: GICD_TYPER.No1N.
            routing::write_router(vm, pin, irq, router, Affinity::from_mpidr(new));
        }
        return;
    }
    let (register, place) = block(at);
    match (register, width) {
        (offset::IPRIORITYR, Width::Byte | Width::Word) => {
            let bank = distributor.bank(place / 32);
            bank::write_priorities(vm, pin, bank, place as usize % 32, width, value);
        }
        (SETSPI_NSR, Width::Half | Width::Word) => message_spi(vm, pin, value, true),
        (CLRSPI_NSR, Width::Half | Width::Word) => message_spi(vm, pin, value, false),
        (_, Width::Word) => gicd_write_word(vm, pin, register, place, value),
        _ => {}
    }
}

fn gicd_write_word<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, register: u64, place: u64, value: u64) {
    let bank = vm.distributor.bank(place / 4);
    match register {
        CTLR => group_enables::write(vm, pin, value as u32 & CTLR_GROUPS),
        offset::ICFGR => {
            let bank = vm.distributor.bank(place / 8);
            bank::write_triggers(vm, pin, bank.half(place & 4 != 0), value);
        }
        _ => bank::write_bits(vm, pin, bank, register, value),
    }
}

/// `GICD_SETSPI_NSR`, `GICD_CLRSPI_NSR`: a message makes an SPI pending or ends that. On a
/// level-sensitive SPI the messages are the line.
fn message_spi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, value: u64, set: bool) {
    let Some(irq) = IntId::spi(value as u32 & 0x1fff).and_then(|intid| vm.distributor.spi(intid))
    else {
        return;
    };
    if irq.state().level() {
        change::set_line(vm, pin, irq, set);
    } else if set {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    } else {
        change::clear_pending(vm, pin, irq);
    }
}

/// Returns the SPI whose `GICD_IROUTER<n>` is at offset `at`, and the register.
fn router<H: Host>(vm: &Vm<H>, at: u64) -> Option<(&Irq, &AtomicU64)> {
    // Registers of 8 bytes, numbered as the INTIDs are.
    let intid = IntId::spi(((at & IROUTER_PLACE) / 8) as u32)?;
    vm.distributor.router(intid)
}

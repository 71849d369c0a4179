//! The redistributor of one vCPU (IHI 0069): `RD_base` at 0 (12.11), `SGI_base` at 0x1_0000
//! (12.11).
//!
//! * Any vCPU may access any redistributor (case `keep.from_any_cpu`).
//! * `GICR_PROPBASER` is one register for the whole VM: `GICR_TYPER.CommonLPIAff` is 0.
//! * `GICR_WAKER` keeps ProcessorSleep, and ChildrenAsleep follows (cases `keep.waker`,
//!   `reset.gicr_waker`). A sleeping redistributor asks for wake-up, in [`crate::entry::block`]. No
//!   interrupt is held back by its sleep, only by powering off the vCPU.
//! * `GICR_CTLR.RWP` reads 1 while a vCPU in the guest still has a disabled SGI, PPI or LPI in a
//!   list register, and while the pending table is being read or written (cases
//!   `ppi.disabled_while_pending`, `lpi.off_while_pending`, `lpi.stored_when_off`). The write waits
//!   for LPIs that were moved to the vCPU and are in list registers of other vCPUs.

use crate::config::Config;
use crate::delivery::{lpi_tables, queue};
use crate::direct;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, IntId, VcpuId};
use crate::its;
use crate::mmio::bank;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU64, Mutant, mutant};
use crate::vm::redistributor::{CTLR_ENABLE_LPIS, PENDBASER_PTZ, WAKER_PROCESSOR_SLEEP};
use crate::vm::residency::{NEW, RECALL};
use crate::vm::rwp::RWP_GICR;
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

use super::bank::{Bank, offset};
use super::extended;
use super::{Access, IIDR, Width, identification, read_half, write_half};

pub(crate) const CTLR: u64 = 0x0000;

pub(crate) const IIDR_OFFSET: u64 = 0x0004;

pub(crate) const TYPER: u64 = 0x0008;

pub(crate) const TYPER_HIGH: u64 = 0x000c;

pub(crate) const WAKER: u64 = 0x0014;

pub(crate) const PROPBASER: u64 = 0x0070;

pub(crate) const PROPBASER_HIGH: u64 = 0x0074;

pub(crate) const PENDBASER: u64 = 0x0078;

pub(crate) const PENDBASER_HIGH: u64 = 0x007c;

pub(crate) const INVLPIR: u64 = 0x00a0;

pub(crate) const INVALLR: u64 = 0x00b0;

pub(crate) const SYNCR: u64 = 0x00c0;

pub(crate) const SGI_BASE: u64 = 0x1_0000;

/// `GICR_CTLR.CES`: EnableLPIs can be cleared again.
pub(crate) const CTLR_CES: u32 = 1 << 1;

/// `GICR_CTLR.IR`: `GICR_INVLPIR`, `GICR_INVALLR` and `GICR_SYNCR` exist.
pub(crate) const CTLR_IR: u32 = 1 << 2;

const CTLR_RWP: u32 = 1 << 3;

const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

/// Physical address, cacheability and shareability, `IDbits`.
pub(crate) const PROPBASER_MASK: u64 = 0x070f_ffff_ffff_ff9f;

/// Physical address, cacheability and shareability; PTZ (bit 62) reads as zero.
pub(crate) const PENDBASER_MASK: u64 = 0x070f_ffff_ffff_0f80;

/// Returns `GICR_TYPER` of `owner` (12.11). Cases `ident.redistributors`, `ident.mpidr`,
/// `ident.typer_lpis_agree`, `ident.gicr_typer_is_read_only`, `keep.gicr_typer_halves`.
// Inlined: saves 10 of the 265 instructions of mmio/GICR_TYPER_read.
#[inline(always)]
fn gicr_typer<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: VcpuId) -> u64 {
    let affinity = vm.topology.load(pin.guard()).affinity(owner);
    typer(&vm.config, owner.index(), affinity, || vm.vcpu_count())
}

/// Returns `GICR_TYPER` of vCPU `index` among `count` vCPUs.
#[inline(always)]
pub(crate) fn typer(
    config: &Config,
    index: usize,
    affinity: Option<Affinity>,
    count: impl FnOnce() -> usize,
) -> u64 {
    let affinity = affinity.map_or(0, |affinity| affinity.packed());
    let next = index.saturating_add(1);

    // Last: the vCPU ends a region of redistributors, or is the VM's last vCPU.
    let mut end = 0_usize;
    let region_end = config.redistributors.iter().any(|region| {
        end = end.saturating_add(region.count);
        next == end
    });

    let last = region_end || next == count();

    u64::from(affinity) << 32
        | (index as u64) << 8
        | u64::from(last) << 4
        // PLPIS
        | u64::from(config.lpis != 0)
        | extended::ppi_num(config)
}

/// Reads the register of `owner`'s redistributor at the offset `at`. Returns `None` if the
/// accessing vCPU has to retry the access.
pub(crate) fn gicr_read<H: Host>(
    vm: &Vm<H>,
    access: &Access<'_, H>,
    owner: &Vcpu,
    at: u64,
    width: Width,
) -> Option<u64> {
    let redistributor = &owner.redistributor;
    if let Some(at) = at.checked_sub(SGI_BASE) {
        return gicr_read_sgi(access, owner, at, width);
    }

    Some(match (at, width) {
        (CTLR, Width::Word) => u64::from(gicr_ctlr(vm, access.pin, owner)),
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (TYPER | TYPER_HIGH, _) => read_half(gicr_typer(vm, access.pin, owner.id), at, width),
        (WAKER, Width::Word) => {
            // ChildrenAsleep is the bit above ProcessorSleep.
            // Relaxed: the register is only compared with what the guest has written.
            const { assert!(WAKER_CHILDREN_ASLEEP == WAKER_PROCESSOR_SLEEP << 1) };
            let sleep = redistributor.waker.load(Relaxed);
            u64::from(sleep | sleep << 1)
        }
        (PROPBASER | PROPBASER_HIGH, _) => {
            // Relaxed: no partner; the registers only return the guest's values, `PENDBASER` too.
            read_half(vm.distributor.propbaser.load(Relaxed), at, width)
        }
        (PENDBASER | PENDBASER_HIGH, _) => read_half(
            redistributor.pendbaser.load(Relaxed) & !PENDBASER_PTZ,
            at,
            width,
        ),
        // `GICR_SYNCR.Busy`. Each poll reads a further slice. Case `lpi.direct_invalidation`.
        (SYNCR, Width::Word) => {
            let busy = lpi_tables::is_reloading_config(vm) && {
                lpi_tables::advance_config_reload(vm, access.pin);
                lpi_tables::is_reloading_config(vm)
            };
            u64::from(busy)
        }
        (0xffd0..=0xfffc, Width::Word) => u64::from(identification(at)),
        _ => 0,
    })
}

/// Reads the register at the offset `at` of the redistributor of a vCPU that the VM does not have.
///
/// If the vCPU has been removed, the redistributor identifies itself: a guest that looks for a
/// redistributor by `GICR_TYPER` passes it by, up to the last one. All else, and the redistributor
/// of a vCPU not added yet, reads as zero. Writes are ignored.
#[cold]
pub(crate) fn absent_read<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: VcpuId,
    at: u64,
    width: Width,
) -> u64 {
    if owner.index() >= vm.vcpu_count() {
        return 0;
    }

    match (at, width) {
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (TYPER | TYPER_HIGH, _) => read_half(gicr_typer(vm, pin, owner), at, width),
        (0xffd0..=0xfffc, Width::Word) => u64::from(identification(at)),
        _ => 0,
    }
}

/// Returns `GICR_CTLR` (12.11). Each poll of RWP reads or writes a further slice of the pending
/// table. Cases
/// `reset.gicr_lpis_off`, `lpi.pending_table`.
fn gicr_ctlr<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) -> u32 {
    let redistributor = &owner.redistributor;
    if lpi_tables::has_slices(vm, owner) {
        lpi_tables::advance_pending_table(vm, pin, owner);
    }

    // RWP is of the writes that EnableLPIs shows, and of earlier ones: EnableLPIs comes first.
    let control = redistributor.control.get();
    // Without a slice left to begin, another CPU may still be at the last slice.
    let waiting = rwp::is_being_written(control)
        || lpi_tables::is_busy_with_pending_table(vm, owner)
        || rwp::is_waiting(owner, RWP_GICR);
    let lpis = if vm.config.lpis == 0 {
        0
    } else {
        control & CTLR_ENABLE_LPIS | CTLR_CES | CTLR_IR
    };

    lpis | if waiting { CTLR_RWP } else { 0 }
}

/// Reads the register of `owner`'s `SGI_base` at the offset `at` (12.11).
fn gicr_read_sgi<H: Host>(
    access: &Access<'_, H>,
    owner: &Vcpu,
    at: u64,
    width: Width,
) -> Option<u64> {
    let bank = private_bank(owner);
    Some(match (at, width) {
        (0x0400..0x0420, Width::Byte | Width::Word) => bank.priorities(at as usize & 0x1f, width),
        (offset::ICFGR, Width::Word) => bank.triggers(),
        (ICFGR1, Width::Word) => bank.half(true).triggers(),
        (_, Width::Word) if at.is_multiple_of(offset::BITS_BLOCK) => {
            access.read_bits(bank, at)? | virtual_sgis(access, owner, at)
        }
        _ => return extended::gicr_read(access, owner, at, width),
    })
}

/// Writes the register of `owner`'s redistributor at the offset `at`.
pub(crate) fn gicr_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    at: u64,
    width: Width,
    value: u64,
) {
    if let Some(at) = at.checked_sub(SGI_BASE) {
        gicr_write_sgi(vm, pin, owner, at, width, value);
        return;
    }

    let redistributor = &owner.redistributor;
    match (at, width) {
        (CTLR, Width::Word) => write_gicr_ctlr(vm, pin, owner, value as u32),
        (WAKER, Width::Word) => write_waker(vm, pin, owner, value as u32),
        // Ignored while EnableLPIs is 1. Case `keep.propbaser_halves`.
        (PROPBASER | PROPBASER_HIGH, _) if !redistributor.lpis_enabled() => {
            write_base(&vm.distributor.propbaser, PROPBASER_MASK, at, width, value);
        }
        // Ignored while EnableLPIs is 1. PTZ is kept, and reads as zero. Cases
        // `keep.pendbaser_halves`, `keep.pendbaser_ptz`.
        (PENDBASER | PENDBASER_HIGH, _) if !redistributor.lpis_enabled() => {
            let mask = PENDBASER_MASK | PENDBASER_PTZ;
            write_base(&redistributor.pendbaser, mask, at, width, value);
        }
        // Case `lpi.direct_invalidation`.
        (INVLPIR, Width::Word | Width::Double) => {
            if let Some(intid) = IntId::lpi(value as u32) {
                lpi_tables::invalidate(vm, pin, intid);
            }
        }
        (INVALLR, Width::Word | Width::Double) => lpi_tables::start_config_reload(vm, pin),
        _ => {}
    }
}

/// Writes `GICR_WAKER.ProcessorSleep` (12.11). A redistributor that falls asleep may ask for its
/// PE's wake-up at once, for an interrupt that the CPU interface has held back.
fn write_waker<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu, value: u32) {
    let new = value & WAKER_PROCESSOR_SLEEP;
    // Relaxed: published by the notification below, whose read-modify-write is ordered with the
    // blocking vCPU's.
    let old = owner.redistributor.waker.swap(new, Relaxed);
    if new != 0 && old == 0 {
        queue::notify(vm, pin, owner.id, NEW);
    }
}

/// Writes the fields in `mask` of `GICR_PROPBASER` or `GICR_PENDBASER`.
fn write_base(register: &AtomicU64, mask: u64, at: u64, width: Width, value: u64) {
    // Relaxed, both: concurrent writers of one register are the guest's race. The write of
    // EnableLPIs that follows publishes the register to the readers of the tables, in
    // `delivery::lpi_tables`.
    if let Some(new) = write_half(register.load(Relaxed), at, width, value) {
        register.store(new & mask, Relaxed);
    }
}

/// Writes `GICR_CTLR.EnableLPIs` (12.11).
///
/// Setting EnableLPIs reads every LPI's configuration and the vCPU's pending table. Clearing
/// EnableLPIs holds LPIs back, and moves the pending states to the pending table. Cases `lpi.off`,
/// `lpi.off_while_pending`, `lpi.off_and_on_again`, `lpi.pending_table`, `lpi.stored_when_off`,
/// `lpi.stored_table_is_not_the_next`, `lpi.each_cpu_its_own_enable`.
fn write_gicr_ctlr<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu, value: u32) {
    if vm.config.lpis == 0 {
        return;
    }

    let redistributor = &owner.redistributor;
    let new = value & CTLR_ENABLE_LPIS;
    let (old, _write) = redistributor.control.write(new);
    if old == new {
        return;
    }

    if new == 0 {
        // From now on LPIs are held back. The recall below makes the vCPU fold LPIs in list
        // registers.
        lpi_tables::expect_store(owner);
    } else {
        // `GICR_PROPBASER` counts from now on, also for LPIs mapped before: read every
        // configuration.
        lpi_tables::start_config_reload(vm, pin);
        lpi_tables::start_pending_table(vm, pin, owner);
    }

    if new != 0 || !mutant(Mutant::DisabledWithoutRecall) {
        queue::notify(vm, pin, owner.id, RECALL);
    }

    // Events are direct only to redistributors that enable LPIs.
    its::direct::settle_all(vm, pin);
    if new == 0 {
        rwp::expect(vm, pin, owner, RWP_GICR);
        lpi_tables::store_if_on_no_cpu(vm, owner);
    }
}

/// Writes the register of `owner`'s `SGI_base` at the offset `at` (12.11).
fn gicr_write_sgi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    at: u64,
    width: Width,
    value: u64,
) {
    let bank = private_bank(owner);
    match (at, width) {
        (0x0400..0x0420, Width::Byte | Width::Word) => {
            bank::write_priorities(vm, pin, bank, at as usize & 0x1f, width, value);
        }
        (ICFGR1, Width::Word) => bank::write_triggers(vm, pin, bank.half(true), value),
        (_, Width::Word) if at.is_multiple_of(offset::BITS_BLOCK) => {
            let left = match vm.direct {
                Some(_) => write_virtual_sgis(vm, pin, owner, at, value),
                None => value,
            };
            bank::write_bits(vm, pin, bank, at, left);
        }
        _ => extended::gicr_write(vm, pin, owner, at, width, value),
    }

    if vm.direct.is_some() && direct::sgi::is_to_follow(vm, pin, owner) {
        queue::notify(vm, pin, owner.id, RECALL);
        rwp::expect(vm, pin, owner, RWP_GICR);
    }
}

/// Returns the bits of `GICR_ISPENDR0` or `GICR_ICPENDR0`, at the offset `at`, of SGIs that are
/// pending in the virtual PE of `owner`; 0 for other registers.
fn virtual_sgis<H: Host>(access: &Access<'_, H>, owner: &Vcpu, at: u64) -> u64 {
    match at {
        offset::ISPENDR | offset::ICPENDR if access.vm.direct.is_some() => {
            u64::from(direct::sgi::pending(access.vm, access.pin, owner))
        }
        _ => 0,
    }
}

/// Writes the pending states that virtual SGIs have. Returns the bits of the write that are left
/// for the state words.
fn write_virtual_sgis<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    at: u64,
    word: u64,
) -> u64 {
    match at {
        offset::ISPENDR => {
            let sgis = (0..16).filter(|sgi| word >> sgi & 1 != 0);
            let sent = sgis.filter(|sgi| {
                IntId::sgi(*sgi).is_some_and(|intid| direct::sgi::send(vm, pin, owner, intid))
            });
            word & !sent.fold(0, |sent, sgi| sent | 1 << sgi)
        }
        offset::ICPENDR => {
            direct::sgi::clear(vm, pin, owner, word as u32 & 0xffff);
            word
        }
        _ => word,
    }
}

/// Offset of `GICR_ICFGR1`, the trigger configuration of the PPIs. `GICR_ICFGR0`, of the SGIs, is
/// read-only.
const ICFGR1: u64 = offset::ICFGR + 4;

/// Returns the SGIs and PPIs of `owner`.
fn private_bank(owner: &Vcpu) -> Bank<'_> {
    Bank {
        irqs: owner.privates(),
        owner: Some(owner.id),
    }
}

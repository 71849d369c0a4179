//! The register frames of an ITS (IHI 0069, 12.18 and 12.19).
//!
//! [`crate::vm::its`] keeps the state, and [`crate::its`] executes commands.
//!
//! Conformance cases:
//! * `GITS_CTLR`: `reset.gits_off`, `its.quiescent`, `its.disabled`;
//! * `GITS_TYPER`: `its.introspection`, `ident.gits_typer_is_read_only`, `keep.gits_typer_halves`;
//! * `GITS_CBASER`: `keep.gits_cbaser_halves`, `its.queue_registers`, `table.size_of_the_queue`;
//! * `GITS_CWRITER`: `its.queue_wraps`;
//! * `GITS_CREADR`: `its.queue_registers`;
//! * `GITS_BASER<n>`: `its.tables`, `keep.gits_baser_halves`, `keep.gits_baser_fixed_fields`,
//!   `table.last_device`, `table.two_levels`.

use crate::config::ItsConfig;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::ItsId;
use crate::its::command_queue;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::its::baser::TableType;

use super::{IIDR, Width, identification, one_less, read_half, write_half};

pub(crate) const CTLR: u64 = 0x0000;

pub(crate) const IIDR_OFFSET: u64 = 0x0004;

pub(crate) const TYPER: u64 = 0x0008;

const TYPER_HIGH: u64 = 0x000c;

pub(crate) const CBASER: u64 = 0x0080;

const CBASER_HIGH: u64 = 0x0084;

pub(crate) const CWRITER: u64 = 0x0088;

const CWRITER_HIGH: u64 = 0x008c;

pub(crate) const CREADR: u64 = 0x0090;

const CREADR_HIGH: u64 = 0x0094;

/// `GITS_BASER0`: the device table.
pub(crate) const BASER0: u64 = 0x0100;

const BASER0_HIGH: u64 = 0x0104;

/// `GITS_BASER1`: the collection table.
const BASER1: u64 = 0x0108;

const BASER1_HIGH: u64 = 0x010c;

pub(crate) const CTLR_ENABLED: u64 = 1 << 0;

pub(crate) const CTLR_QUIESCENT: u64 = 1 << 31;

/// Bytes of an interrupt translation table entry that a guest reserves for the ITS.
const ITT_ENTRY_SIZE: u64 = 8;

/// Returns `GITS_TYPER` (12.19): physical LPIs only, collections in memory, targets by processor
/// number (PTA = 0), no SEIs.
pub(crate) fn typer(config: &ItsConfig) -> u64 {
    const PHYSICAL: u64 = 1 << 0;
    const CIL: u64 = 1 << 36;
    // Bits of the largest ICID.
    let icid_bits = one_less(config.collections)
        .checked_ilog2()
        .map_or(1, |log| log.saturating_add(1));

    PHYSICAL
        | one_less(ITT_ENTRY_SIZE) << 4
        | one_less(config.event_bits) << 8
        | one_less(config.device_bits) << 13
        | one_less(icid_bits) << 32
        | CIL
}

/// Returns the table of the `GITS_BASER<n>`, or half of a `GITS_BASER<n>`, at the offset `at`.
fn table(at: u64) -> TableType {
    if at & !7 == BASER0 {
        TableType::Devices
    } else {
        TableType::Collections
    }
}

/// Reads the register of ITS `id` at the offset `at`. A read of `GITS_CREADR` or `GITS_CTLR`
/// executes a slice of the commands first, so that a polling guest makes progress.
pub(crate) fn gits_read<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    id: ItsId,
    at: u64,
    width: Width,
) -> u64 {
    let Some(its) = vm.its(id) else {
        return 0;
    };

    match (at, width) {
        (CTLR, Width::Word) => {
            command_queue::advance_its(vm, pin, id);
            // Quiescent is of an ITS that this read has found disabled.
            let early = mutant(Mutant::QuiescentBeforeEnabled).then(|| its.is_quiescent(pin));
            let enabled = its.is_enabled();
            let quiescent = early.unwrap_or_else(|| !enabled && its.is_quiescent(pin));
            u64::from(enabled) | if quiescent { CTLR_QUIESCENT } else { 0 }
        }
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (TYPER | TYPER_HIGH, _) => read_half(typer(&its.config), at, width),
        (CBASER | CBASER_HIGH, _) => read_half(its.cbaser(pin), at, width),
        (CWRITER | CWRITER_HIGH, _) => read_half(its.cwriter(), at, width),
        (CREADR | CREADR_HIGH, _) => {
            // Saves 88 of the 219 instructions of mmio/GITS_CREADR_read with an empty queue.
            if its.is_behind() {
                command_queue::advance_its(vm, pin, id);
            }
            read_half(its.creadr(), at, width)
        }
        (BASER0 | BASER0_HIGH | BASER1 | BASER1_HIGH, _) => {
            read_half(its.baser(pin, table(at)), at, width)
        }
        (0xffd0..=0xfffc, Width::Word) => u64::from(identification(at)),
        _ => 0,
    }
}

/// Writes the register of ITS `id` at the offset `at`, and executes a slice of the commands.
///
/// A vCPU's write of `GITS_TRANSLATER` is ignored, since a vCPU has no DeviceID. Writes by devices
/// arrive through [`Vgic::signal_msi`](crate::Vgic::signal_msi).
pub(crate) fn gits_write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    id: ItsId,
    at: u64,
    width: Width,
    value: u64,
) {
    let Some(its) = vm.its(id) else {
        return;
    };

    let change = |old| write_half(old, at, width, value);
    match (at, width) {
        (CTLR, Width::Word) => {
            command_queue::set_enabled(vm, its, value & CTLR_ENABLED != 0);
        }
        (CBASER | CBASER_HIGH, _) => command_queue::set_cbaser(pin, its, change),
        (CWRITER, _) => {
            // The low half has the whole offset, so the old value is not read: the register's
            // cache line is fetched once, to be written.
            if let Some(new) = change(0) {
                its.set_cwriter(new);
            }
        }
        // Bits 63:32 are `RES0`.
        (CWRITER_HIGH, _) => {}
        (BASER0 | BASER0_HIGH | BASER1 | BASER1_HIGH, _) => {
            command_queue::set_baser(vm, pin, its, table(at), change);
        }
        _ => return,
    }

    command_queue::advance_its(vm, pin, id);
}

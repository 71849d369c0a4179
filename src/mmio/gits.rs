//! The registers of an ITS (IHI 0069, 12.18 and 12.19). [`crate::its`] is what is behind them.
use crate::config::ItsConfig;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::ItsId;
use crate::its::queue as its_queue;
use crate::vm::Vm;
use crate::vm::its::baser::TableType;

use super::{IIDR, Width, identification, one_less, read_half, write_half};

const CTLR: u64 = 0x0000;

const IIDR_OFFSET: u64 = 0x0004;

const TYPER: u64 = 0x0008;

const TYPER_HIGH: u64 = 0x000c;

const CBASER: u64 = 0x0080;

const CBASER_HIGH: u64 = 0x0084;

const CWRITER: u64 = 0x0088;

const CWRITER_HIGH: u64 = 0x008c;

const CREADR: u64 = 0x0090;

const CREADR_HIGH: u64 = 0x0094;

/// Devices.
const BASER0: u64 = 0x0100;

const BASER0_HIGH: u64 = 0x0104;

/// Collections.
const BASER1: u64 = 0x0108;

const BASER1_HIGH: u64 = 0x010c;

const CTLR_ENABLED: u64 = 1 << 0;

const CTLR_QUIESCENT: u64 = 1 << 31;

/// Bytes of an interrupt translation table entry that a guest sets aside for us.
const ITT_ENTRY_SIZE: u64 = 8;

/// `GITS_TYPER`: physical LPIs only, collections in memory, target by processor number, no SEIs.
fn typer(config: &ItsConfig) -> u64 {
    const PHYSICAL: u64 = 1 << 0;
    const CIL: u64 = 1 << 36;
    // The bits of the largest ICID.
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

/// The table that a `GITS_BASER<n>`, or half of one, is for.
fn table(at: u64) -> TableType {
    if at & !7 == BASER0 {
        TableType::Devices
    } else {
        TableType::Collections
    }
}

/// Reads a register of an ITS. A guest that polls `GITS_CREADR` or `GITS_CTLR` executes a slice of
/// the commands that it waits for.
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
            its_queue::advance_its(vm, pin, id);
            let quiescent = its.is_quiescent(pin);
            u64::from(its.is_enabled()) | if quiescent { CTLR_QUIESCENT } else { 0 }
        }
        (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
        (TYPER | TYPER_HIGH, _) => read_half(typer(its.config()), at, width),
        (CBASER | CBASER_HIGH, _) => read_half(its.cbaser(pin), at, width),
        (CWRITER | CWRITER_HIGH, _) => read_half(its.cwriter(), at, width),
        (CREADR | CREADR_HIGH, _) => {
            if its.is_behind() {
                its_queue::advance_its(vm, pin, id);
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

/// Writes a register of an ITS. A vCPU's write of `GITS_TRANSLATER` is ignored, since it carries no
/// DeviceID; those of devices come through [`Vgic::signal_msi`].
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
        (CTLR, Width::Word) => its.set_enabled(value & CTLR_ENABLED != 0),
        (CBASER | CBASER_HIGH, _) => its_queue::set_cbaser(vm, pin, its, change),
        (CWRITER | CWRITER_HIGH, _) => {
            if let Some(new) = change(its.cwriter()) {
                its.set_cwriter(new);
            }
        }
        (BASER0 | BASER0_HIGH | BASER1 | BASER1_HIGH, _) => {
            its_queue::set_baser(vm, pin, its, table(at), change);
        }
        _ => return,
    }
    its_queue::advance_its(vm, pin, id);
}

//! The LPI tables in guest memory (IHI 0069, 5.1): configuration at `GICR_PROPBASER`, a byte for
//! each LPI; pending state at `GICR_PENDBASER`, a bit for each INTID.
//!
//! The state word caches the configuration of an LPI. The configuration is read again when the
//! guest invalidates the LPI or enables LPIs. A pending table is read once, when the guest enables
//! LPIs. Both tables are read in slices. `GICR_SYNCR.Busy` and `GICR_CTLR.RWP` show the guest the
//! completion. The tables are never written.

use crate::delivery::{inject, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::vm::irq::{ENABLED, Irq};
use crate::vm::vcpu::Vcpu;
use crate::vm::{DEFERRED_CONFIG_RELOAD, DEFERRED_PENDING_TABLE, Vm};

/// Bytes of a pending table per slice.
const SCAN_BYTES: usize = 64;
/// LPIs per slice of a pending table: eight a byte.
const SCAN_LPIS: u32 = SCAN_BYTES as u32 * 8;

/// LPIs per slice of a reload.
const RELOAD_LPIS: u32 = 256;

/// `GICR_PROPBASER.Physical_Address`.
const BASE_MASK: u64 = 0x000f_ffff_ffff_f000;
/// `GICR_PENDBASER.PTZ`: the guest declares the table all zeros.
const PENDBASER_PTZ: u64 = 1 << 62;

/// Reads an LPI's configuration byte and applies the byte. An LPI with a byte beyond the table, or
/// not readable, is disabled.
pub(crate) fn reload_config<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let byte = config_byte(vm, irq.intid()).unwrap_or(0);
    let changed = irq.update(|state| {
        // Bits 7:2 are the priority, with five bits implemented; bit 0 enables.
        state
            .with_priority(byte & 0xfc)
            .with_flag(ENABLED, byte & 1 != 0)
    });
    queue::follow_up(vm, pin, irq, changed.follow_up);
}

/// Reads an LPI's configuration byte from guest memory.
fn config_byte<H: Host>(vm: &Vm<H>, intid: IntId) -> Option<u8> {
    // Acquire: pairs with the AcqRel in `write_base`.
    let base = vm.distributor.propbaser.load(Acquire);
    let index = u64::from(intid.raw().checked_sub(IntId::FIRST_LPI)?);
    // IDbits is the number of bits of the largest INTID, less 1.
    if u64::from(intid.raw()) >> (base & 0x1f) > 1 {
        return None;
    }

    let mut byte = [0];
    let at = (base & BASE_MASK).saturating_add(index);
    vm.host.read_memory(at, &mut byte).ok()?;
    Some(byte[0])
}

/// Starts reading the configuration of every LPI again: `GICR_INVALLR`, `GICR_CTLR.EnableLPIs`.
pub(crate) fn start_config_reload<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    vm.distributor.config_reload.start();
    advance_config_reload(vm, pin);
}

/// Reads the configuration of a slice of LPIs, beginning with the next mapped LPI. The search saves
/// 18 of the 169 instructions of a hypercall while slices are left.
pub(crate) fn advance_config_reload<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let (lpis, end) = (&vm.lpis, vm.config.lpis);
    let next_mapped = |at| lpis.next(at, pin.guard()).map_or(end, |(key, _)| key);
    let Some(slice) = vm
        .distributor
        .config_reload
        .claim(end, RELOAD_LPIS, next_mapped)
    else {
        return;
    };

    let mut from = slice.first;
    while from < slice.end
        && let Some((key, irq)) = lpis.next_below(from, slice.end, pin.guard())
    {
        reload_config(vm, pin, irq);
        from = key.saturating_add(1);
    }

    if slice.end < end {
        vm.defer(DEFERRED_CONFIG_RELOAD);
    }
}

/// Returns true if a reload is not complete: `GICR_SYNCR.Busy`.
pub(crate) fn is_reloading_config<H: Host>(vm: &Vm<H>) -> bool {
    !vm.distributor.config_reload.is_done(vm.config.lpis)
}

/// Starts reading `owner`'s pending table, unless the guest has declared the table all zeros.
pub(crate) fn start_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    // Acquire: pairs with the AcqRel in `write_base`.
    if owner.redistributor.pendbaser.load(Acquire) & PENDBASER_PTZ != 0 {
        return;
    }
    owner.redistributor.scan.start();
    note_scan(vm, owner);
    advance_pending_table(vm, pin, owner);
}

/// Gives up reading `owner`'s pending table: the guest has disabled LPIs again.
pub(crate) fn stop_pending_table<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    owner.redistributor.scan.stop();
    forget_scan(vm, owner);
}

/// Reads a slice of the pending table of some vCPU with slices left.
pub(crate) fn advance_pending_tables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let scanning = &vm.distributor.scanning;
    for (index, word) in scanning.iter().enumerate() {
        // Acquire: pairs with the AcqRel in `note_scan`.
        let bits = word.load(Acquire);
        if bits != 0 {
            let id = VcpuId::new(index << 6 | bits.trailing_zeros() as usize);
            if let Some(owner) = id.and_then(|id| vm.vcpu(id)) {
                advance_pending_table(vm, pin, owner);
            }
            break;
        }
    }

    // Acquire: pairs with the AcqRel in `note_scan`.
    if scanning.iter().any(|word| word.load(Acquire) != 0) {
        vm.defer(DEFERRED_PENDING_TABLE);
    }
}

/// Reads a slice of `owner`'s pending table. An LPI pending in the table, mapped, and routed to
/// `owner` becomes pending.
pub(crate) fn advance_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    let end = vm.config.lpis;
    let Some(slice) = redistributor.scan.claim(end, SCAN_LPIS, |at| at) else {
        forget_scan(vm, owner);
        return;
    };

    // Acquire: pairs with the AcqRel in `write_base`.
    let base = redistributor.pendbaser.load(Acquire) & BASE_MASK & !0xffff;

    // The table begins with unused bits, for INTIDs below 8192.
    let at = base.saturating_add(u64::from(IntId::FIRST_LPI.saturating_add(slice.first) / 8));
    let mut bytes = [0; SCAN_BYTES];

    if vm.host.read_memory(at, &mut bytes).is_ok() {
        for (eight, byte) in (slice.first..end).step_by(8).zip(bytes) {
            let mut left = byte;
            while left != 0 {
                let key = eight | left.trailing_zeros();
                left &= left.wrapping_sub(1);
                if let Some(irq) = IntId::lpi(IntId::FIRST_LPI.saturating_add(key))
                    .and_then(|intid| vm.lpi(pin, intid))
                    && irq.state().target() == Some(owner.id)
                {
                    let _ = inject::raised(vm, pin, irq, irq.raise());
                }
            }
        }
    }

    if slice.end < end {
        vm.defer(DEFERRED_PENDING_TABLE);
    } else {
        forget_scan(vm, owner);
    }
}

/// Returns true while a vCPU's pending table is being read. After the reading, every LPI found
/// pending in the table is pending.
pub(crate) fn is_reading_pending_table<H: Host>(vm: &Vm<H>, owner: &Vcpu) -> bool {
    !owner.redistributor.scan.is_done(vm.config.lpis)
}

/// Notes a vCPU with slices of the pending table left.
fn note_scan<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    if let Some((word, bit)) = scan_bit(vm, owner) {
        // AcqRel: pairs with the Acquire in `advance_pending_tables` and the AcqRel in
        // `forget_scan`.
        word.fetch_or(bit, AcqRel);
        vm.defer(DEFERRED_PENDING_TABLE);
    }
}

/// Clears the note of a vCPU without slices of the pending table left.
fn forget_scan<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    if let Some((word, bit)) = scan_bit(vm, owner) {
        // AcqRel: pairs with the AcqRel in `note_scan`: if the line below clears the note of a new
        // scan, `has_more` sees the new scan.
        word.fetch_and(!bit, AcqRel);
        if owner.redistributor.scan.has_more(vm.config.lpis) {
            note_scan(vm, owner);
        }
    }
}

/// Returns a vCPU's word and bit of `scanning`.
fn scan_bit<'a, H: Host>(vm: &'a Vm<H>, owner: &Vcpu) -> Option<(&'a AtomicU64, u64)> {
    let word = vm.distributor.scanning.get(owner.id.index() / 64)?;
    Some((word, 1 << (owner.id.index() % 64)))
}

//! The LPI tables in guest memory (IHI 0069, 5.1): configuration at `GICR_PROPBASER`, a byte for each
//! LPI; pending state at `GICR_PENDBASER`, a bit for each INTID.
//!
//! The configuration of an LPI is cached in its state word and read again when the guest invalidates it, or
//! enables LPIs. A pending table is read once, when the guest enables LPIs. Both go on in slices: `GICR_SYNCR.Busy` and
//! `GICR_CTLR.RWP` tell the guest. The tables are never written.
use core::cell::Cell;

use crate::delivery::{inject, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::vm::distributor::NOT_SWEEPING;
use crate::vm::irq::{ENABLED, Irq};
use crate::vm::redistributor::NOT_SCANNING;
use crate::vm::vcpu::Vcpu;
use crate::vm::{DEFERRED_PENDING_TABLE, DEFERRED_SWEEP, Vm};

/// Bytes of a pending table that one slice reads: eight LPIs each.
const SCAN_BYTES: usize = 64;

const SCAN_LPIS: u32 = SCAN_BYTES as u32 * 8;

/// LPIs whose configuration one slice of a sweep over all reads.
const SWEEP_LPIS: u32 = 256;

/// The next LPI that a sweep looks at: the low half of its word.
const fn swept(sweep: u64) -> u32 {
    sweep as u32
}

const fn with_swept(sweep: u64, at: u32) -> u64 {
    sweep & !NOT_SWEEPING | at as u64
}

/// The next sweep, which begins with LPI 0; the high half of the word is its number.
const fn next_sweep(sweep: u64) -> u64 {
    (sweep | NOT_SWEEPING).wrapping_add(1)
}

const BASE_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Reads an LPI's configuration byte and applies it. An LPI whose byte is beyond the table or cannot
/// be read is disabled.
pub(crate) fn reload_lpi_config<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let byte = lpi_config(vm, irq.intid()).unwrap_or(0);
    let changed = irq.update(|state| {
        // Bits 7:2 are the priority, of which five bits are implemented; bit 0 enables.
        state
            .with_priority(byte & 0xfc)
            .with_flag(ENABLED, byte & 1 != 0)
    });
    queue::follow_up(vm, pin, irq, changed.follow_up);
}

fn lpi_config<H: Host>(vm: &Vm<H>, intid: IntId) -> Option<u8> {
    // Acquire: pairs with the AcqRel in `write_base`.
    let base = vm.distributor.propbaser.load(Acquire);
    let index = u64::from(intid.raw().checked_sub(IntId::FIRST_LPI)?);
    // IDbits is one less than the bits of the largest INTID.
    if u64::from(intid.raw()) >> (base & 0x1f) > 1 {
        return None;
    }
    let mut byte = [0];
    let at = (base & BASE_MASK).saturating_add(index);
    vm.host.read_memory(at, &mut byte).ok()?;
    Some(byte[0])
}

/// `GICR_INVALLR` and `GICR_CTLR.EnableLPIs`: reads the configuration of every LPI again.
pub(crate) fn start_sweep<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    // AcqRel: pairs with `advance_sweep`. Always another number, so that no CPU goes on with an old sweep.
    let _ = vm
        .distributor
        .sweep
        .fetch_update(AcqRel, Acquire, |sweep| Some(next_sweep(sweep)));
    advance_sweep(vm, pin);
}

/// Goes on with reading them; whether there is more to read, or another CPU is still at it.
pub(crate) fn advance_sweep<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> bool {
    let distributor = &vm.distributor;
    // Acquire: as in `sweep_slice`; what guests that poll mostly find.
    let more = swept(distributor.sweep.load(Acquire)) < vm.lpis.capacity() && {
        // AcqRel: before the slice is claimed, so that whoever finds nothing left to claim finds us.
        distributor.sweepers.fetch_add(1, AcqRel);
        let more = sweep_slice(vm, pin);
        // AcqRel: whoever does not find us finds what we have done.
        distributor.sweepers.fetch_sub(1, AcqRel);
        more
    };
    // Acquire: as above.
    more || distributor.sweepers.load(Acquire) != 0
}

/// Reads a slice of them; whether there is more to read.
fn sweep_slice<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> bool {
    let end = vm.lpis.capacity();
    let (lpis, guard) = (&vm.lpis, pin.guard());
    // Where this slice begins: with the next LPI that is mapped.
    let first = Cell::new(end);
    // AcqRel: each slice is one CPU's. Acquire: pairs with `start_sweep`.
    let sweep = vm.distributor.sweep.fetch_update(AcqRel, Acquire, |sweep| {
        let at = swept(sweep);
        (at < end).then(|| {
            first.set(lpis.next(at, guard).map_or(end, |(key, _)| key));
            with_swept(sweep, first.get().saturating_add(SWEEP_LPIS))
        })
    });
    if sweep.is_err() {
        return false;
    }
    let mut from = first.get();
    let last = from.saturating_add(SWEEP_LPIS).min(end);
    while from < last
        && let Some((key, irq)) = lpis.next_below(from, last, guard)
    {
        reload_lpi_config(vm, pin, irq);
        from = key.saturating_add(1);
    }
    if last < end {
        vm.defer(DEFERRED_SWEEP);
    }
    last < end
}

/// Starts reading `owner`'s pending table, unless the guest says that it is all zero (PTZ).
pub(crate) fn start_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    // Acquire: pairs with the AcqRel in `write_base`.
    if owner.redistributor.pendbaser.load(Acquire) & (1 << 62) != 0 {
        return;
    }
    // AcqRel: pairs with `advance_pending_table`.
    owner.redistributor.scan.swap(0, AcqRel);
    set_scanning(vm, owner, true);
    advance_pending_table(vm, pin, owner);
}

/// Gives up reading `owner`'s pending table: the guest has disabled LPIs again.
pub(crate) fn stop_pending_table<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    // AcqRel: pairs with `advance_pending_table`.
    owner.redistributor.scan.swap(NOT_SCANNING, AcqRel);
    set_scanning(vm, owner, false);
}

/// Reads one slice of the pending table of some vCPU that has one to be read.
pub(crate) fn advance_pending_tables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    for (index, word) in vm.distributor.scanning.iter().enumerate() {
        // Acquire: pairs with `start_pending_table`.
        let bits = word.load(Acquire);
        if bits != 0 {
            let id = VcpuId::new(index << 6 | bits.trailing_zeros() as usize);
            if let Some(owner) = id.and_then(|id| vm.vcpu(id)) {
                advance_pending_table(vm, pin, owner);
            }
            break;
        }
    }
    // Acquire: as above.
    if vm
        .distributor
        .scanning
        .iter()
        .any(|word| word.load(Acquire) != 0)
    {
        vm.defer(DEFERRED_PENDING_TABLE);
    }
}

/// Reads one slice of `owner`'s pending table: what is pending there, mapped, and routed to it
/// becomes pending.
pub(crate) fn advance_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    let end = vm.lpis.capacity();
    // AcqRel: each slice is one CPU's; pairs with `start_pending_table`.
    let Ok(first) = redistributor.scan.fetch_update(AcqRel, Acquire, |at| {
        (at != NOT_SCANNING).then(|| {
            let next = at.saturating_add(SCAN_LPIS);
            if next < end { next } else { NOT_SCANNING }
        })
    }) else {
        // Stopped, or read to its end, before whoever started it noted it.
        set_scanning(vm, owner, false);
        return;
    };
    // Acquire: pairs with the AcqRel in `write_base`.
    let base = redistributor.pendbaser.load(Acquire) & BASE_MASK & !0xffff;
    // Bits of INTIDs below 8192 come first; they are not used.
    let at = base.saturating_add(u64::from(IntId::FIRST_LPI.saturating_add(first) / 8));
    let mut bytes = [0; SCAN_BYTES];
    if vm.host.read_memory(at, &mut bytes).is_ok() {
        for (eight, byte) in (first..end).step_by(8).zip(bytes) {
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
    if first.saturating_add(SCAN_LPIS) >= end {
        set_scanning(vm, owner, false);
    } else {
        vm.defer(DEFERRED_PENDING_TABLE);
    }
}

/// Whether a vCPU's pending table is being read; if not, what was found pending there is pending.
pub(crate) fn is_scanning<H: Host>(vm: &Vm<H>, owner: &Vcpu) -> bool {
    let (word, bit) = (owner.id.index() / 64, 1 << (owner.id.index() % 64));
    let word = vm.distributor.scanning.get(word);
    // Acquire: pairs with `set_scanning`.
    word.is_some_and(|word| word.load(Acquire) & bit != 0)
}

/// Notes whether a vCPU's pending table is being read.
fn set_scanning<H: Host>(vm: &Vm<H>, owner: &Vcpu, on: bool) {
    let (word, bit) = (owner.id.index() / 64, 1 << (owner.id.index() % 64));
    let Some(word) = vm.distributor.scanning.get(word) else {
        return;
    };
    if !on {
        // AcqRel: pairs with `start_pending_table`: if another CPU has begun anew and noted that before us,
        // we see it below; else its note stays.
        word.fetch_and(!bit, AcqRel);
    }
    // Acquire: as above.
    if on || owner.redistributor.scan.load(Acquire) != NOT_SCANNING {
        // AcqRel: pairs with `advance_pending_tables`.
        word.fetch_or(bit, AcqRel);
        vm.defer(DEFERRED_PENDING_TABLE);
    }
}

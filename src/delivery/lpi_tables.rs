//! The LPI tables in guest memory (IHI 0069, 5.1): configuration at `GICR_PROPBASER`, a byte for
//! each LPI; pending state at `GICR_PENDBASER`, a bit for each INTID.
//!
//! The state word caches the configuration of an LPI. The configuration is read again when the
//! guest invalidates the LPI or enables LPIs. Two CPUs may read the configuration of an LPI at
//! once. The CPU whose reading began first may have an older byte. It does not apply that byte, and
//! reads once more.
//!
//! A pending table is read when the guest enables LPIs, and written when the guest disables LPIs:
//! from then on the table alone has the pending states of the redistributor, and the guest may hand
//! the table, or another, to the next `GICR_PENDBASER`. A write begins once the vCPU has folded the
//! LPIs in its list registers ([`start_store`]): only the fold knows what the guest has
//! acknowledged.
//!
//! All is done in slices. `GICR_SYNCR.Busy` and `GICR_CTLR.RWP` show the guest the completion. A
//! guest that enables LPIs again without waiting for RWP may find old bits in the table.
//!
//! # LPIs in list registers of other vCPUs
//! An LPI that the guest has moved to the vCPU may still be in a list register of the old vCPU. The
//! command that moved the LPI has recalled the old vCPU, and only the old vCPU's fold knows if the
//! LPI is still pending. The slice with the LPI waits for this fold, and RWP stays 1. A poll of RWP
//! tries the slice again. No work is deferred meanwhile: a CPU that does all deferred work before
//! it enters the old vCPU would have no end.
//!
//! # Order of reading and writing
//! At most one of both is in progress. A write waits until every slice of the reading before it is
//! done, because an LPI that the table has and that was not read yet would be overwritten. Reading
//! waits for the slices of a write that it stops.

use core::cell::Cell;

use crate::delivery::stale::Stale;
use crate::delivery::{inject, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::steps::step;
use crate::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU64, Due, Mutant, fence, mutant};
use crate::vm::Vm;
use crate::vm::deferred::{DEFERRED_CONFIG_RELOAD, DEFERRED_PENDING_TABLE};
use crate::vm::irq::{ENABLED, Irq};
use crate::vm::redistributor::{PENDBASER_PTZ, configuration_address, pending_address};
use crate::vm::vcpu::Vcpu;

/// Bytes of a pending table per slice that is read.
// Two bytes under loom, here and below: the tables of the models have two slices.
const SCAN_BYTES: usize = if cfg!(loom) { 2 } else { 64 };
/// LPIs per slice of a pending table: eight a byte.
const SCAN_LPIS: u32 = SCAN_BYTES as u32 * 8;

/// Bytes of a pending table per slice that is written.
const STORE_BYTES: usize = if cfg!(loom) { 2 } else { 16 };
/// LPIs per slice that is written.
const STORE_LPIS: u32 = STORE_BYTES as u32 * 8;

/// LPIs per slice of a reload.
const RELOAD_LPIS: u32 = 256;

/// Reads an LPI's configuration byte and applies the byte. An LPI with a byte beyond the table, or
/// not readable, is disabled.
///
/// A byte is not applied once another CPU has begun a reading: the guest may have changed the byte,
/// and takes the other reading for the last. Each repetition is for such a reading. The caller
/// finishes `stale` afterwards.
pub(crate) fn reload_config<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, stale: &mut Stale) {
    let mut begun = irq.begin_reading();
    loop {
        let byte = config_byte(vm, irq.intid()).unwrap_or(0);
        let changed = irq.update(|state| {
            if irq.readings() != begun && !mutant(Mutant::OldByteApplied) {
                return state;
            }
            // Bits 7:2 are the priority, with five bits implemented; bit 0 enables.
            state
                .with_priority(byte & 0xfc)
                .with_flag(ENABLED, byte & 1 != 0)
        });
        queue::follow_up(vm, pin, irq, changed.follow_up);
        stale.note(vm, pin, irq, changed);

        // An update by a newer byte that comes before the update above is visible, and so is the
        // begin of the reading of that byte.
        let readings = irq.readings();
        if readings == begun || mutant(Mutant::ReadOnce) {
            return;
        }
        begun = readings;
    }
}

/// Reads the configuration byte of an LPI. Returns the number of waits for a physical ITS.
pub(crate) fn reload_one<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> u32 {
    let mut stale = Stale::default();
    reload_config(vm, pin, irq, &mut stale);
    stale.finish(vm, pin)
}

/// Reads the configuration byte of an LPI that has been added to the table of LPIs. Returns the
/// number of waits for a physical ITS.
pub(crate) fn load_config<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> u32 {
    // SeqCst: pairs with the fences in `start_config_reload` and `invalidate`: the other CPU finds
    // the LPI, or this CPU sees the configuration table and `GICR_PROPBASER` as they were then.
    fence(SeqCst);
    reload_one(vm, pin, irq)
}

/// Reads the configuration byte of an LPI again, if the LPI is mapped: `GICR_INVLPIR`.
pub(crate) fn invalidate<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, intid: IntId) {
    // SeqCst: pairs with the fence in `load_config`.
    fence(SeqCst);
    if let Some(irq) = vm.lpi(pin, intid) {
        reload_one(vm, pin, irq);
    }
}

/// Reads an LPI's configuration byte from guest memory.
fn config_byte<H: Host>(vm: &Vm<H>, intid: IntId) -> Option<u8> {
    // Relaxed: the guest writes the register before EnableLPIs. The reload that EnableLPIs starts
    // orders the load, by the claim of a slice or by the fence in `load_config`.
    let base = vm.distributor.propbaser.load(Relaxed);
    let mut byte = [0];
    let at = configuration_address(base, intid.raw())?;
    vm.host.read_memory(at, &mut byte).ok()?;
    Some(byte[0])
}

/// Starts reading the configuration of every LPI again: `GICR_INVALLR`, `GICR_CTLR.EnableLPIs`.
pub(crate) fn start_config_reload<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    // SeqCst: pairs with the fence in `load_config`.
    fence(SeqCst);
    vm.distributor.config_reload.start();
    advance_config_reload(vm, pin);
}

/// Reads the configuration of a slice of LPIs, beginning with the next mapped LPI. The search saves
/// 18 of the 169 instructions of a hypercall while slices are left.
pub(crate) fn advance_config_reload<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let (lpis, end) = (&vm.lpis, vm.config.lpis);
    let next_mapped = |at| Some(lpis.next(at, pin.guard()).map_or(end, |(key, _)| key));
    let Some(slice) = vm
        .distributor
        .config_reload
        .claim(end, RELOAD_LPIS, next_mapped)
    else {
        return;
    };

    let mut stale = Stale::default();
    let mut from = slice.first;
    while from < slice.end
        && let Some((key, irq)) = lpis.next_below(from, slice.end, pin.guard())
    {
        reload_config(vm, pin, irq, &mut stale);
        from = key.saturating_add(1);
    }

    stale.finish(vm, pin);

    if slice.end < end {
        vm.deferred.add(DEFERRED_CONFIG_RELOAD);
    }
}

/// Returns true if a reload is not complete: `GICR_SYNCR.Busy`.
pub(crate) fn is_reloading_config<H: Host>(vm: &Vm<H>) -> bool {
    !vm.distributor.config_reload.is_done(vm.config.lpis)
}

/// Starts reading `owner`'s pending table, unless the guest has declared the table all zeros: the
/// guest has enabled LPIs.
pub(crate) fn start_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    redistributor.store.stop();

    // PTZ says something about this table, now.
    // Relaxed: the guest orders its write of the register before the write of EnableLPIs.
    if redistributor.pendbaser.fetch_and(!PENDBASER_PTZ, Relaxed) & PENDBASER_PTZ != 0 {
        redistributor.scan.stop();
        return;
    }

    redistributor.scan.start();
    note_scan(vm, owner);
    advance_pending_table(vm, pin, owner);
}

/// Asks for `owner`'s pending table to be written once the vCPU has folded its list registers: the
/// guest has disabled LPIs. Before the recall of the vCPU.
pub(crate) fn expect_store(owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    // Relaxed: the write of EnableLPIs has found the bit set, by a write that came after the one of
    // `GICR_PENDBASER`, and has acquired both.
    let base = redistributor.pendbaser.load(Relaxed);
    // Relaxed: published by the round, which is expected afterwards.
    redistributor.store_base.store(base, Relaxed);
    redistributor.store.expect();
}

/// Starts writing `owner`'s pending table, if the table is due and `owner` is on no CPU: no LPI is
/// in a list register. After the recall of the vCPU, or its put. A CPU that has the vCPU starts
/// instead once it has folded: the recall and the vCPU's entry or put are ordered by the residency
/// word.
pub(crate) fn store_if_on_no_cpu<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    if let Some(due) = owner.redistributor.store.due()
        && owner.residency.get_ordered().cpu().is_none()
    {
        start_store(vm, owner, due);
    }
}

/// Leaves the vCPU's pending table alone from the return on: the VM is being taken apart, or reset.
/// Waits for the slices in progress on other CPUs.
pub(crate) fn end(owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    redistributor.store.end();
    redistributor.scan.end();
}

/// Starts writing the vCPU's pending table, which was found due before the vCPU folded the LPIs in
/// its list registers, or was on no CPU. Does nothing if another CPU has started, or if the guest
/// has enabled LPIs since.
#[cold]
pub(crate) fn start_store<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, due: Due) {
    if vcpu.redistributor.store.begin(due) {
        note_scan(vm, vcpu);
    }
}

/// Reads a slice of the pending table of some vCPU with slices left.
pub(crate) fn advance_pending_tables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let scanning = &vm.distributor.scanning;
    for (index, word) in scanning.iter().enumerate() {
        step();
        // Relaxed: `forget_scan` acquires what a note publishes. A table without slices that this
        // CPU sees is looked at once more there.
        let bits = word.load(Relaxed);
        if bits != 0 {
            let id = VcpuId::new(index << 6 | bits.trailing_zeros() as usize);
            // The table of a vCPU that was removed too: only a slice clears the bit.
            if let Some(owner) = id.and_then(|id| vm.vcpus.get(id.index()))
                && (owner.is_present() || !mutant(Mutant::RemovedScanSkipped))
            {
                advance_pending_table(vm, pin, owner);
            }
            break;
        }
    }

    // Relaxed: a CPU that notes a vCPU defers afterwards. An old 0 has its work still deferred; an
    // old 1 costs a look, which ends in `forget_scan`.
    if scanning.iter().any(|word| word.load(Relaxed) != 0) {
        vm.deferred.add(DEFERRED_PENDING_TABLE);
    }
}

/// Reads or writes a slice of `owner`'s pending table.
pub(crate) fn advance_pending_table<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    let end = vm.config.lpis;
    let mut waits = false;

    // A slice that another CPU is at has to be done first; see the module docs.
    if redistributor.scan.has_more(end) {
        if !redistributor.store.is_busy() {
            read_slice(vm, pin, owner);
        }
    } else if redistributor.store.has_more(end) && redistributor.scan.is_done(end) {
        waits = !store_slice(vm, pin, owner);
    }

    if has_slices(vm, owner) && !waits {
        note_scan(vm, owner);
    } else {
        forget_scan(vm, owner, waits);
    }
}

/// Reads a slice of `owner`'s pending table. An LPI pending in the table and mapped becomes
/// pending, on its target: the guest may have moved the LPI while the table had its pending state.
fn read_slice<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) {
    let redistributor = &owner.redistributor;
    let end = vm.config.lpis;
    let Some(slice) = redistributor.scan.claim(end, SCAN_LPIS, Some) else {
        return;
    };

    // Relaxed: ordered by the claim, after the write of EnableLPIs that has started the scan.
    let base = redistributor.pendbaser.load(Relaxed);
    let mut bytes = [0; SCAN_BYTES];
    let Some(at) = table_address(vm, base, slice.first) else {
        return;
    };

    if vm.host.read_memory(at, &mut bytes).is_ok() {
        for (eight, byte) in (slice.first..end).step_by(8).zip(bytes) {
            let mut left = byte;
            while left != 0 {
                let key = eight | left.trailing_zeros();
                left &= left.wrapping_sub(1);
                if let Some(irq) = IntId::lpi(IntId::FIRST_LPI.saturating_add(key))
                    .and_then(|intid| vm.lpi(pin, intid))
                {
                    let _ = inject::raised(vm, pin, irq, irq.raise());
                }
            }
        }
    }
}

/// Writes a slice of `owner`'s pending table: a bit for each LPI that is pending and routed to
/// `owner`, whose pending state moves to the table. If the table cannot be written, the pending
/// states stay. Returns false, claiming no slice, if the next slice waits for a fold.
fn store_slice<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, owner: &Vcpu) -> bool {
    let redistributor = &owner.redistributor;
    let end = vm.config.lpis;

    // A look before the claim: a slice that waits is left for a later call.
    let found = Cell::new(Some([0; STORE_BYTES]));
    let slice = redistributor.store.claim(end, STORE_LPIS, |first| {
        found.set(pending_bits(vm, pin, owner, first));
        found.get().map(|_| first)
    });
    let (Some(slice), Some(mut bytes)) = (slice, found.get()) else {
        return found.get().is_some();
    };

    // Relaxed: ordered by the claim, after `expect_store`.
    let base = redistributor.store_base.load(Relaxed);
    let Some(at) = table_address(vm, base, slice.first) else {
        return true;
    };

    let used = slice.end.wrapping_sub(slice.first) as usize / 8;
    let bytes = bytes.get_mut(..used).unwrap_or_default();
    if vm.host.write_memory(at, bytes).is_err() || bytes.iter().all(|byte| *byte == 0) {
        return true;
    }

    // Bits of LPIs that have been moved, cleared or unmapped since the look above.
    let mut gone = [0; STORE_BYTES];
    gone.get_mut(..used)
        .unwrap_or_default()
        .copy_from_slice(bytes);
    for_each_lpi(vm, pin, slice.first, slice.end, |key, irq| {
        let bit = key.wrapping_sub(slice.first);
        let mask = 1 << (bit % 8);
        if let Some(left) = gone.get_mut(bit as usize / 8)
            && *left & mask != 0
            && let Some(changed) = irq.take_pending(owner.id)
        {
            *left &= !mask;
            queue::complete(vm, pin, irq, changed);
        }
    });

    if gone.iter().any(|byte| *byte != 0) {
        for (byte, gone) in bytes.iter_mut().zip(gone) {
            *byte &= !gone;
        }
        // If the table cannot be written any more, it shows LPIs that are not pending.
        let _ = vm.host.write_memory(at, bytes);
    }

    true
}

/// Returns a bit for each LPI of the slice from `first` on that is pending and routed to `owner`.
/// Returns `None` if events are direct to `owner`, or an LPI routed to it is pending in a list
/// register. The list register is another vCPU's, because `owner` has folded and has LPIs disabled.
fn pending_bits<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    owner: &Vcpu,
    first: u32,
) -> Option<[u8; STORE_BYTES]> {
    let mut bytes = [0; STORE_BYTES];
    // The hardware has the pending states of direct events.
    let slot = (vm.direct.as_deref()).and_then(|direct| direct.slot(owner.id));
    let mut waits = slot.is_some_and(|slot| slot.events() > 0);
    let end = first.saturating_add(STORE_LPIS).min(vm.config.lpis);
    for_each_lpi(vm, pin, first, end, |key, irq| {
        let state = irq.state();
        if state.target() == Some(owner.id) {
            waits |= state.latched_in_lr() && !mutant(Mutant::StorePassesListRegisters);
            let bit = key.wrapping_sub(first);
            if state.latch()
                && let Some(byte) = bytes.get_mut(bit as usize / 8)
            {
                *byte |= 1 << (bit % 8);
            }
        }
    });
    (!waits).then_some(bytes)
}

/// Calls `visit` with the mapped LPIs from `first` to `end`, by key.
fn for_each_lpi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    first: u32,
    end: u32,
    mut visit: impl FnMut(u32, &Irq),
) {
    let mut from = first;
    while from < end
        && let Some((key, irq)) = vm.lpis.next_below(from, end, pin.guard())
    {
        visit(key, irq);
        from = key.saturating_add(1);
    }
}

/// Returns the address of the bit of the LPI `key`, a multiple of 8, in the pending table at
/// `base`; `None` beyond the end of the table, which has the INTIDs of `GICR_PROPBASER.IDbits`.
fn table_address<H: Host>(vm: &Vm<H>, base: u64, key: u32) -> Option<u64> {
    // Relaxed: ordered by the claim, after the write of EnableLPIs.
    let propbaser = vm.distributor.propbaser.load(Relaxed);
    pending_address(propbaser, base, IntId::FIRST_LPI.saturating_add(key))
}

/// Returns true if slices of a vCPU's pending table are left to claim.
pub(crate) fn has_slices<H: Host>(vm: &Vm<H>, owner: &Vcpu) -> bool {
    let redistributor = &owner.redistributor;
    redistributor.scan.has_more(vm.config.lpis) || redistributor.store.has_more(vm.config.lpis)
}

/// Returns true while a vCPU's pending table is being read or written, or has to be written once
/// the vCPU has folded. After the reading, every LPI found pending in the table is pending. After
/// the writing, every LPI that was pending is pending in the table alone.
pub(crate) fn is_busy_with_pending_table<H: Host>(vm: &Vm<H>, owner: &Vcpu) -> bool {
    let redistributor = &owner.redistributor;
    redistributor.store.due().is_some()
        || !redistributor.scan.is_done(vm.config.lpis)
        || !redistributor.store.is_done(vm.config.lpis)
}

/// Notes a vCPU with slices of the pending table left.
fn note_scan<H: Host>(vm: &Vm<H>, owner: &Vcpu) {
    if let Some((word, bit)) = scan_bit(vm, owner) {
        // Release: publishes the slices; pairs with the Acquire in `forget_scan`.
        word.fetch_or(bit, Release);
        vm.deferred.add(DEFERRED_PENDING_TABLE);
    }
}

/// Clears the note of a vCPU without slices of the pending table left, or whose next slice `waits`.
fn forget_scan<H: Host>(vm: &Vm<H>, owner: &Vcpu, waits: bool) {
    if let Some((word, bit)) = scan_bit(vm, owner) {
        // Acquire: pairs with the Release in `note_scan`: if the line below clears the note of a
        // new scan, `has_more` sees the new scan.
        word.fetch_and(!bit, Acquire);
        // A slice that waits was one to write: slices to read are of a new scan.
        let left = if waits {
            owner.redistributor.scan.has_more(vm.config.lpis)
        } else {
            has_slices(vm, owner)
        };
        if left && !mutant(Mutant::ScanForgottenBlindly) {
            note_scan(vm, owner);
        }
    }
}

/// Returns a vCPU's word and bit of `scanning`.
fn scan_bit<'a, H: Host>(vm: &'a Vm<H>, owner: &Vcpu) -> Option<(&'a AtomicU64, u64)> {
    let word = vm.distributor.scanning.get(owner.id.index() / 64)?;
    Some((word, 1 << (owner.id.index() % 64)))
}

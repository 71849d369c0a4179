//! Deferred work: the part of a guest's register writes beyond the bound of a trap.

use crate::delivery::{group_enables, lpi_lifetime, lpi_tables, sgi};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::ItsId;
use crate::its::{command_queue, walks};
use crate::vm::Vm;
use crate::vm::deferred::{
    DEFERRED_BROADCASTS, DEFERRED_CONFIG_RELOAD, DEFERRED_FREE, DEFERRED_GROUPS,
    DEFERRED_PENDING_TABLE,
};

/// Does a bounded slice of each kind of deferred work.
pub(crate) fn advance<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let work = vm.deferred.take();
    advance_others(vm, pin, work);
    for index in 0..vm.its.len() {
        if work & 1 << index != 0 {
            command_queue::advance_its(vm, pin, ItsId(index as u8));
        }
    }
}

/// Defers the commands that wait.
pub(crate) fn defer_commands<H: Host>(vm: &Vm<H>) {
    for its in vm.its.iter().filter(|its| its.is_behind()) {
        vm.deferred.add(1 << its.id.0);
    }
}

/// Does all deferred work but commands that have not been begun, without a bound. No vCPU is on a
/// CPU, and no other CPU does deferred work.
pub(crate) fn settle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    for its in &vm.its {
        walks::finish(vm, pin, its);
    }
    // Left alone: the commands, and LPIs to free, which may have to wait for other CPUs.
    let kept = DEFERRED_FREE | 0xffff;
    let mut left = 0;
    loop {
        let work = vm.deferred.take();
        left |= work & kept;
        if work & !kept == 0 {
            break;
        }
        advance_others(vm, pin, work & !kept);
    }
    vm.deferred.add(left);

    // A table whose next slice waited for a fold, all of which are done.
    for vcpu in vm.added_vcpus() {
        lpi_tables::store_if_on_no_cpu(vm, vcpu);
        while lpi_tables::has_slices(vm, vcpu) {
            lpi_tables::advance_pending_table(vm, pin, vcpu);
        }
    }
}

/// Does a bounded slice of each kind of `work` but commands.
fn advance_others<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, work: u32) {
    if work & DEFERRED_GROUPS != 0 {
        group_enables::advance(vm, pin);
    }

    if work & DEFERRED_BROADCASTS != 0 {
        sgi::advance_broadcasts(vm, pin);
    }

    if work & DEFERRED_PENDING_TABLE != 0 {
        lpi_tables::advance_pending_tables(vm, pin);
    }

    if work & DEFERRED_CONFIG_RELOAD != 0 {
        lpi_tables::advance_config_reload(vm, pin);
    }

    if work & DEFERRED_FREE != 0 {
        lpi_lifetime::advance_free_list(vm, pin);
    }
}

//! Deferred work: the part of a guest's register writes beyond the bound of a trap.

use crate::delivery::{group_enables, lpi_lifetime, lpi_tables, sgi};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::ItsId;
use crate::its::command_queue;
use crate::vm::Vm;
use crate::vm::deferred::{
    DEFERRED_BROADCASTS, DEFERRED_CONFIG_RELOAD, DEFERRED_FREE, DEFERRED_GROUPS,
    DEFERRED_PENDING_TABLE,
};

/// Does a bounded slice of each kind of deferred work.
pub(crate) fn advance<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let work = vm.deferred.take();

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

    for index in 0..vm.its.len() {
        if work & 1 << index != 0 {
            command_queue::advance_its(vm, pin, ItsId(index as u8));
        }
    }
}

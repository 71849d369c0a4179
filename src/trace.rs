//! Trace points and counters.
//!
//! A reference to an interrupt has one of three owners, each traced and counted apart: an ITS
//! *mapping*, an ap_*list*, or a *migration* between two ap_lists. [`crate::irq`] has the table of all
//! transitions that take or put one. A lookup takes none. After a VM is torn down, the gets and puts of
//! each owner are equal.

use crate::intid::{IntId, Kind, VcpuId};
use crate::sync::Counter;

pub use crate::steps::steps;

/// A point where an interrupt's reference count changes, as [`crate::Host::trace`] receives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracePoint {
    /// An ITS mapping took a reference of the LPI: `MAPTI`, `MAPI`.
    MappingGet(IntId),
    /// An ITS mapping put its reference: `DISCARD`, `MAPD`, `MAPTI` of another LPI, teardown.
    MappingPut(IntId),
    /// A CPU that moves the interrupt to another ap_list took over the old list's reference.
    MigrationGet(IntId),
    /// That CPU put the reference, after the new ap_list had taken one of its own.
    MigrationPut(IntId),
    /// The ap_list of the vCPU took its reference when the interrupt was linked.
    ListGet(IntId, VcpuId),
    /// The ap_list of the vCPU put its reference, or handed it to a migration, when the interrupt was
    /// unlinked.
    ListPut(IntId, VcpuId),
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One physical CPU's event counts. Written by that CPU only; any CPU may read them.
        #[derive(Default)]
        pub struct Counters {
            /// Interrupts made pending, by [`Kind`].
            pub injections: [Counter; Kind::COUNT],
            /// Injections that found the interrupt pending already and merged with it, by [`Kind`].
            pub coalesced: [Counter; Kind::COUNT],
            /// Pending states that the guest acknowledged, by [`Kind`].
            pub deliveries: [Counter; Kind::COUNT],
            /// Pending states withdrawn before the guest acknowledged them, by [`Kind`]: cleared by
            /// the guest, unmapped, or a level line that dropped.
            pub withdrawn: [Counter; Kind::COUNT],
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// A copy of [`Counters`], or a sum of several CPUs'.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct Totals {
            /// Interrupts made pending, by [`Kind`].
            pub injections: [u64; Kind::COUNT],
            /// Injections merged with a pending state, by [`Kind`].
            pub coalesced: [u64; Kind::COUNT],
            /// Pending states that the guest acknowledged, by [`Kind`].
            pub deliveries: [u64; Kind::COUNT],
            /// Pending states withdrawn before acknowledgement, by [`Kind`].
            pub withdrawn: [u64; Kind::COUNT],
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            /// Adds what one CPU has counted so far.
            pub fn add(&mut self, counters: &Counters) {
                for kind in Kind::ALL.map(|kind| kind as usize) {
                    self.injections[kind] += counters.injections[kind].get();
                    self.coalesced[kind] += counters.coalesced[kind].get();
                    self.deliveries[kind] += counters.deliveries[kind].get();
                    self.withdrawn[kind] += counters.withdrawn[kind].get();
                }
                $(self.$name += counters.$name.get();)*
            }

            /// Calls `f` with the name and value of every count that is not kept by [`Kind`].
            pub fn for_each(&self, mut f: impl FnMut(&'static str, u64)) {
                $(f(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// LPI and translation lookups.
    lookups,
    /// Locks that this CPU took while it looked something up: 0 unless the design is broken.
    lookup_locks_taken,
    /// References taken by ITS mappings.
    mapping_gets,
    /// References put by ITS mappings.
    mapping_puts,
    /// References that changed from an ap_list to the CPU that moves the interrupt to another one.
    migration_gets,
    /// References put by a CPU that has moved an interrupt to another ap_list.
    migration_puts,
    /// References taken by ap_lists.
    list_gets,
    /// References that ap_lists put or handed to a migration.
    list_puts,
    /// `ICH_LR<n>_EL2` writes.
    ich_lr_writes,
    /// `ICH_LR<n>_EL2` reads.
    ich_lr_reads,
    /// Physical CPUs asked to leave the guest.
    kicks,
    /// Blocked vCPUs woken.
    wakes,
    /// ITS commands executed, failed ones included.
    its_commands,
    /// ITS commands that failed as the architecture lets them fail.
    its_command_errors,
}

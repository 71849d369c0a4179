//! Trace points and counters.
//!
//! References to an interrupt are taken for two reasons, and the two are never mixed: a *lookup*
//! borrows the interrupt for one operation and gives it back itself; a *list* reference belongs to
//! the ap_list from insert to prune. A trace that shows a lookup's get without its put, or a list's
//! put outside prune, shows the bug.

use crate::intid::{IntId, Kind, VcpuId};
use crate::sync::Counter;

pub use crate::steps::steps;

/// A point where an interrupt's reference count changes, as [`crate::Host::trace`] receives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracePoint {
    /// A lookup that outlives its epoch guard's protection took a reference: an ITS mapping, or the
    /// carrier of an interrupt between two lists.
    LookupGet(IntId),
    /// That reference was given back.
    LookupPut(IntId),
    /// The ap_list of the vCPU took its reference: insert.
    ListGet(IntId, VcpuId),
    /// The ap_list of the vCPU dropped its reference: prune.
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
    /// References taken for lookups.
    lookup_gets,
    /// References of lookups given back.
    lookup_puts,
    /// References taken by ap_list insertion.
    list_gets,
    /// References dropped by ap_list prune.
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

//! Trace points and counters.
//!
//! A VM has a reference to each of its SPIs, PPIs and SGIs. Every other reference to an interrupt
//! has one of three owners: an ITS *mapping*, an ap_*list*, or a *migration* between two ap_lists.
//! Each of the three has separate trace points and counters. `vm::irq` has the transitions for gets
//! and puts of references. A lookup takes no reference. After the teardown of a VM, the gets and
//! puts of each of the three are equal.

use core::ops::Index;

use crate::intid::{IntId, Kind, VcpuId};
pub use crate::steps::steps;
pub use crate::sync::Counter;

/// A change of an interrupt's references, for [`crate::Host::trace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracePoint {
    /// Get of an LPI by an ITS mapping: `MAPTI`, `MAPI`.
    MappingGet(IntId),
    /// Put of an LPI by an ITS mapping: `DISCARD`, `MAPD`, `MAPTI` of another LPI, teardown,
    /// reset.
    MappingPut(IntId),
    /// Get by a migration: the migrating CPU takes over the old ap_list's reference.
    MigrationGet(IntId),
    /// Put by a migration, after the new ap_list has taken a reference.
    MigrationPut(IntId),
    /// Get by the ap_list of the vCPU, when the interrupt is linked.
    ListGet(IntId, VcpuId),
    /// Put by the ap_list of the vCPU, or hand-over to a migration, when the interrupt is unlinked.
    ListPut(IntId, VcpuId),
}

/// A value for each [`Kind`].
#[derive(Default, Debug)]
pub struct PerKind<T>([T; Kind::COUNT]);

impl<T> Index<Kind> for PerKind<T> {
    type Output = T;

    #[inline]
    fn index(&self, kind: Kind) -> &T {
        &self.0[kind as usize]
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Event counts of a physical CPU. Only the owning CPU writes the counts; any CPU may read.
        #[derive(Default, Debug)]
        #[non_exhaustive]
        pub struct Counters {
            /// Accepted injections, coalesced ones included, by [`Kind`]. Also pending states that
            /// a line or a register has made.
            pub injections: PerKind<Counter>,
            /// Injections of interrupts pending already, by [`Kind`]: found by the injection, or
            /// by the fold of the list register.
            pub coalesced: PerKind<Counter>,
            /// Pending states acknowledged by the guest, by [`Kind`].
            pub deliveries: PerKind<Counter>,
            /// Pending states withdrawn before acknowledgement, by [`Kind`]: cleared by the guest,
            /// unmapped, or ended by a falling level line.
            pub withdrawn: PerKind<Counter>,
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// A copy of [`Counters`], or the sum of several CPUs' counters.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct Totals {
            /// Accepted injections, coalesced ones included, by [`Kind`]. Also pending states that
            /// a line or a register has made.
            pub injections: [u64; Kind::COUNT],
            /// Injections of interrupts pending already, by [`Kind`]: found by the injection, or
            /// by the fold of the list register.
            pub coalesced: [u64; Kind::COUNT],
            /// Pending states acknowledged by the guest, by [`Kind`].
            pub deliveries: [u64; Kind::COUNT],
            /// Pending states withdrawn before acknowledgement, by [`Kind`].
            pub withdrawn: [u64; Kind::COUNT],
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            /// Adds the current counts of a CPU.
            pub fn add(&mut self, counters: &Counters) {
                for kind in Kind::ALL {
                    let index = kind as usize;
                    self.injections[index] += counters.injections[kind].get();
                    self.coalesced[index] += counters.coalesced[kind].get();
                    self.deliveries[index] += counters.deliveries[kind].get();
                    self.withdrawn[index] += counters.withdrawn[kind].get();
                }
                $(self.$name += counters.$name.get();)*
            }

            /// Calls `f` with the name and value of every count not split by [`Kind`].
            pub fn for_each(&self, mut f: impl FnMut(&'static str, u64)) {
                $(f(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// Lookups of LPIs and of translations.
    lookups,
    /// Locks taken during lookups; always 0, because a lookup is lock-free.
    lookup_locks_taken,
    /// References taken by ITS mappings.
    mapping_gets,
    /// References put by ITS mappings.
    mapping_puts,
    /// References taken over from ap_lists by migrations.
    migration_gets,
    /// References put by migrations.
    migration_puts,
    /// References taken by ap_lists.
    list_gets,
    /// References put, or handed to a migration, by ap_lists.
    list_puts,
    /// Writes of `ICH_LR<n>_EL2`.
    ich_lr_writes,
    /// Reads of `ICH_LR<n>_EL2`.
    ich_lr_reads,
    /// IPIs to physical CPUs in the guest ([`crate::Host::kick`]).
    kicks,
    /// Blocked vCPUs woken ([`crate::Host::wake`]).
    wakes,
    /// Residencies of virtual PEs begun, by a load, or by an entry after a block.
    vpe_residencies,
    /// Doorbells of virtual PEs ([`crate::Vgic::doorbell`]).
    doorbells,
    /// SGIs made pending in the hardware, as virtual SGIs of GICv4.1.
    virtual_sgis,
    /// Events that became direct: their MSIs reach the hardware's virtual LPIs from then on.
    direct_begins,
    /// Direct events that went back to list registers.
    direct_ends,
    /// ITS commands executed, failed commands included.
    its_commands,
    /// ITS commands failed with a [`crate::CommandError`].
    its_command_errors,
}

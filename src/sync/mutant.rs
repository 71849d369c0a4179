//! Deliberate faults, by which the models show that they would notice.
//!
//! A fault is a single line where it is made, `if mutant(Mutant::X)` or the like, and this is the list of
//! all. They exist only in builds with `--cfg loom --cfg vgic_mutants`, in which `loom-tests` selects one
//! at run time; in every other build [`mutant`] is the constant `false` and nothing is left of them.

use super::Ordering;

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident: $protocol:literal, $test:literal, $record:literal;)*) => {
        /// A fault: what is broken.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(
            not(vgic_mutants),
            expect(unreachable_pub, dead_code, reason = "some are made in mutated builds only")
        )]
        pub enum Mutant { $($(#[doc = $what])+ $name,)* }

        /// All faults.
        #[cfg(vgic_mutants)]
        pub const MUTANTS: &[Fault] = &[$(Fault {
            mutant: Mutant::$name,
            name: stringify!($name),
            what: concat!($($what),+),
            protocol: $protocol,
            test: $test,
            record: $record,
        },)*];
    };
}

/// What is known of a fault.
#[cfg(vgic_mutants)]
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The fault.
    pub mutant: Mutant,
    /// Its name.
    pub name: &'static str,
    /// What is broken.
    pub what: &'static str,
    /// The protocol whose models have to fail.
    pub protocol: &'static str,
    /// The one of them that has to.
    pub test: &'static str,
    /// The public record of the same fault elsewhere, if there is one.
    pub record: &'static str,
}

// Name: the protocol and its model that catch it, and the public record that it re-creates.
mutants! {
    /// A dead node of the table is freed at once, not after its readers.
    NodeFreedAtOnce: "radix", "reclamation_against_lookup", "";
    /// An inserter goes into a node that is dead: plain increment instead of increment-if-not-dead.
    DeadNodeEntered: "radix", "insertion_against_removal", "";
    /// A node dies of its last leave without looking whether somebody has entered since.
    NodeDiesUnchecked: "radix", "insertion_against_removal", "";
    /// A value is put into the table with Relaxed instead of Release.
    SlotFilledRelaxed: "radix", "publication", "";

    /// Whoever puts an LPI's last reference empties the INTID's slot, whatever is in it by then.
    ReleaserErasesSuccessor: "lpi_lifetime", "remap_against_the_free_list", "CVE-2026-74568";
    /// A new mapping takes a reference of a dying LPI: plain increment instead of increment-if-not-zero.
    DyingRevived: "lpi_lifetime", "remap_against_the_last_put", "";
    /// Under the list's lock, insertion checks again only where the LPI is routed: it may be freed by then.
    InsertedAfterFree: "lpi_lifetime", "injection_against_discard", "CVE-2026-72288";
    /// An LPI is freed with its last reference, though whoever has translated to it holds none.
    TranslationWithoutReference: "lpi_lifetime", "injection_against_discard", "CVE-2024-26598";
    /// The end of the last mapping leaves what is pending.
    UnmappedStaysPending: "lpi_lifetime", "injection_against_discard", "";
    /// The end of a mapping does not reach what is pending in a list register.
    UnmapMissesListRegister: "lpi_lifetime", "remap_in_a_list_register", "";

    /// Insertion does not check under the lock whether the interrupt has been queued.
    LinkedTwice: "inject", "injection_against_movi", "";
    /// A CPU puts an interrupt into a list register of its own vCPU without looking whether it is queued.
    StagedTwice: "inject", "staging_against_two_moves", "";
    /// A raise is skipped after a look at a latch that is set.
    RaiseLooksFirst: "inject", "injection_publishes_what_came_before", "";
    /// A raise is Relaxed instead of AcqRel.
    RaiseRelaxed: "inject", "injection_publishes_what_came_before", "";
    /// A transition is a load and a store instead of a compare-and-swap.
    StoredTransition: "inject", "injection_against_disable", "";

    /// Fold drops the list's reference while the interrupt is still listed.
    FoldDropsReference: "fold_prune", "put_against_injection", "the review of KVM's vGIC in 2016";
    /// Fold overwrites a latch that was set since the interrupt was loaded.
    FoldOverwritesLatch: "fold_prune", "exit_against_injection", "";
    /// An edge that comes while the last one is in a list register does not kick the vCPU.
    RaisedAgainWithoutKick: "fold_prune", "injection_while_in_the_guest", "an edge raised again in the guest";

    /// A queued interrupt that was routed away stays on the old vCPU's list.
    StaysOnTheOldList: "retarget", "retarget_against_the_old_vcpu", "";
    /// An interrupt that is carried to another vCPU is not inserted there.
    MigrationForgotten: "retarget", "movi_from_a_blocked_vcpu", "";
    /// The vCPU that an interrupt is inserted on is not told.
    NewTargetNotTold: "retarget", "router_from_a_blocked_vcpu", "a new target that was not kicked";

    /// A producer looks where the vCPU is before it publishes, not after.
    LooksBeforePublishing: "kick", "publish_against_reentry", "";
    /// Entry overwrites work that came since it looked.
    EntryDropsWork: "kick", "publish_against_reentry", "";
    /// A vCPU goes to sleep without looking again once it counts as blocked.
    SleepsWithoutLooking: "kick", "publish_against_block", "a WFI decided on a stale view";
    /// Every producer sends an IPI.
    EveryProducerKicks: "kick", "one_ipi_for_two", "";
    /// A CPU gives a vCPU's registers up with Relaxed instead of Release.
    PutRelaxed: "kick", "put_against_entry_elsewhere", "";

    /// Fold takes what came from the line for a latch.
    LineFoldedAsLatch: "level", "drop_against_put", "a level kept in software";
    /// A line that drops while the interrupt is in a list register is not noted.
    DropNotNoted: "level", "drop_against_entry", "";

    /// An SGI is not sent to a vCPU that seems to have one pending already.
    SgiSkipped: "sgi", "broadcast_against_acknowledgement", "";

    /// `ICPENDR` does not reach what is pending in a list register.
    ClearMissesListRegister: "clear_pending", "icpendr_against_put", "";
    /// Fold keeps the note that a pending state is void, and the next one is void too.
    CancelOutlivesFold: "clear_pending", "icpendr_and_injection_against_put", "";

    /// A vCPU leaves its CPU with interrupts in list registers.
    RegistersForgotten: "teardown", "power_off_against_injection", "a vCPU destroyed with interrupts on it";
    /// Teardown leaves the lists as they are.
    ListsForgotten: "teardown", "the_last_one_takes_it_apart", "";

    /// The old topology is freed at once, not after its readers.
    TopologyFreedAtOnce: "snapshot", "readers_see_the_old_or_the_new", "";
    /// A new topology is published with Relaxed instead of Release.
    TopologyPublishedRelaxed: "snapshot", "readers_see_the_old_or_the_new", "";

    /// An interrupt is unlinked, the list's lock let go, and its move decided under it once more.
    UnlinkedTwice: "enable_lpis", "disable_against_two_moves", "CVE-2026-72289";
    /// EnableLPIs = 0 does not call back what is in list registers.
    DisabledWithoutRecall: "enable_lpis", "disable_against_reentry", "LPIs delivered with EnableLPIs = 0";

    /// A CPU counts as busy only once it has claimed its slice.
    BusyAfterTheClaim: "slices", "done_against_two_claims", "";
    /// A new round of slices cannot be told from the old one.
    RoundWithoutNumber: "slices", "start_against_a_claim", "";

    /// Two CPUs drain the same mappings at once, and each gives back the one reference.
    DrainedTwice: "its_pair", "drain_against_drain", "CVE-2026-46316";
    /// Whether a put was the last is looked up after it, and may be found by two.
    LastPutByLook: "its_pair", "discard_against_discard", "";
    /// The end of one mapping makes the LPI deaf, though the other ITS still maps it.
    UnmappedForAll: "its_pair", "discard_against_injection", "an LPI unmapped by another ITS";
}

/// The selected fault, as its index in [`MUTANTS`], or none.
#[cfg(vgic_mutants)]
static SELECTED: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(usize::MAX);

/// Selects a fault; before the first use of the library.
#[cfg(vgic_mutants)]
pub fn select(mutant: Mutant) {
    SELECTED.store(mutant as usize, core::sync::atomic::Ordering::Relaxed);
}

/// Whether the fault is to be made.
#[cfg(vgic_mutants)]
pub(crate) fn mutant(mutant: Mutant) -> bool {
    SELECTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as usize
}

/// Whether the fault is to be made: no.
#[cfg(not(vgic_mutants))]
#[inline]
pub(crate) const fn mutant(_: Mutant) -> bool {
    false
}

/// `order`, or Relaxed if the fault is to be made.
#[inline]
pub(crate) fn relaxed_by(mutant: Mutant, order: Ordering) -> Ordering {
    if self::mutant(mutant) {
        Ordering::Relaxed
    } else {
        order
    }
}

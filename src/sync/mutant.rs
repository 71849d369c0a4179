//! Deliberate faults: proof that the models detect errors.
//!
//! The library makes a fault by a line like `if mutant(Mutant::X)`. Faults exist only in builds
//! with `--cfg loom --cfg vgic_mutants`, and `loom-tests` selects a fault at run time. In every
//! other build [`mutant`] is the constant `false`, and no code of a fault is left.

use super::Ordering;

macro_rules! mutants {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $protocol:literal, $test:literal, $record:literal;
    )*) => {
        /// A deliberate fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(
            not(vgic_mutants),
            expect(unreachable_pub, dead_code, reason = "some are made in mutated builds only")
        )]
        pub enum Mutant { $($(#[doc = $doc])+ $name,)* }

        /// All faults.
        #[cfg(vgic_mutants)]
        pub const MUTANTS: &[MutantRecord] = &[$(MutantRecord {
            mutant: Mutant::$name,
            name: stringify!($name),
            what: concat!($($doc),+),
            protocol: $protocol,
            test: $test,
            record: $record,
        },)*];
    };
}

/// Description of a fault.
#[cfg(vgic_mutants)]
#[derive(Clone, Copy, Debug)]
pub struct MutantRecord {
    /// The fault.
    pub mutant: Mutant,
    /// Name of the fault.
    pub name: &'static str,
    /// Sentence that states the fault.
    pub what: &'static str,
    /// Protocol whose models detect the fault.
    pub protocol: &'static str,
    /// Model of the protocol that must fail.
    pub test: &'static str,
    /// Public record of a like fault elsewhere, or empty.
    pub record: &'static str,
}

// Name: the protocol and the model that detect the fault, and the public record of a like fault.
mutants! {
    /// A dead node of the table is freed at once, before its last reader is done.
    NodeFreedAtOnce: "radix", "reclamation_against_lookup", "";
    /// An inserter joins a dead node: the count is incremented without checking for death.
    DeadNodeEntered: "radix", "insertion_against_removal", "";
    /// The last leave of a node kills it without checking for a new inserter.
    NodeDiesUnchecked: "radix", "insertion_against_removal", "";
    /// An inserter that unlinks a dead node for another CPU does not count it out of the parent.
    HelperKeepsCount: "radix", "two_levels_of_one_node", "";
    /// A dead node is counted out of its parent by its last CPU, though another has unlinked it.
    ChildCountedOutTwice: "radix", "two_levels_of_one_node", "";
    /// An inserter keeps the count of a node that another CPU has grown first.
    FailedGrowthKeepsCount: "radix", "two_levels_against_growth", "";
    /// A value is inserted into the table with Relaxed instead of Release.
    SlotFilledRelaxed: "radix", "publication", "";

    /// The CPU that puts an LPI's last reference empties the INTID's slot without comparing the
    /// value.
    ReleaserErasesSuccessor: "lpi_lifetime", "remap_against_the_free_list", "CVE-2026-74568";
    /// A new mapping takes a reference of a dying LPI: the count is incremented even from zero.
    DyingRevived: "lpi_lifetime", "remap_against_the_last_put", "";
    /// Insertion rechecks only the target under the list's lock, and links an LPI without
    /// references.
    InsertedAfterFree: "lpi_lifetime", "injection_against_discard", "CVE-2026-72288";
    /// An LPI is freed with its last reference, while a CPU still uses a translation to the LPI.
    TranslationWithoutReference: "lpi_lifetime", "injection_against_discard", "CVE-2024-26598";
    /// The end of the last mapping leaves the LPI pending.
    UnmappedStaysPending: "lpi_lifetime", "injection_against_discard", "";
    /// An LPI is pushed onto the free list with Relaxed instead of Release.
    FreeListPushedRelaxed: "lpi_lifetime", "exit_against_the_free_list", "";
    /// An LPI is popped from the free list with Relaxed instead of Acquire.
    FreeListPoppedRelaxed: "lpi_lifetime", "exit_against_the_free_list", "";
    /// The ITS puts the mapping's reference before it empties the event's slot.
    PutBeforeUnmapped: "lpi_lifetime", "injection_against_the_last_put", "";
    /// The end of a mapping does not cancel the pending state in a list register.
    UnmapMissesListRegister: "lpi_lifetime", "remap_in_a_list_register", "";

    /// Insertion does not check under the lock if the interrupt is already queued.
    LinkedTwice: "inject", "injection_against_disable_and_enable", "";
    /// A CPU fills a list register of its own vCPU without checking if the interrupt is already
    /// queued.
    StagedTwice: "inject", "staging_against_two_moves", "";
    /// A transition is a load and a store instead of a compare-and-swap.
    StoredTransition: "inject", "injection_against_disable", "";

    /// A raise is skipped if a load shows the latch set.
    RaiseLooksFirst: "publication", "coalesced_edge_of_a_ppi", "";
    /// A raise is Relaxed instead of Release.
    RaiseRelaxed: "publication", "edge_of_an_spi", "";
    /// A change of a line is Relaxed instead of Release.
    LineRelaxed: "publication", "line_of_a_ppi", "";
    /// Every transition by compare-and-swap is Relaxed instead of AcqRel.
    TransitionRelaxed: "publication", "forward_of_an_spi", "";
    /// Every transition is Relaxed instead of Release or AcqRel.
    EveryTransitionRelaxed: "publication", "msi", "";

    /// Fold puts the list's reference while the interrupt is still linked.
    FoldDropsReference: "fold_prune", "put_against_injection", "the review of KVM's vGIC in 2016";
    /// Fold clears a latch that was set after the list register was filled.
    FoldOverwritesLatch: "fold_prune", "exit_against_injection", "";
    /// A new edge does not kick the vCPU while the last edge is in a list register.
    RaisedAgainWithoutKick: "fold_prune", "injection_while_in_the_guest",
        "an edge raised again in the guest";

    /// A queued interrupt that was routed away stays on the old vCPU's list.
    StaysOnTheOldList: "retarget", "retarget_against_the_old_vcpu", "";
    /// A migrating interrupt is not inserted on the new vCPU's list.
    MigrationForgotten: "retarget", "movi_from_a_blocked_vcpu", "";
    /// Insertion does not notify the vCPU.
    NewTargetNotNotified: "retarget", "router_from_a_blocked_vcpu", "a new target not kicked";

    /// A producer reads the vCPU's residency before publishing the work, not after.
    LooksBeforePublishing: "kick", "publish_against_block", "";
    /// Entry overwrites work that was published after the entry read the work bits.
    EntryDropsWork: "kick", "publish_against_entry_after_a_look", "";
    /// A vCPU blocks without checking for work after the blocked bit is set.
    SleepsWithoutLooking: "kick", "sleep_against_block", "a WFI decided on a stale view";
    /// An entry goes into the guest without a look at the work that came since the last one.
    EntersUnlooked: "kick", "publish_against_reentry", "";
    /// An entry after a block goes into the guest with the list registers as the block left them.
    EntersAsBlocked: "kick", "publish_against_block_and_entry", "";
    /// A vCPU that blocks stays marked as running.
    RunsAsleep: "kick", "sleep_against_block", "";
    /// A vCPU to which nothing can be signalled blocks by a store, over work that has just come.
    IdleBlockedByStore: "kick", "publish_against_block", "";
    /// A CPU kicks itself for work that it gives its own vCPU, out of the guest.
    OwnWorkKicks: "kick", "own_work_against_anothers", "";
    /// A producer kicks a vCPU that another producer has already kicked.
    EveryProducerKicks: "kick", "one_ipi_for_two", "";
    /// A CPU puts a vCPU with Relaxed instead of AcqRel.
    PutRelaxed: "kick", "put_against_entry_elsewhere", "";
    /// A vCPU enters with Relaxed instead of AcqRel.
    EnterRelaxed: "kick", "publish_against_entry_after_a_look", "";
    /// A vCPU out of the guest takes its work with Relaxed instead of Acquire.
    TakeWorkRelaxed: "inject", "again_against_sleep_in_the_handler", "";
    /// A register read takes a recall that was consumed for the fold that follows.
    RecallIsNoFold: "kick", "read_against_reentry", "";
    /// A vCPU blocks with Relaxed instead of Release.
    BlockRelaxed: "kick", "read_against_block", "";
    /// A vCPU that was recalled shows the states of its list registers with Relaxed instead of
    /// Release.
    ShownRelaxed: "kick", "read_against_recall", "";
    /// A new edge of an interrupt in a list register is taken from the work of a vCPU that wants to
    /// sleep, and forgotten.
    ReraisedSleptThrough: "inject", "again_against_sleep_in_the_handler", "";

    /// Fold latches a pending state that came from a level line.
    LineFoldedAsLatch: "level", "drop_against_put", "a level kept in software";
    /// A line that drops does not recall the interrupt from a list register.
    DropNotNoted: "level", "drop_against_entry", "";

    /// A vCPU that RWP waits for is counted only after its flag is set.
    FlagBeforeCount: "rwp", "two_writers_and_two_vcpus", "";
    /// A write that waits for a vCPU does not have the vCPU looked at again.
    WaitingOverlooked: "rwp", "two_writers_of_one_interrupt", "";
    /// A write that RWP covers is not counted as in progress.
    WriteNotCounted: "rwp", "two_writers_of_one_interrupt", "";
    /// A read of `GICD_CTLR` takes RWP first, and then the enables.
    RwpBeforeEnables: "rwp", "groups_against_a_reader", "";

    /// An SGI is not sent to a vCPU on which the SGI appears pending.
    SgiSkipped: "sgi", "broadcast_against_acknowledgement", "";
    /// The sender of a broadcast is left out, though an earlier one has still to reach it.
    SenderOwedNothing: "sgi", "broadcast_against_broadcast", "";
    /// A broadcast that joins another one goes no further than that one.
    JoinedHalfway: "sgi", "broadcast_against_broadcast", "";

    /// `ICPENDR` does not cancel the pending state in a list register.
    ClearMissesListRegister: "clear_pending", "icpendr_against_put", "";
    /// Fold keeps the cancel bit of a pending state, and the next pending state is cancelled too.
    CancelOutlivesFold: "clear_pending", "icpendr_and_injection_against_put", "";

    /// A vCPU is put without folding its list registers.
    RegistersForgotten: "teardown", "power_off_against_injection",
        "a vCPU destroyed with interrupts on it";
    /// Teardown leaves the interrupts on the ap_lists.
    ListsForgotten: "teardown", "the_last_one_takes_it_apart", "";
    /// A removal claims the vCPU by a load and a store instead of a compare-and-swap.
    RemovedByStore: "hotplug", "removal_against_power_on", "";
    /// A removal leaves the routes of SPIs alone.
    RemovedKeepsRoutes: "hotplug", "removal_against_an_spi", "";
    /// A removal leaves the target of SGIs and PPIs alone.
    RemovedKeepsPrivates: "hotplug", "removal_against_an_sgi", "";
    /// A removal leaves the LPIs of the vCPU where they are.
    RemovedKeepsLpis: "hotplug", "removal_against_an_msi", "";
    /// A removal leaves the collections of the vCPU mapped.
    RemovedKeepsCollections: "hotplug", "removal_against_a_command", "";
    /// The pending table of a vCPU that has been removed is passed over while slices are left.
    RemovedScanSkipped: "hotplug", "removal_against_a_pending_table", "";
    /// A vCPU that is added again keeps the changes made since its removal.
    AddedWithOldState: "hotplug", "removal_against_an_sgi", "";
    /// A freeze looks at an interrupt's state first, and takes the pending latch then.
    FreezeLooksFirst: "freeze", "freeze_against_raises", "";
    /// A frozen VM goes on with the commands that its state has.
    FrozenExecutes: "freeze", "freeze_against_a_command", "";
    /// Teardown claims a vCPU by a load and a store instead of a compare-and-swap.
    TornDownByStore: "teardown", "teardown_against_entry", "a VM destroyed with a vCPU loaded";

    /// A forward checks the connection before the raise, not in the raise.
    ForwardLooksFirst: "physical", "forward_against_disconnect",
        "a physical line dead for its next owner";
    /// An interrupt is connected to another physical interrupt before the CPU that deactivates the
    /// old one has read its number.
    ConnectedTooEarly: "physical", "icpendr_against_reconnection", "";
    /// Another CPU than the vCPU's takes a physical PPI from the state word.
    ReleasedElsewhere: "physical", "icactiver_against_put", "";
    /// A PPI is connected before the vCPU's put knows of the PPI.
    ConnectedBeforeNoted: "physical", "connect_against_forward_and_put", "";
    /// A put leaves a physical PPI with the vCPU.
    PutKeepsThePpi: "physical", "icactiver_against_put",
        "a vCPU moved while its PPI is active";
    /// Teardown leaves physical interrupts active.
    TeardownKeepsPhysical: "physical", "forward_against_teardown",
        "a guest that dies with forwarded interrupts active";
    /// The host is told of a register's new value once, without a second look.
    ReportedOnce: "physical", "isenabler_against_icenabler",
        "enable and disable of one line race";

    /// The old topology is freed at once, before its last reader is done.
    TopologyFreedAtOnce: "snapshot", "readers_see_the_old_or_the_new", "";
    /// A new topology is published with Relaxed instead of AcqRel.
    TopologyPublishedRelaxed: "snapshot", "readers_see_the_old_or_the_new", "";

    /// An interrupt is unlinked under the list's lock, but pruned after the lock was released and
    /// retaken.
    UnlinkedTwice: "enable_lpis", "disable_against_two_moves", "CVE-2026-72289";
    /// Clearing EnableLPIs does not recall the LPIs in list registers.
    DisabledWithoutRecall: "enable_lpis", "disable_against_reentry",
        "LPIs delivered with EnableLPIs = 0";
    /// An entry fills a list register with an LPI although EnableLPIs is 0.
    DisabledLpiFilled: "enable_lpis", "disable_against_retarget",
        "LPIs delivered with EnableLPIs = 0";
    /// A CPU fills a list register of its own vCPU with an LPI although EnableLPIs is 0.
    DisabledLpiStaged: "enable_lpis", "disable_against_staging",
        "LPIs delivered with EnableLPIs = 0";
    /// A vCPU that leaves its CPU does not start the writing of a pending table that waits.
    StoreForgotten: "enable_lpis", "store_against_put", "";
    /// A pending table is written while an LPI of the vCPU is in a list register of another vCPU.
    StorePassesListRegisters: "enable_lpis", "store_against_a_move", "";

    /// A sender of an SGI of a GICv2 raises the SGI before it adds its source.
    RaisedBeforeSource: "sgi_sources", "two_senders_against_acknowledge", "";
    /// A vCPU that acknowledges an SGI of a GICv2 does not raise it again for the other sources.
    OtherSourceForgotten: "sgi_sources", "two_senders_against_acknowledge", "";
    /// A vCPU that clears the last source of an SGI of a GICv2 does not look for a new one.
    ClearedSourceForgotten: "sgi_sources", "sender_against_clear", "";

    /// A CPU interface of a GICv2 that changes does not route SPIs with several targets anew.
    ChangedUnsettled: "targets", "one_closes_as_the_other_opens", "";
    /// A CPU interface of a GICv2 publishes its change without a full fence.
    PublishedWithoutFence: "targets", "one_closes_as_the_other_opens", "";

    /// A CPU that does not apply a byte of an LPI's configuration, because another CPU has begun a
    /// reading, does not read once more.
    ReadOnce: "guest_memory", "invalidation_that_disables", "";
    /// A CPU applies the byte of an LPI's configuration although another CPU has begun a reading.
    OldByteApplied: "guest_memory", "invalidation_that_disables", "";

    /// `GITS_CREADR` is written with Relaxed instead of Release after a command.
    CommandDoneRelaxed: "its_registers", "poll_against_two_commands", "";

    /// An LPI is noted as work for `Vgic::advance` before it is pushed onto the free list.
    DeferredBeforePushed: "deferred", "two_frees_and_two_advances", "";
    /// A CPU takes deferred work over by a load and a store instead of a swap.
    DeferredTakenByStore: "deferred", "free_against_an_idle_advance", "";
    /// A CPU that clears the note of a pending table does not look for slices once more.
    ScanForgottenBlindly: "deferred", "scan_against_the_last_store", "";
    /// A CPU that finds an ITS's command lock taken leaves its commands to the holder.
    LockedOutForgets: "deferred", "command_against_a_slice", "";
    /// A read of `GITS_CTLR` takes Quiescent first, and then Enabled.
    QuiescentBeforeEnabled: "deferred", "quiescent_against_enable", "";

    /// A CPU is counted as busy only after the claim of its slice.
    BusyAfterTheClaim: "slices", "done_against_two_claims", "";
    /// A CPU that found a round due begins whichever round is due.
    AnyRoundBegun: "slices", "begin_against_stop_and_expect", "";
    /// The end of a task does not wait for the slices in progress.
    EndsAmidASlice: "slices", "end_against_a_claim", "";
    /// A new round of slices has the number of the old round.
    RoundWithoutNumber: "slices", "start_against_a_claim", "";

    /// A CPU that has set the epoch's brake does not look for releases that came meanwhile.
    ReleaseMissed: "epoch", "begin_against_end", "";

    /// A holder releases a lock with Relaxed instead of Release.
    TicketServedRelaxed: "tickets", "a_section_sees_the_last_one", "";
    /// A CPU draws the ticket being served by a load and a store instead of a compare-and-swap.
    TicketDrawnByLook: "tickets", "attempts_against_a_wait", "";

    /// A block takes no account of the virtual LPIs that came before the virtual PE left.
    PendingLastUnread: "direct", "msi_against_block", "";
    /// A doorbell's handler notes the virtual LPI only after it has given the vCPU work.
    DoorbellNotedLate: "direct", "msi_against_a_second_block", "";
    /// A doorbell's handler disables the doorbell after it has given the vCPU work.
    DoorbellDisabledLate: "direct", "late_doorbell_against_block", "";
    /// A virtual PE of GICv4.1 whose vCPU blocks does not ask for its doorbell.
    NoDoorbellAsked: "direct", "msi_against_block_with_a_default_doorbell", "";
    /// A changed configuration of virtual SGIs is not brought to the hardware.
    StaleSgisForgotten: "direct", "a_change_of_a_virtual_sgi_against_entry", "";
    /// A put gives the vCPU up before its virtual PE has left the CPU.
    PutBeforeLeave: "direct", "put_against_entry_elsewhere", "";
    /// A vCPU that has got a virtual PE, in the guest or blocked, is not recalled.
    VpeWithoutRecall: "direct", "first_change_against_block", "";
    /// An event that becomes direct leaves the pending state of its physical LPI behind.
    PhysicalLpiForgotten: "direct", "msis_against_the_way_to_hardware", "";
    /// An event that becomes direct leaves the pending state of its LPI behind.
    LatchForgotten: "direct", "msis_against_the_way_to_hardware", "";
    /// An event that ceases to be direct leaves its pending state behind.
    VirtualLpiForgotten: "direct", "msis_against_the_way_to_list_registers", "";

    /// Two CPUs drain the same mappings at once, and each puts the mapping's single reference.
    DrainedTwice: "its_pair", "drain_against_drain", "CVE-2026-46316";
    /// A put loads the state again to decide if the put was the last, so two CPUs may both decide
    /// so.
    LastPutByLook: "its_pair", "discard_against_discard", "";
    /// The end of one mapping unmaps the LPI, although the other ITS still maps the LPI.
    UnmappedForAll: "its_pair", "discard_against_injection", "an LPI unmapped by another ITS";
}

/// Index of the selected fault in [`MUTANTS`], or `usize::MAX` for none.
#[cfg(vgic_mutants)]
static SELECTED: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(usize::MAX);

/// Selects a fault. Call before the first use of the library.
#[cfg(vgic_mutants)]
pub fn select(mutant: Mutant) {
    SELECTED.store(mutant as usize, core::sync::atomic::Ordering::Relaxed);
}

/// Returns true if the fault is selected.
#[cfg(vgic_mutants)]
pub(crate) fn mutant(mutant: Mutant) -> bool {
    SELECTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as usize
}

/// Returns false: only builds with `--cfg vgic_mutants` make faults.
#[cfg(not(vgic_mutants))]
#[inline]
pub(crate) const fn mutant(_: Mutant) -> bool {
    false
}

/// Returns `order`, or Relaxed if the fault is selected.
#[inline]
pub(crate) fn weakened_by(mutant: Mutant, order: Ordering) -> Ordering {
    if self::mutant(mutant) {
        Ordering::Relaxed
    } else {
        order
    }
}

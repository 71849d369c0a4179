//! The programs of the CPUs: the place of each, and the steps from there.

use crate::scenario::{Fault, Role, Scenario};
use crate::state::{Sent, State, V};
use crate::{deferred, owner, producer, teardown, writer};

/// The place of a CPU in its program, before a step. A step is one access to a word that CPUs
/// share, one section under the lock of an ap_list, or one action of a guest or of the embedder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Pc {
    /// There is no such CPU.
    Absent,

    // Owners: `owner`.
    /// The CPU has no vCPU.
    Away,
    /// Loads a vCPU that was found out of the guest; true if found with RECALL.
    Load(V, bool),
    /// Clears the flags of the registers that wait.
    ClearFlags(V, Then),
    /// Counts off a vCPU whose flag of `GICD_CTLR` was set.
    CountOff(V, Then),
    /// Marks the vCPU as in the guest; true if the vCPU has just been loaded.
    Enter(V, bool),
    /// Updates the list registers for the work that was consumed.
    Update(V, Work, Then),
    /// The guest runs.
    Guest(V),
    /// Folds after an exit, and shows the states if the vCPU was recalled (true).
    FoldExit(V, bool),
    /// The vCPU is out of the guest.
    Out(V),
    /// Takes the work of a vCPU that wants to sleep.
    TakeWork(V),
    /// Looks for an interrupt that is signalled.
    LookForSignal(V),
    /// Marks the vCPU as blocked.
    Block(V),
    /// Ends the blocking of a vCPU with work.
    Unblock(V),
    /// The vCPU is blocked.
    Asleep(V),
    /// Folds all list registers; true if the vCPU is powered off.
    FoldAll(V, bool),
    /// Looks for a recall of a vCPU that is put; true if the vCPU is powered off.
    LookForRecall(V, bool),
    /// Powers the vCPU off.
    PowerOff(V),
    /// Gives up the vCPU.
    Put(V),

    // Producers, and the notifications of all: `producer`.
    /// The producer has no interrupt.
    Idle,
    /// Gives a vCPU work.
    Notify(V, u16, Next),
    /// Sends a kick.
    Kick(Sent, Next),

    // Writers, and readers of RWP: `writer`.
    /// Counts a write that disables an interrupt.
    BeginWrite,
    /// Counts a write of the group enables, and closes the groups.
    CloseGroups,
    /// Disables the interrupt.
    Disable,
    /// Looks if the vCPU, which was recalled, is in the guest.
    Expect(V),
    /// Counts the vCPU.
    CountOn(V),
    /// Sets the vCPU's flag of `GICD_CTLR`.
    SetFlag(V),
    /// Counts off a vCPU whose flag was there before.
    CountBack(V),
    /// Has every vCPU looked at once more, after the flag of this one was set.
    Renew(V),
    /// Ends the write.
    EndWrite,
    /// Waits until an interrupt reads as disabled.
    ReadEnable,
    /// Reads `GICD_CTLR`, first the enables and the writes in progress.
    ReadControl,
    /// Reads the number of vCPUs that are counted.
    ReadCount,
    /// Reads the round of looks, and if every vCPU has been looked at.
    ReadLooks,
    /// Reads the word of a vCPU; true if another round of looks has begun since.
    ReadWord(V, bool),
    /// Reads the flags of a vCPU in the guest that was recalled.
    ReadFlags(V, bool),
    /// Ends the round of looks, unless another has begun.
    EndLooks(bool),
    /// `GICD_CTLR.RWP` has read as 0.
    Complete,

    // A teardown: `teardown`.
    /// Claims a vCPU.
    Claim(V),
    /// Puts back the first of the vCPUs that were claimed before this one was found on a CPU.
    PutBack(V, V),
    /// Takes the work of a vCPU.
    EndWork(V),
    /// Takes the deferred work over.
    EndDeferred,
    /// Empties the lists.
    EmptyLists,
    /// Frees an LPI.
    FreeAll,
    /// The VM has been taken apart.
    Apart,

    // Deferred work: `deferred`.
    /// Pushes an LPI without references onto the free list.
    Push,
    /// Notes that LPIs have to be freed; true if they are left after a slice.
    Note(bool),
    /// Takes the deferred work over.
    Take,
    /// Pops an LPI and frees it.
    Pop,
    /// Looks if LPIs are left.
    LookAgain,

    /// The second half of a step that a fault has made of two: the first has seen this value.
    Split(Half, u64),
}

/// The end of a call after the registers that wait for the vCPU have been told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Then {
    /// An entry; true if the vCPU has just been loaded.
    Enter(bool),
    /// A block.
    Block,
    /// A put; true if the vCPU is powered off.
    Put(bool),
}

/// The continuation after a notification.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Next {
    /// A producer's next interrupt.
    Idle,
    /// The vCPU of a writer's recall may have to be waited for.
    Expect(V),
    /// The writer's end.
    EndWrite,
    /// The writer's next write.
    BeginWrite,
}

/// Work that an owner has consumed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Work {
    /// The list registers have to be folded.
    pub refold: bool,
    /// An edge has come of an interrupt in a list register.
    pub reraised: bool,
    /// The list registers have to be filled.
    pub fill: bool,
}

/// A step that a fault has made of two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Half {
    /// [`Pc::Load`].
    Load(V, bool),
    /// [`Pc::Enter`].
    Enter(V, bool),
    /// The publication of an interrupt.
    Publish(u8),
    /// [`Pc::Notify`].
    Notify(V, u16),
    /// [`Pc::Claim`].
    Claim(V),
    /// [`Pc::Take`].
    Take,
}

/// A step, where a program has several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The step of the CPU's place.
    Go,
    /// The entry of a vCPU.
    Enter(V),
    /// The put of the vCPU.
    Put,
    /// The power-off of the vCPU.
    PowerOff,
    /// The power-on of a vCPU.
    PowerOn(V),
    /// The vCPU's wish to sleep.
    Block,
    /// The guest takes an interrupt.
    Acknowledge(u8),
    /// The CPU leaves the guest.
    Exit,
    /// The host handles an IPI outside the guest.
    HandleIpi,
    /// An interrupt is raised.
    Raise(u8),
    /// A vCPU's list registers get a reason to be folded before the next entry.
    RecallLater(V),
}

/// Adds the steps that the CPU may take.
pub(crate) fn choices(scenario: &Scenario, state: &State, cpu: usize, add: &mut dyn FnMut(Choice)) {
    match scenario.roles[cpu] {
        Role::Owner(mine) => owner::choices(scenario, state, cpu, mine, add),
        Role::Producer => producer::choices(scenario, state, cpu, add),
        _ => add(Choice::Go),
    }
}

/// Takes a step. Returns false if the CPU cannot take the step now.
pub(crate) fn step(scenario: &Scenario, state: &mut State, cpu: usize, choice: Choice) -> bool {
    let pc = state.cpus[cpu];
    if let Pc::Notify(..) | Pc::Kick(..) | Pc::Split(Half::Notify(..), _) = pc {
        state.cpus[cpu] = producer::notify(scenario, state, pc);
        return true;
    }

    let next = match scenario.roles[cpu] {
        Role::Owner(_) => owner::step(scenario, state, cpu, choice),
        Role::Producer => producer::step(scenario, state, pc, choice),
        Role::Writer { .. } | Role::Reader { .. } | Role::GroupWriter | Role::GroupReader => {
            writer::step(scenario, state, cpu)
        }
        Role::Teardown => teardown::step(scenario, state, pc),
        Role::Releaser | Role::Advancer => deferred::step(scenario, state, pc),
    };
    match next {
        Some(pc) => {
            state.cpus[cpu] = pc;
            true
        }
        None => false,
    }
}

impl Pc {
    /// Returns the vCPU that the CPU has.
    pub(crate) fn owns(self) -> Option<V> {
        use Pc::*;
        match self {
            ClearFlags(v, _)
            | CountOff(v, _)
            | Enter(v, _)
            | Update(v, ..)
            | Guest(v)
            | FoldExit(v, _)
            | Out(v)
            | TakeWork(v)
            | LookForSignal(v)
            | Block(v)
            | Unblock(v)
            | Asleep(v)
            | FoldAll(v, _)
            | LookForRecall(v, _)
            | PowerOff(v)
            | Put(v)
            | Split(Half::Enter(v, _), _) => Some(v),
            _ => None,
        }
    }
}

impl Scenario {
    /// Returns true if the fault is made.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

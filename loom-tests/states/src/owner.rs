//! An owner: a CPU that loads vCPUs, enters, exits, blocks and puts them.
//!
//! The steps are those of `entry::{enter, exit, block, load_put}`.

use core::mem;

use vgic::internals::{
    BLOCKED, NEW, RECALL, RECALL_LATER, RELEASE, RERAISED, RWP_GICD, Residency, ResidencyBits,
};

use crate::program::{Choice, Half, Pc, Then, Work};
use crate::scenario::{Fault, Scenario};
use crate::state::{State, V, Vcpu, seat};

/// Adds the steps that the owner of the vCPUs `mine` may take.
pub(crate) fn choices(
    scenario: &Scenario,
    state: &State,
    cpu: usize,
    mine: u8,
    add: &mut dyn FnMut(Choice),
) {
    match state.cpus[cpu] {
        Pc::Away => {
            for v in scenario.vcpus().filter(|v| mine & 1 << v != 0) {
                add(Choice::Enter(v));
                if scenario.power {
                    add(Choice::PowerOn(v));
                }
            }
            add(Choice::HandleIpi);
        }
        Pc::Guest(v) => {
            add(Choice::Exit);
            let untaken = state.vcpus[usize::from(v)].untaken;
            for irq in (0..8).map(|n| 1 << n).filter(|irq| untaken & irq != 0) {
                add(Choice::Acknowledge(irq));
            }
        }
        Pc::Out(v) | Pc::Asleep(v) => {
            add(Choice::Enter(v));
            add(Choice::HandleIpi);
            if !scenario.stays {
                add(Choice::Block);
                add(Choice::Put);
            }
            if scenario.power {
                add(Choice::PowerOff);
            }
        }
        _ => add(Choice::Go),
    }
}

/// Takes a step of an owner. Returns the next place, or `None` if nothing changes.
pub(crate) fn step(
    scenario: &Scenario,
    state: &mut State,
    cpu: usize,
    choice: Choice,
) -> Option<Pc> {
    match choice {
        Choice::Go => Some(go(scenario, state, cpu)),
        _ => choose(scenario, state, cpu, choice),
    }
}

/// Takes a step of the guest or the embedder, or the first step of a call.
fn choose(scenario: &Scenario, state: &mut State, cpu: usize, choice: Choice) -> Option<Pc> {
    let pc = state.cpus[cpu];
    Some(match (pc, choice) {
        (_, Choice::HandleIpi) => {
            // Between two calls of the library, the host takes its own interrupts.
            let arrived = state.ipis & 1 << cpu != 0;
            state.ipis &= !(1 << cpu);
            return arrived.then_some(pc);
        }
        (Pc::Away, Choice::PowerOn(v)) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            return vcpu.word(|word| word.set_power(true)).then_some(pc);
        }
        (Pc::Away, Choice::Enter(v)) => {
            let found = state.vcpus[usize::from(v)].copy();
            if found.is_torn_down() || !found.is_on() {
                return None;
            }
            Pc::Load(v, found.has(RECALL))
        }
        (Pc::Guest(v), Choice::Acknowledge(irq)) => {
            state.vcpus[usize::from(v)].untaken &= !irq;
            pc
        }
        (Pc::Guest(v), Choice::Exit) => {
            // An IPI that has arrived is the exit's reason.
            state.ipis &= !(1 << cpu);
            // The word is looked at only if a list register is in use.
            let vcpu = &state.vcpus[usize::from(v)];
            Pc::FoldExit(v, vcpu.lrs != 0 && vcpu.copy().has(RECALL))
        }
        (Pc::Out(v) | Pc::Asleep(v), Choice::Put) => Pc::FoldAll(v, false),
        (Pc::Out(v) | Pc::Asleep(v), Choice::PowerOff) => Pc::FoldAll(v, true),
        (Pc::Out(v), Choice::Enter(_)) if enters_without_news(scenario, state, cpu, v) => {
            Pc::Guest(v)
        }
        (Pc::Out(v) | Pc::Asleep(v), Choice::Enter(_) | Choice::Block) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            if pc == Pc::Asleep(v) {
                vcpu.woken = false;
            }
            let then = match choice {
                Choice::Block => Then::Block,
                _ => Then::Enter(false),
            };
            told(scenario, v, vcpu.copy().has(RECALL), then)
        }
        _ => unreachable!("{choice:?} at {pc:?}"),
    })
}

/// Takes the next step of a call.
fn go(scenario: &Scenario, state: &mut State, cpu: usize) -> Pc {
    let (pc, here) = (state.cpus[cpu], seat(cpu));
    match pc {
        Pc::Load(v, recall) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            let before = vcpu.residency;
            match vcpu.word(|word| word.load(here)) {
                Ok(()) if scenario.has(Fault::LoadedByStore) => {
                    // The look alone: the store comes with the next step.
                    let loaded = mem::replace(&mut vcpu.residency, before);
                    Pc::Split(Half::Load(v, recall), loaded)
                }
                Ok(()) => {
                    vcpu.woken = false;
                    told(scenario, v, recall, Then::Enter(true))
                }
                Err(_) => Pc::Away,
            }
        }
        Pc::Split(Half::Load(v, recall), loaded) => {
            state.vcpus[usize::from(v)].residency = loaded;
            told(scenario, v, recall, Then::Enter(true))
        }
        Pc::ClearFlags(v, then) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            if scenario.has(Fault::CountedOffFirst) && vcpu.flags(|flags| flags.has(RWP_GICD)) {
                state.count(|count| count.sub());
                return Pc::CountOff(v, then);
            }
            match vcpu.flags(|flags| flags.clear()) {
                true => Pc::CountOff(v, then),
                false => after(scenario, v, then),
            }
        }
        Pc::CountOff(v, then) => {
            if scenario.has(Fault::CountedOffFirst) {
                state.vcpus[usize::from(v)].flags(|flags| flags.clear());
            } else {
                state.count(|count| count.sub());
            }
            after(scenario, v, then)
        }
        Pc::Enter(v, fresh) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            if scenario.has(Fault::EntryDropsWork) {
                return Pc::Split(Half::Enter(v, fresh), vcpu.residency);
            }
            let work = vcpu.word(|word| word.enter(here));
            entered(scenario, vcpu, v, fresh, work)
        }
        Pc::Split(Half::Enter(v, fresh), seen) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            let _ = vcpu.word(|word| word.enter(here));
            entered(scenario, vcpu, v, fresh, Residency::from(seen).get())
        }
        Pc::Update(v, work, then) => {
            state.update_lrs(scenario, v, work);
            match then {
                Then::Enter(_) if work.refold && scenario.has(Fault::ToldAfterEntry) => {
                    Pc::ClearFlags(v, then)
                }
                Then::Enter(_) => Pc::Guest(v),
                _ => Pc::LookForSignal(v),
            }
        }
        Pc::FoldExit(v, recall) => {
            state.fold_ended(v);
            if recall {
                // At once: no step here depends on what is shown.
                state.vcpus[usize::from(v)].word(Residency::show_states);
            }
            Pc::Out(v)
        }
        Pc::TakeWork(v) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            let work = vcpu.word(Residency::take_work);
            vcpu.kicks = 0;
            match Work::of(scenario, work, false) {
                Some(work) => Pc::Update(v, work, Then::Block),
                None => Pc::LookForSignal(v),
            }
        }
        Pc::LookForSignal(v) => {
            let vcpu = state.vcpus[usize::from(v)];
            let listed = state.pending & state.open() & scenario.irqs_of(v);
            match vcpu.untaken | listed {
                0 => Pc::Block(v),
                _ => Pc::Out(v),
            }
        }
        Pc::Block(v) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            if vcpu.word(Residency::block) {
                return Pc::Asleep(v);
            }
            // The first access of `block`, which has found work. A second call makes the second
            // access.
            vcpu.residency |= BLOCKED;
            match scenario.has(Fault::SleepsWithoutLooking) {
                true => Pc::Asleep(v),
                false => Pc::Unblock(v),
            }
        }
        Pc::Unblock(v) => {
            // Only the owner consumes work: the work that was found is still there.
            let _ = state.vcpus[usize::from(v)].word(Residency::block);
            Pc::Out(v)
        }
        Pc::FoldAll(v, off) => {
            state.fold_all(v);
            Pc::LookForRecall(v, off)
        }
        Pc::LookForRecall(v, off) => {
            let recall = state.vcpus[usize::from(v)].copy().has(RECALL);
            told(scenario, v, recall, Then::Put(off))
        }
        Pc::PowerOff(v) => {
            state.vcpus[usize::from(v)].word(|word| word.set_power(false));
            Pc::Put(v)
        }
        Pc::Put(v) => {
            state.vcpus[usize::from(v)].word(Residency::put);
            Pc::Away
        }
        _ => unreachable!("{pc:?} is no place of an owner"),
    }
}

/// Returns true if the owner enters the vCPU without a change of its word: nobody has given it work
/// since it last ran.
fn enters_without_news(scenario: &Scenario, state: &State, cpu: usize, v: V) -> bool {
    let word = state.vcpus[usize::from(v)].copy();
    word.is_without_news(seat(cpu)) || word.is_running() && scenario.has(Fault::EntersUnlooked)
}

/// Returns the place at which the registers that wait for the vCPU are told, or the place after it:
/// `rwp::done`.
fn told(scenario: &Scenario, v: V, recall: bool, then: Then) -> Pc {
    match then {
        Then::Enter(fresh) if scenario.has(Fault::ToldAfterEntry) => Pc::Enter(v, fresh),
        _ if recall => Pc::ClearFlags(v, then),
        _ => after(scenario, v, then),
    }
}

/// Returns the place after the registers that wait for the vCPU have been told.
fn after(scenario: &Scenario, v: V, then: Then) -> Pc {
    match then {
        Then::Enter(_) if scenario.has(Fault::ToldAfterEntry) => Pc::Guest(v),
        Then::Enter(fresh) => Pc::Enter(v, fresh),
        Then::Block => Pc::TakeWork(v),
        Then::Put(true) => Pc::PowerOff(v),
        Then::Put(false) => Pc::Put(v),
    }
}

/// Returns the place after an entry that has returned `work`.
fn entered(scenario: &Scenario, vcpu: &mut Vcpu, v: V, fresh: bool, work: ResidencyBits) -> Pc {
    vcpu.kicks = 0;
    match Work::of(scenario, work, fresh) {
        Some(work) => Pc::Update(v, work, Then::Enter(fresh)),
        None => Pc::Guest(v),
    }
}

impl Work {
    /// Returns the work to do, if there is any. A vCPU that has just been loaded is folded.
    fn of(scenario: &Scenario, word: ResidencyBits, fresh: bool) -> Option<Self> {
        let recalled = word.has(RECALL | RECALL_LATER) && !scenario.has(Fault::EntersUnfolded);
        let work = Self {
            refold: recalled || fresh,
            reraised: word.has(RERAISED),
            fill: word.has(NEW | RECALL | RECALL_LATER | RELEASE) || fresh,
        };
        (work.refold || work.reraised || work.fill).then_some(work)
    }
}

impl State {
    /// Updates the list registers, under the lock: `enter::update_lrs`. There is a list register
    /// for every interrupt.
    fn update_lrs(&mut self, scenario: &Scenario, v: V, work: Work) {
        let reraised = work.reraised && self.vcpus[usize::from(v)].lrs & self.pending != 0;
        if work.refold || reraised {
            self.fold_all(v);
        }

        let deliverable = self.pending & self.open() & scenario.irqs_of(v);
        let vcpu = &mut self.vcpus[usize::from(v)];
        if work.fill || reraised {
            let filled = deliverable & !vcpu.lrs;
            self.pending &= !filled;
            vcpu.lrs |= filled;
            vcpu.untaken |= filled;
        }
    }

    /// Folds all list registers, under the lock: `fold::fold_all`.
    fn fold_all(&mut self, v: V) {
        let vcpu = &mut self.vcpus[usize::from(v)];
        self.pending |= vcpu.untaken;
        vcpu.lrs = 0;
        vcpu.untaken = 0;
    }

    /// Folds the interrupts that the guest has ended, under the lock: `fold::fold_exit`. Those that
    /// are pending again stay in their list registers.
    fn fold_ended(&mut self, v: V) {
        let deliverable = self.pending & self.open();
        let vcpu = &mut self.vcpus[usize::from(v)];
        let ended = vcpu.lrs & !vcpu.untaken;
        let reloaded = ended & deliverable;
        vcpu.lrs &= !ended | reloaded;
        vcpu.untaken |= reloaded;
        self.pending &= !reloaded;
    }
}

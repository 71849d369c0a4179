//! A producer: a CPU that raises interrupts. The notification of a vCPU, by any CPU.

use vgic::internals::{Kick, NEW, RECALL_LATER, RERAISED, Residency, WORK};

use crate::program::{Choice, Half, Next, Pc};
use crate::scenario::{Fault, Scenario};
use crate::state::{Sent, State};

/// Adds the steps that the producer may take.
pub(crate) fn choices(scenario: &Scenario, state: &State, cpu: usize, add: &mut dyn FnMut(Choice)) {
    if state.cpus[cpu] != Pc::Idle {
        return add(Choice::Go);
    }

    for irq in scenario.irqs() {
        add(Choice::Raise(irq));
    }
    if scenario.later {
        for v in scenario.vcpus() {
            add(Choice::RecallLater(v));
        }
    }
}

/// Takes a step of a producer. Returns the next place, or `None` if nothing changes.
pub(crate) fn step(scenario: &Scenario, state: &mut State, pc: Pc, choice: Choice) -> Option<Pc> {
    match (pc, choice) {
        (Pc::Idle, Choice::Raise(irq)) if scenario.has(Fault::LooksBeforePublishing) => {
            let seen = state.vcpus[usize::from(scenario.target(irq))].residency;
            Some(Pc::Split(Half::Publish(irq), seen))
        }
        (Pc::Idle, Choice::Raise(irq)) => {
            let (v, work) = publish(scenario, state, irq)?;
            Some(match work {
                0 => Pc::Idle,
                work => Pc::Notify(v, work, Next::Idle),
            })
        }
        (Pc::Idle, Choice::RecallLater(v)) => Some(Pc::Notify(v, RECALL_LATER as u16, Next::Idle)),
        (Pc::Split(Half::Publish(irq), seen), _) => Some(match publish(scenario, state, irq) {
            Some((v, work)) if work != 0 => Pc::Split(Half::Notify(v, work), seen),
            _ => Pc::Idle,
        }),
        _ => unreachable!("{pc:?} is no place of a producer"),
    }
}

/// Raises an interrupt, and inserts it under the lock. Returns the target and the work to give it,
/// 0 for none. Returns `None` if the interrupt was pending.
fn publish(scenario: &Scenario, state: &mut State, irq: u8) -> Option<(u8, u16)> {
    if state.pending & irq != 0 {
        return None;
    }

    state.pending |= irq;
    Some((scenario.target(irq), state.work_of(scenario, irq)))
}

impl State {
    /// Returns the work to give the target of an interrupt that has become pending or enabled.
    pub(crate) fn work_of(&self, scenario: &Scenario, irq: u8) -> u16 {
        let deliverable = self.pending & self.enabled & irq != 0;
        let in_lr = self.vcpus[usize::from(scenario.target(irq))].lrs & irq != 0;
        match (deliverable, in_lr) {
            (false, _) => 0,
            (true, false) => NEW as u16,
            (true, true) => RERAISED as u16,
        }
    }
}

/// Notifies a vCPU, or sends the kick: `queue::notify`. Returns the next place.
pub(crate) fn notify(scenario: &Scenario, state: &mut State, pc: Pc) -> Pc {
    let (v, work, next, seen) = match pc {
        Pc::Notify(v, work, next) => (v, work, next, None),
        Pc::Split(Half::Notify(v, work), seen) => (v, work, Next::Idle, Some(seen)),
        Pc::Kick(sent, next) => {
            match sent {
                Sent::Ipi(cpu) => state.ipis |= 1 << cpu,
                Sent::Wake(v) => state.vcpus[usize::from(v)].woken = true,
            }
            return next.pc();
        }
        _ => unreachable!("{pc:?} notifies nobody"),
    };

    let vcpu = &mut state.vcpus[usize::from(v)];
    let before = vcpu.residency;
    let mut kick = vcpu.word(|word| word.notify(work.into(), || false));
    if let Some(seen) = seen {
        kick = Residency::from(seen).notify(work.into(), || false);
    }
    if scenario.has(Fault::EveryProducerKicks) {
        kick = Residency::from(before & !WORK).notify(work.into(), || false);
    }

    let sent = match kick {
        Kick::Nothing => return next.pc(),
        Kick::Ipi(cpu) => Sent::Ipi(cpu.0 as u8),
        Kick::Wake => Sent::Wake(v),
    };
    vcpu.kicks = (vcpu.kicks + 1).min(2);
    Pc::Kick(sent, next)
}

impl Next {
    /// Returns the place after a notification.
    fn pc(self) -> Pc {
        match self {
            Self::Idle => Pc::Idle,
            Self::Expect(v) => Pc::Expect(v),
            Self::EndWrite => Pc::EndWrite,
            Self::BeginWrite => Pc::BeginWrite,
        }
    }
}

//! Properties of every state, and situations that have to be among the states.

use stateright::Property;
use vgic::internals::{
    DEFERRED_FREE, NEW, RECALL, RELEASE, RERAISED, RWP_GICD, is_being_written, is_recalled,
};

use crate::program::{Half, Next, Pc};
use crate::scenario::{Role, Scenario};
use crate::state::{Sent, State, Vcpu, seat};

/// The kinds of work that kick.
const KICKS: u64 = NEW | RECALL | RERAISED | RELEASE;

/// Returns the properties of every state, and the situations of the scenario.
pub(crate) fn all(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut all = vec![
        Property::always("no wake-up is lost", no_wakeup_is_lost),
        Property::always("one kick for each stay", one_kick),
        Property::always("one owner", one_owner),
        Property::always("claims hold", claims_hold),
        Property::always("RWP waits", rwp_waits),
        Property::always("RWP ends", rwp_ends),
        Property::always("the count covers the flags", count_covers_flags),
        Property::always("deferred work is noted", work_is_noted),
    ];
    let mut add = |name, condition| all.push(Property::sometimes(name, condition));

    let roles = &scenario.roles;
    if roles.contains(&Role::Producer) {
        add("an IPI arrives in the guest", |_, state| {
            guests(state).any(|(cpu, _)| state.has_ipi(cpu))
        });
        add("an edge comes again in the guest", |_, state| {
            guests(state).any(|(_, vcpu)| vcpu.untaken & state.pending != 0)
        });
        if !scenario.stays {
            add("an IPI comes too late", |_, state| {
                let mut cpus = state.cpus.iter().enumerate();
                cpus.any(|(cpu, pc)| *pc == Pc::Away && state.has_ipi(cpu))
            });
            add("a vCPU is woken on its CPU", |_, state| {
                woken(state).any(|vcpu| vcpu.copy().seat().is_some())
            });
            add("a vCPU is woken on no CPU", |_, state| {
                woken(state).any(|vcpu| vcpu.copy().seat().is_none())
            });
            add("a block finds work", |_, state| {
                state.any(|pc| matches!(pc, Pc::Unblock(_)))
            });
        }
    }
    if scenario.power {
        add("a vCPU that is off has work", |_, state| {
            let mut words = state.vcpus.iter().map(Vcpu::copy);
            words.any(|word| !word.is_on() && word.has(KICKS))
        });
    }
    if roles
        .windows(2)
        .any(|pair| pair[0] == pair[1] && matches!(pair[0], Role::Owner(_)))
    {
        add("a load is too late", |_, state| {
            state.any(|pc| match pc {
                Pc::Load(v, _) => state.owner(v).is_some(),
                _ => false,
            })
        });
    }

    if roles
        .iter()
        .any(|role| matches!(role, Role::Writer { .. } | Role::GroupWriter))
    {
        add("a disabled interrupt can be taken", |_, state| {
            guests(state).any(|(_, vcpu)| vcpu.untaken & !state.open() != 0)
        });
        add("RWP is 1 for the fold alone", |_, state| {
            let waits = guests(state).any(|(_, vcpu)| is_waiting(vcpu));
            waits && !is_being_written(state.control)
        });
        add("RWP is 0 with a vCPU in the guest", |_, state| {
            state.any(|pc| pc == Pc::Complete) && guests(state).next().is_some()
        });
        add("a flag stays for a later recall", |_, state| {
            let mut vcpus = state.vcpus.iter();
            vcpus.any(|vcpu| vcpu.waiting & RWP_GICD != 0 && !is_waiting(vcpu))
        });
    }
    if scenario.writers_share_a_vcpu() {
        add("a flag is there before", |_, state| {
            state.any(|pc| matches!(pc, Pc::CountBack(_)))
        });
    }

    if roles.contains(&Role::Teardown) {
        add("the VM is taken apart", |_, state| {
            state.any(|pc| pc == Pc::Apart)
        });
    }
    if roles.contains(&Role::Teardown) && scenario.vcpus > 1 {
        add("a claim fails", |_, state| {
            state.any(|pc| matches!(pc, Pc::PutBack(..)))
        });
    }
    if roles.contains(&Role::Advancer) {
        add("a note has no work", |_, state| {
            state.deferred != 0 && state.free_list == 0
        });
    }
    if roles.contains(&Role::Advancer) && scenario.frees > 1 {
        add("work is left after a slice", |_, state| {
            state.any(|pc| pc == Pc::Note(true))
        });
    }
    all
}

/// Returns the vCPUs whose guest runs, each with its CPU.
fn guests(state: &State) -> impl Iterator<Item = (usize, &Vcpu)> {
    let cpus = state.cpus.iter().enumerate();
    cpus.filter_map(|(cpu, pc)| match pc {
        Pc::Guest(v) => Some((cpu, &state.vcpus[usize::from(*v)])),
        _ => None,
    })
}

/// Returns the vCPUs that sleep and have been woken.
fn woken(state: &State) -> impl Iterator<Item = &Vcpu> {
    let mut vcpus = state.vcpus.iter();
    core::iter::from_fn(move || vcpus.find(|vcpu| vcpu.woken && vcpu.copy().is_blocked()))
}

impl State {
    /// Returns true if a CPU is at a place like this.
    fn any(&self, place: impl Fn(Pc) -> bool) -> bool {
        self.cpus.iter().any(|pc| place(*pc))
    }

    /// Returns true if an IPI has arrived at the CPU.
    fn has_ipi(&self, cpu: usize) -> bool {
        self.ipis & 1 << cpu != 0
    }

    /// Returns the CPU that has the vCPU, by its place.
    fn owner(&self, v: u8) -> Option<usize> {
        self.cpus.iter().position(|pc| pc.owns() == Some(v))
    }

    /// Returns true if an IPI has arrived at the CPU, or is on its way.
    fn is_kicked(&self, cpu: usize) -> bool {
        self.has_ipi(cpu) || self.is_sent(Sent::Ipi(cpu as u8))
    }

    /// Returns true if a CPU is about to send the kick.
    fn is_sent(&self, kick: Sent) -> bool {
        self.any(|pc| matches!(pc, Pc::Kick(sent, _) if sent == kick))
    }

    /// Returns true if a CPU is about to give the vCPU work. A write of the groups gives it to the
    /// vCPUs in their order.
    fn is_notified(&self, scenario: &Scenario, v: u8) -> bool {
        let mut cpus = self.cpus.iter().zip(&scenario.roles);
        cpus.any(|(pc, role)| match *pc {
            Pc::Notify(to, ..) | Pc::Split(Half::Notify(to, _), _) if to == v => true,
            Pc::Notify(at, ..)
            | Pc::Kick(_, Next::Expect(at))
            | Pc::Expect(at)
            | Pc::CountOn(at)
            | Pc::SetFlag(at)
            | Pc::CountBack(at)
            | Pc::Renew(at) => *role == Role::GroupWriter && at < v,
            _ => false,
        })
    }
}

/// Returns true if every vCPU that runs or sleeps, and has a reason not to, is told of the reason,
/// and is kicked or woken once told.
fn no_wakeup_is_lost(scenario: &Scenario, state: &State) -> bool {
    scenario.vcpus().all(|v| {
        let vcpu = &state.vcpus[usize::from(v)];
        let word = vcpu.copy();
        let sleeps = word.is_blocked() && !word.is_torn_down();
        let comes = match state.owner(v).map(|cpu| (cpu, state.cpus[cpu])) {
            Some((cpu, Pc::Guest(_))) => state.is_kicked(cpu),
            None | Some((_, Pc::Asleep(_))) if sleeps => vcpu.woken || state.is_sent(Sent::Wake(v)),
            // The CPU, or the next, looks at the work before the vCPU runs or sleeps.
            _ => return true,
        };

        let deliverable = state.pending & state.open() & scenario.irqs_of(v);
        let disabled = vcpu.untaken & !state.open();
        match word.has(KICKS) {
            true => comes,
            false => deliverable | disabled == 0 || state.is_notified(scenario, v),
        }
    })
}

/// Returns true if no vCPU has been kicked twice for the work of one stay.
fn one_kick(_: &Scenario, state: &State) -> bool {
    state.vcpus.iter().all(|vcpu| vcpu.kicks <= 1)
}

/// Returns true if every vCPU has one owner at most, which its word names.
fn one_owner(scenario: &Scenario, state: &State) -> bool {
    scenario.vcpus().all(|v| {
        let word = state.vcpus[usize::from(v)].copy();
        let mut cpus = state.cpus.iter().enumerate();
        cpus.all(|(cpu, pc)| pc.owns() != Some(v) || word.is_on_cpu(seat(cpu)))
    })
}

/// Returns true if the claimed vCPUs are those that the teardown has claimed, and no CPU has one.
fn claims_hold(scenario: &Scenario, state: &State) -> bool {
    let claims = |pc: &Pc| match pc {
        Pc::Claim(end) | Pc::Split(Half::Claim(end), _) => Some(0..*end),
        Pc::PutBack(first, end) => Some(*first..*end),
        Pc::EndWork(_) | Pc::EndDeferred | Pc::EmptyLists | Pc::FreeAll | Pc::Apart => {
            Some(0..scenario.vcpus)
        }
        _ => None,
    };
    let claimed = state.cpus.iter().find_map(claims).unwrap_or(0..0);

    scenario.vcpus().all(|v| {
        let is_claimed = state.vcpus[usize::from(v)].copy().is_torn_down();
        is_claimed == claimed.contains(&v) && !(is_claimed && state.owner(v).is_some())
    })
}

/// Returns true if no guest can take an interrupt that a guest has seen disabled, and then RWP as
/// 0.
fn rwp_waits(scenario: &Scenario, state: &State) -> bool {
    let mut complete = 0;
    for (pc, role) in state.cpus.iter().zip(&scenario.roles) {
        complete |= match (pc, role) {
            (Pc::Complete, Role::Writer { irq, .. } | Role::Reader { irq }) => *irq,
            (Pc::Complete, _) => u8::MAX,
            _ => 0,
        };
    }
    guests(state).all(|(_, vcpu)| vcpu.untaken & complete == 0)
}

/// Returns true if RWP waits for no vCPU that nothing makes leave the guest.
fn rwp_ends(_: &Scenario, state: &State) -> bool {
    guests(state).all(|(cpu, vcpu)| !is_waiting(vcpu) || state.is_kicked(cpu))
}

/// Returns true if a write of the distributor waits for the vCPU.
fn is_waiting(vcpu: &Vcpu) -> bool {
    vcpu.waiting & RWP_GICD != 0 && is_recalled(vcpu.copy())
}

/// Returns true if the count is the number of flags, and of the CPUs that are about to set a flag
/// or have a count to take back.
fn count_covers_flags(_: &Scenario, state: &State) -> bool {
    let flags = state
        .vcpus
        .iter()
        .filter(|vcpu| vcpu.waiting & RWP_GICD != 0);
    let held = state
        .cpus
        .iter()
        .filter(|pc| matches!(pc, Pc::CountOff(..) | Pc::SetFlag(_) | Pc::CountBack(_)));
    state.awaited as usize == flags.count() + held.count()
}

/// Returns true if LPIs that wait to be freed are noted, or a CPU is at them.
fn work_is_noted(_: &Scenario, state: &State) -> bool {
    let at_it = |pc| {
        matches!(
            pc,
            Pc::Note(_) | Pc::Pop | Pc::LookAgain | Pc::EmptyLists | Pc::FreeAll
        )
    };
    state.free_list == 0 || state.deferred & DEFERRED_FREE != 0 || state.any(at_it)
}

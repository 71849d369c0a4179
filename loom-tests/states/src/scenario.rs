//! Scenarios: the CPUs that are at work together, and the fault that is made.

use stateright::{Model, Property};
use vgic::internals::Residency;

use crate::program::{self, Choice, Pc};
use crate::properties;
use crate::state::{CPUS, GROUPS, State, VCPUS, Vcpu};

/// The program of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Has one at a time of these vCPUs, a bit each.
    Owner(u8),
    /// Raises interrupts.
    Producer,
    /// Disables an interrupt, and waits until RWP is 0; enables it again and begins anew, if
    /// `again`.
    Writer {
        /// Bit of the interrupt.
        irq: u8,
        /// True if the writer goes on.
        again: bool,
    },
    /// Finds an interrupt disabled, and waits until RWP is 0.
    Reader {
        /// Bit of the interrupt.
        irq: u8,
    },
    /// Closes the groups, and waits until RWP is 0.
    GroupWriter,
    /// Finds the groups closed, and RWP 0.
    GroupReader,
    /// Takes the VM apart.
    Teardown,
    /// Puts last references of LPIs.
    Releaser,
    /// Does deferred work.
    Advancer,
}

/// A deliberate fault. Most split a step, or swap two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A producer decides on the kick by the word from before the publication.
    LooksBeforePublishing,
    /// An entry reads the work, and overwrites what comes before the swap.
    EntryDropsWork,
    /// An entry goes on without a look at the work of a vCPU that has run.
    EntersUnlooked,
    /// A vCPU sleeps whether there is work or not.
    SleepsWithoutLooking,
    /// A producer kicks a vCPU that has been kicked.
    EveryProducerKicks,
    /// A CPU loads a vCPU by a load and a store.
    LoadedByStore,
    /// A teardown claims a vCPU by a load and a store.
    TornDownByStore,
    /// A teardown that fails keeps what it has claimed.
    ClaimKept,
    /// A vCPU's flag is set before the vCPU is counted.
    FlagBeforeCount,
    /// A vCPU is counted off before its flag is cleared.
    CountedOffFirst,
    /// A write that waits for a vCPU does not have the vCPU looked at again.
    WaitingOverlooked,
    /// A write in progress is not counted.
    WriteNotCounted,
    /// A writer looks if the vCPU is in the guest before the recall.
    ExpectedBeforeRecall,
    /// An entry clears the flags after it has consumed the recall.
    ToldAfterEntry,
    /// An entry does not fold the list registers of a vCPU that was recalled.
    EntersUnfolded,
    /// A guest reads RWP first, and then the group enables.
    RwpBeforeEnables,
    /// An LPI is noted as work before it is pushed.
    NotedBeforePushed,
    /// Deferred work is taken over by a load and a store.
    TakenByStore,
    /// A CPU that has freed an LPI does not look if others are left.
    LeftUnnoted,
}

/// CPUs at work together.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// The program of each CPU.
    pub roles: Vec<Role>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Number of interrupts; those of vCPU v are each `vcpus`-th from v on.
    pub irqs: u8,
    /// Interrupts that are pending at first, a bit each.
    pub pending: u8,
    /// Owners enter and exit only: they neither block nor put.
    pub stays: bool,
    /// Owners power vCPUs off and on.
    pub power: bool,
    /// Producers give reasons to fold before the next entry.
    pub later: bool,
    /// Most LPIs in the free list.
    pub frees: u8,
    /// The fault that is made.
    pub fault: Option<Fault>,
}

impl Scenario {
    /// Returns the vCPUs.
    pub(crate) fn vcpus(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.vcpus
    }

    /// Returns the interrupts, as bits.
    pub(crate) fn irqs(&self) -> impl Iterator<Item = u8> + use<> {
        (0..self.irqs).map(|n| 1 << n)
    }

    /// Returns the vCPU that an interrupt is routed to.
    pub(crate) fn target(&self, irq: u8) -> u8 {
        irq.trailing_zeros() as u8 % self.vcpus
    }

    /// Returns the interrupts that are routed to a vCPU.
    pub(crate) fn irqs_of(&self, v: u8) -> u8 {
        self.irqs().filter(|irq| self.target(*irq) == v).sum()
    }

    /// Returns true if interrupts of one vCPU have a writer each.
    pub(crate) fn writers_share_a_vcpu(&self) -> bool {
        let disabled = self.roles.iter().map(|role| match role {
            Role::Writer { irq, .. } => *irq,
            _ => 0,
        });
        let disabled = disabled.fold(0, |all, irq| all | irq);
        self.vcpus()
            .any(|v| (disabled & self.irqs_of(v)).count_ones() > 1)
    }

    /// Returns the first place in the program of a role.
    fn start(&self, role: Role) -> Pc {
        match role {
            Role::Owner(_) => Pc::Away,
            Role::Producer => Pc::Idle,
            Role::Writer { .. } => Pc::BeginWrite,
            Role::Reader { .. } => Pc::ReadEnable,
            Role::GroupWriter => Pc::CloseGroups,
            Role::GroupReader if self.has(Fault::RwpBeforeEnables) => Pc::ReadCount,
            Role::GroupReader => Pc::ReadControl,
            Role::Teardown => Pc::Claim(0),
            Role::Releaser => Pc::Push,
            Role::Advancer => Pc::Take,
        }
    }

    /// Renumbers CPUs of one role, which are interchangeable, so that few states differ in the
    /// numbers alone.
    fn renumber(&self, state: &mut State) {
        for last in 1..self.roles.len() {
            let mut at = last;
            while at > 0
                && self.roles[at] == self.roles[at - 1]
                && state.rank(at) < state.rank(at - 1)
            {
                state.swap(at, at - 1);
                at -= 1;
            }
        }
    }
}

impl Model for Scenario {
    type State = State;
    type Action = (usize, Choice);

    fn init_states(&self) -> Vec<State> {
        let on = |v: usize| v == 0 || !self.power;
        let mut state = State {
            vcpus: core::array::from_fn(|v| Vcpu {
                residency: u64::from(&Residency::new(on(v))),
                ..Vcpu::default()
            }),
            cpus: [Pc::Absent; CPUS],
            ipis: 0,
            pending: self.pending,
            enabled: self.irqs().sum(),
            free_list: 0,
            control: GROUPS,
            awaited: 0,
            looked: false,
            deferred: 0,
        };
        assert!(usize::from(self.vcpus) <= VCPUS && self.roles.len() <= CPUS);
        for (pc, role) in state.cpus.iter_mut().zip(&self.roles) {
            *pc = self.start(*role);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Self::Action>) {
        for cpu in 0..self.roles.len() {
            program::choices(self, state, cpu, &mut |choice| actions.push((cpu, choice)));
        }
    }

    fn next_state(&self, state: &State, (cpu, choice): Self::Action) -> Option<State> {
        let mut next = state.clone();
        if !program::step(self, &mut next, cpu, choice) {
            return None;
        }
        self.renumber(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}

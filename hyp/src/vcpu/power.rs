//! Power states of vCPUs.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Power state of a vCPU, with the numbers of PSCI's `AFFINITY_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum PowerState {
    /// The vCPU runs, is suspended, or is about to run. PSCI's third state, `ON_PENDING`, is
    /// skipped: kvm-unit-tests take no answer but `ALREADY_ON` to a second `CPU_ON`.
    On = 0,
    /// The vCPU is off.
    Off = 1,
}

/// Power of one vCPU.
#[derive(Debug)]
pub(crate) struct Power {
    state: AtomicU8,
    /// Entry point of a start or resumption that has been requested, with bit 0 set; otherwise 0.
    entry: AtomicU64,
    context: AtomicU64,
}

impl Power {
    /// Returns the power of a vCPU that is off.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(PowerState::Off as u8),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> PowerState {
        // Acquire: pairs with the Release of the last change.
        match self.state.load(Ordering::Acquire) {
            0 => PowerState::On,
            _ => PowerState::Off,
        }
    }

    /// Powers the vCPU on at `entry` with `context` in `x0`. Returns false if the vCPU was on.
    pub(crate) fn power_on(&self, entry: u64, context: u64) -> bool {
        // The winner of this exchange writes the start, and the vCPU waits until `entry` is
        // published below. Acquire: pairs with the Release in `power_off`.
        let won = self.state.compare_exchange(
            PowerState::Off as u8,
            PowerState::On as u8,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        if won.is_ok() {
            self.set_start(entry, context);
        }
        won.is_ok()
    }

    /// Notes the `entry` of the vCPU's next start, with `context` in `x0`. The vCPU is on and waits
    /// for the note, or has asked for its own resumption.
    pub(crate) fn set_start(&self, entry: u64, context: u64) {
        self.context.store(context, Ordering::Relaxed);
        // Release: pairs with the Acquire in `take_start`. Entries are even, so that 1 marks a new
        // one.
        self.entry.store(entry | 1, Ordering::Release);
    }

    /// Takes the entry and `x0` of the vCPU's next start, if there is one. Called by the CPU that
    /// runs the vCPU.
    pub(crate) fn take_start(&self) -> Option<(u64, u64)> {
        // Acquire: pairs with the Release in `set_start`.
        let entry = self.entry.load(Ordering::Acquire);
        if entry & 1 == 0 {
            return None;
        }
        self.entry.store(0, Ordering::Relaxed);
        Some((entry & !1, self.context.load(Ordering::Relaxed)))
    }

    /// Returns true if a start has been requested that nobody has taken.
    pub(crate) fn has_start(&self) -> bool {
        // Acquire: pairs with the Release in `set_start`.
        self.entry.load(Ordering::Acquire) & 1 != 0
    }

    /// Returns the entry and `x0` of a start that has been requested and that nobody has taken.
    pub(crate) fn start(&self) -> Option<(u64, u64)> {
        // Acquire: pairs with the Release in `set_start`.
        let entry = self.entry.load(Ordering::Acquire);
        (entry & 1 != 0).then(|| (entry & !1, self.context.load(Ordering::Relaxed)))
    }

    /// Gives a vCPU that is off a state, and a start that has been requested. No vCPU of the VM
    /// runs.
    pub(crate) fn set(&self, state: PowerState, start: Option<(u64, u64)>) {
        if let Some((entry, context)) = start {
            self.set_start(entry, context);
        }
        // Release: pairs with the Acquire in `state`.
        self.state.store(state as u8, Ordering::Release);
    }

    /// Powers the vCPU off. Another CPU may power it on at once. Called by the CPU that runs the
    /// vCPU.
    pub(crate) fn power_off(&self) {
        // Release: pairs with the Acquire in `power_on`.
        self.state.store(PowerState::Off as u8, Ordering::Release);
    }

    /// Powers the vCPU off and forgets a start that has been requested. No vCPU of the VM runs.
    pub(crate) fn reset(&self) {
        self.entry.store(0, Ordering::Relaxed);
        self.power_off();
    }
}

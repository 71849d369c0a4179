//! Cases and their assertions.

use core::ops::Deref;
use core::panic::Location;

use crate::board::Board;
use crate::cpu;

/// Machine with the interrupt controller that a program tests.
pub trait Machine: Deref<Target = Board> + Sync {
    /// Brings the interrupt controller, and every CPU that is on, into the initial state of a case.
    fn reset(&self) -> Outcome;
}

/// Test of one rule.
pub struct Case<M> {
    /// Name: `topic.rule`.
    pub name: &'static str,
    /// Register or section of the architecture with the rule.
    pub rule: &'static str,
    /// CPUs that have to be on.
    pub cpus: Cpus,
    /// Reason why QEMU's own GIC fails, if it does.
    pub qemu: Option<&'static str>,
    /// Reason why the GIC of Linux KVM fails, if it does.
    pub kvm: Option<&'static str>,
    /// The test.
    pub run: fn(&M) -> Outcome,
}

/// CPUs that a case uses.
#[derive(Clone, Copy)]
pub enum Cpus {
    /// CPU 0.
    One,
    /// CPUs 0 and 1.
    Two,
    /// All CPUs, at least two.
    All,
}

impl Cpus {
    pub(crate) fn count(self, machine: &Board) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::All => machine.cpus.max(2),
        }
    }
}

impl<M> Case<M> {
    /// Returns a case on CPU 0.
    pub const fn new(name: &'static str, rule: &'static str, run: fn(&M) -> Outcome) -> Self {
        Self {
            name,
            rule,
            cpus: Cpus::One,
            qemu: None,
            kvm: None,
            run,
        }
    }

    /// Returns the case with other CPUs.
    pub const fn on(mut self, cpus: Cpus) -> Self {
        self.cpus = cpus;
        self
    }

    /// Returns the case with a reason why QEMU's own GIC fails.
    pub const fn unlike_qemu(mut self, reason: &'static str) -> Self {
        self.qemu = Some(reason);
        self
    }

    /// Returns the case with a reason why the GIC of Linux KVM fails.
    pub const fn unlike_kvm(mut self, reason: &'static str) -> Self {
        self.kvm = Some(reason);
        self
    }
}

/// Result of a case that did not pass.
pub enum NotPassed {
    /// The value differs from the rule's.
    Failed(Failure),
    /// The case does not apply to this machine.
    Skipped(&'static str),
}

/// Assertion that failed.
pub struct Failure {
    /// Name of the value.
    pub what: &'static str,
    /// The value.
    pub found: u64,
    /// The rule's value.
    pub expected: u64,
    /// CPU that found it.
    pub cpu: usize,
    /// Place of the assertion.
    pub place: &'static Location<'static>,
}

/// Result of a case.
pub type Outcome = Result<(), NotPassed>;

/// Register or state that can be compared.
pub trait Value {
    /// Returns the value as a number.
    fn number(self) -> u64;
}

macro_rules! values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn number(self) -> u64 {
                self as u64
            }
        }
    )*};
}

values!(bool, u8, u16, u32, u64, usize, i32);

/// Fails unless `found` equals `expected`.
#[track_caller]
pub fn equal(what: &'static str, found: impl Value, expected: impl Value) -> Outcome {
    let (found, expected) = (found.number(), expected.number());
    if found == expected {
        return Ok(());
    }
    Err(NotPassed::Failed(Failure {
        what,
        found,
        expected,
        cpu: cpu::number(),
        place: Location::caller(),
    }))
}

/// Fails unless `found` is true.
#[track_caller]
pub fn holds(what: &'static str, found: bool) -> Outcome {
    equal(what, found, true)
}

/// Skips the case, for `reason`, unless `holds` is true.
pub fn skip_unless(reason: &'static str, holds: bool) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(NotPassed::Skipped(reason))
    }
}

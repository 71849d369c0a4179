//! A rendezvous of all CPUs: each finishes what it does with the VMs, and looks at them anew.
//!
//! A CPU answers outside every call of a vGIC, on its way into the guest or with no vCPU. Before it
//! answers it gives up a vCPU whose VM is ending.

use core::sync::atomic::{AtomicU64, Ordering};

use super::percpu;
use super::this_cpu::ThisCpu;
use crate::schedule;

/// Rounds in which every CPU hands its garbage over. Each may begin an epoch, and garbage is free
/// two epochs later.
const ROUNDS: usize = 4;

/// Calls that free what has been handed over. Each frees several bags.
const FLUSHES: usize = 256;

/// Questions to a CPU, and its answers.
#[derive(Default)]
pub(crate) struct Answers {
    asked: AtomicU64,
    answered: AtomicU64,
}

/// Questions that a CPU has seen.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Question(u64);

impl Answers {
    /// Returns the questions so far. The calling CPU is the one asked. Everything that the askers
    /// did before is visible from now on.
    pub(crate) fn question(&self) -> Question {
        // Acquire: pairs with the Release in `rendezvous`.
        Question(self.asked.load(Ordering::Acquire))
    }

    /// Answers the questions up to `question`.
    pub(crate) fn answer(&self, question: Question) {
        // Release: pairs with the Acquire in `is_answered`. The asker may free what this CPU used.
        self.answered.store(question.0, Ordering::Release);
    }

    /// Returns true if no question is open.
    pub(crate) fn is_answered(&self) -> bool {
        // Acquire: pairs with the Release in `answer`.
        self.answered.load(Ordering::Acquire) >= self.asked.load(Ordering::Relaxed)
    }
}

/// Waits until every other CPU has answered a question that is asked now. The calling CPU, whose
/// data is `this`, has no vCPU and holds no lock. It answers the questions of others meanwhile.
pub(crate) fn rendezvous(this: &ThisCpu) {
    let others = || {
        let all = percpu::all().iter();
        all.filter(|cpu| cpu.index != this.shared.index && cpu.is_up())
    };
    for cpu in others() {
        // Release: pairs with the Acquire in `question`.
        cpu.answers.asked.fetch_add(1, Ordering::Release);
        schedule::ask(cpu.index);
        this.gic.kick(cpu.index);
    }

    for cpu in others() {
        while !cpu.answers.is_answered() {
            this.shared.answers.answer(this.shared.answers.question());
            core::hint::spin_loop();
        }
    }
}

/// Frees what the vGICs have unlinked and nobody uses any more. The calling CPU, whose data is
/// `this`, has no vCPU and holds no lock.
pub(crate) fn free_garbage(this: &ThisCpu) {
    (0..ROUNDS).for_each(|_| rendezvous(this));
    (0..FLUSHES).for_each(|_| this.vgic_cpu.pin().collect_garbage());
}

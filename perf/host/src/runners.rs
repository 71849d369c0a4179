//! vCPUs that enter and leave the guest with interrupts pending.

use vgic::cpu_interface::software::Accesses;

use super::catalog::Bench;
use super::operation::{Entry, operation};
use super::vm::FIRST_LPI;

/// vCPUs that enter or leave in a batch.
const ENTERING: usize = 4;

/// Pending interrupts that entry and exit are measured with.
pub const PENDING: [u64; 7] = [0, 1, 4, 5, 64, 1024, 10_000];

/// vCPUs in and out of the guest, each on a CPU of its own, with some LPIs pending on each.
struct Runners {
    bench: Bench,
    pending: u64,
    /// In the guest now.
    inside: bool,
    /// What each guest took at last, as events of its device.
    taken: Vec<Vec<u32>>,
}

impl Runners {
    fn new(pending: u64) -> Self {
        let bench = Bench::new(ENTERING, ENTERING as u16);
        for n in 0..ENTERING {
            bench.vm.enter(&bench.cpus[n], n);
            bench.vm.exit(&bench.cpus[n], n);
            if pending > 0 {
                let first = u64::from(FIRST_LPI) + n as u64 * pending;
                (bench.vm).map(bench.cpu(), n as u64, pending, first, |_| n as u64);
            }
            for event in 0..pending as u32 {
                bench.vm.inject(bench.cpu(), n as u32, event);
            }
        }
        Self {
            bench,
            pending,
            inside: false,
            taken: vec![Vec::new(); ENTERING],
        }
    }

    fn enter(&mut self) {
        for n in 0..ENTERING {
            self.bench.vm.enter(&self.bench.cpus[n], n);
        }
        self.inside = true;
    }

    fn exit(&mut self) {
        for n in 0..ENTERING {
            self.bench.vm.exit(&self.bench.cpus[n], n);
        }
        self.inside = false;
    }

    /// The guests take and end all that is in their list registers.
    fn guests(&mut self) {
        for (n, taken) in self.taken.iter_mut().enumerate() {
            let first = FIRST_LPI + n as u32 * self.pending as u32;
            let cpu = &self.bench.cpus[n];
            self.bench.vm.guest(cpu, |intid| taken.push(intid - first));
        }
    }

    /// As many are pending as before.
    fn replenish(&mut self) {
        for (n, taken) in self.taken.iter_mut().enumerate() {
            for event in taken.drain(..) {
                self.bench.vm.inject(&self.bench.cpus[n], n as u32, event);
            }
        }
    }
}

/// Entries and exits with so many pending, re-entries, and switches.
pub(crate) fn operations() -> Vec<Entry> {
    let batch = ENTERING as u64;
    let mut entries = Vec::new();
    for pending in PENDING {
        // Into free registers: the guest has finished with what it had.
        entries.push(Entry::new(
            format!("vcpu_enter/{pending}"),
            batch,
            move || {
                let prepare = |runners: &mut Runners| {
                    if runners.inside {
                        runners.guests();
                        runners.exit();
                        runners.replenish();
                    }
                };
                operation(Runners::new(pending), prepare, Runners::enter)
            },
        ));
        // The guest has finished with all that was in the registers.
        entries.push(Entry::new(
            format!("vcpu_exit/{pending}"),
            batch,
            move || {
                let prepare = |runners: &mut Runners| {
                    runners.replenish();
                    runners.enter();
                    runners.guests();
                };
                operation(Runners::new(pending), prepare, Runners::exit)
            },
        ));
        // A trap that has nothing to do with interrupts: the registers stay as they are.
        entries.push(Entry::new(
            format!("vcpu_reenter/{pending}"),
            batch,
            move || {
                let mut runners = Runners::new(pending);
                runners.enter();
                operation(
                    runners,
                    |_| {},
                    |runners| {
                        runners.exit();
                        runners.enter();
                    },
                )
            },
        ));
    }
    // Two vCPUs take turns on one CPU, with pending interrupts each.
    for pending in [0, 4] {
        entries.push(Entry::new(format!("vcpu_switch/{pending}"), 2, move || {
            let mut runners = Runners::new(pending);
            for n in 0..2 {
                runners.bench.vm.put(&runners.bench.cpus[n], n);
            }
            runners.inside = false;
            operation(
                runners,
                |_| {},
                |runners| {
                    for n in 0..2 {
                        let (vm, cpu) = (&runners.bench.vm, &runners.bench.cpus[0]);
                        vm.enter(cpu, n);
                        vm.exit(cpu, n);
                        vm.put(cpu, n);
                    }
                },
            )
        }));
    }
    entries
}

/// Register accesses of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Entry into free registers.
    pub enter: Accesses,
    /// An exit and an entry while the guest has handled nothing.
    pub reenter: Accesses,
    /// Exit after it has handled all that was in its registers.
    pub exit: Accesses,
}

/// The accesses of `ICH_*` registers of the operations here, with so many pending.
pub fn accesses(pending: u64) -> Counted {
    let mut runners = Runners::new(pending);
    let mut counted = |work: fn(&mut Runners)| {
        let before = runners.bench.cpu().interface().accesses();
        work(&mut runners);
        runners.bench.cpu().interface().accesses() - before
    };
    let enter = counted(Runners::enter);
    let reenter = counted(|runners| {
        runners.exit();
        runners.enter();
    });
    counted(Runners::guests);
    Counted {
        enter,
        reenter,
        exit: counted(Runners::exit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_beyond_the_registers_costs_no_access_more() {
        assert_eq!(accesses(0).reenter.total(), 0);
        assert_eq!(accesses(4).enter.lr_writes, 4);
        assert_eq!(accesses(5), accesses(64));
    }
}

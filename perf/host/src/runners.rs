//! vCPUs entering and leaving the guest with interrupts pending.

use vgic::cpu_interface::software::Accesses;

use super::catalog::Bench;
use super::operation::{Entry, Operation, operation};
use super::vm::FIRST_LPI;

/// vCPUs entering or leaving in a batch.
const ENTERING: usize = 4;

/// Numbers of pending interrupts for the measurements of entry and exit.
pub const PENDING: [u64; 7] = [0, 1, 4, 5, 64, 1024, 10_000];

/// vCPUs entering and leaving the guest, each on a CPU of its own, with LPIs pending.
struct Runners {
    bench: Bench,
    pending: u64,
    /// True with the vCPUs in the guest.
    inside: bool,
    /// Interrupts last taken by each guest, as events of its device.
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

    /// Lets the guests take and end every interrupt in their list registers.
    fn guests(&mut self) {
        for (n, taken) in self.taken.iter_mut().enumerate() {
            let first = FIRST_LPI + n as u32 * self.pending as u32;
            let cpu = &self.bench.cpus[n];
            self.bench.vm.guest(cpu, |intid| taken.push(intid - first));
        }
    }

    /// Restores the number of pending interrupts.
    fn replenish(&mut self) {
        for (n, taken) in self.taken.iter_mut().enumerate() {
            for event in taken.drain(..) {
                self.bench.vm.inject(&self.bench.cpus[n], n as u32, event);
            }
        }
    }
}

/// Returns the entries, exits and re-entries for each number of pending interrupts, and the
/// switches.
pub(crate) fn operations() -> Vec<Entry> {
    let batch = ENTERING as u64;
    let mut entries = Vec::new();
    for pending in PENDING {
        // Entry into free registers: the guest has ended its interrupts.
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

        // Exit after the guest's EOI of every interrupt in the registers.
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

        // A trap unrelated to interrupts: the list registers stay unchanged.
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

    for pending in [0, 4] {
        // Two vCPUs taking turns on one CPU, with interrupts pending for each.
        entries.push(Entry::new(format!("vcpu_switch/{pending}"), 2, move || {
            turns(pending, [(0, 0), (1, 0)])
        }));

        // One vCPU taking turns on two CPUs.
        entries.push(Entry::new(format!("vcpu_move/{pending}"), 2, move || {
            turns(pending, [(0, 0), (0, 1)])
        }));
    }
    entries
}

/// Makes an operation of two turns, with `pending` interrupts of each vCPU. A turn is the number of
/// a vCPU and of the CPU that loads it, enters it, leaves it and puts it.
fn turns(pending: u64, turns: [(usize, usize); 2]) -> Box<dyn Operation> {
    let runners = Runners::new(pending);
    for n in 0..2 {
        runners.bench.vm.put(&runners.bench.cpus[n], n);
    }
    operation(
        runners,
        |_| {},
        move |runners| {
            for (vcpu, cpu) in turns {
                let (vm, cpu) = (&runners.bench.vm, &runners.bench.cpus[cpu]);
                vm.enter(cpu, vcpu);
                vm.exit(cpu, vcpu);
                vm.put(cpu, vcpu);
            }
        },
    )
}

/// Register accesses of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Entry into free registers.
    pub enter: Accesses,
    /// An exit and an entry without an acknowledgement of the guest.
    pub reenter: Accesses,
    /// Exit after the guest's EOI of every interrupt in the registers.
    pub exit: Accesses,
}

/// Returns the accesses of `ICH_*` registers of entry, re-entry and exit with `pending` LPIs.
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

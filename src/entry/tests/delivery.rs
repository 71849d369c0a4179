//! From injection to deactivation: edges, levels, forwarded interrupts.

use std::vec;
use std::vec::Vec;

use crate::intid::IntId;
use crate::mmio::{MmioOutcome, Width};
use crate::vm::irq::ENABLED;
use crate::vm::residency::RECALL_LATER;

use super::{Bench, V0, V1, ppi, ppi_of, spi, spi_of};

#[test]
fn nothing_pending_touches_no_register() {
    let bench = Bench::new();
    let before = bench.guest().accesses();
    for _ in 0..10 {
        bench.enter();
        bench.exit();
    }
    assert_eq!((bench.guest().accesses() - before).total(), 0);
    bench.finish();
}

#[test]
fn one_new_edge_costs_two_accesses_and_reentry_one() {
    let bench = Bench::new();
    let intid = bench.edge_spi(40, 0xa0);
    let before = bench.guest().accesses();
    bench.inject(intid);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.end(40);
    bench.exit();
    assert_eq!((bench.guest().accesses() - before).total(), 2);
    assert!(bench.irq(intid).state().queued_on().is_none(), "pruned");
    // A guest that keeps it pending: the register stays.
    bench.inject(intid);
    bench.enter();
    bench.exit();
    let before = bench.guest().accesses();
    bench.enter();
    bench.exit();
    assert_eq!((bench.guest().accesses() - before).total(), 1);
    bench.finish();
}

#[test]
fn an_edge_while_active_is_delivered_again() {
    let bench = Bench::new();
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    // From another context, while the guest handles the first one: it must be kicked.
    bench.inject(intid);
    assert_eq!(bench.vm.host().kicks.lock().unwrap().len(), 1);
    bench.inject(intid);
    assert_eq!(bench.vm.host().kicks.lock().unwrap().len(), 1, "one IPI");
    bench.exit();
    bench.enter();
    bench.end(40);
    assert_eq!(bench.acknowledge(), 40);
    bench.end(40);
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    bench.finish();
}

#[test]
fn a_level_is_sampled_again_when_the_guest_is_done() {
    let bench = Bench::new();
    let irq = bench.vm.vm().distributor.spi(spi(50)).unwrap();
    bench.configure(irq, true, 0x80);
    let line = |high| bench.vm.set_spi_line(&bench.pin(), spi(50), high).unwrap();
    line(true);
    bench.enter();
    assert_eq!(bench.acknowledge(), 50);
    bench.end(50);
    assert!(bench.guest().maintenance(), "asks for the line");
    bench.exit();
    assert_eq!(*bench.vm.host().resampled.lock().unwrap(), [(V0, spi(50))]);
    // Still high: pending again.
    bench.enter();
    assert!(!bench.guest().maintenance());
    assert_eq!(bench.acknowledge(), 50);
    line(false);
    bench.end(50);
    bench.exit();
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    assert!(!bench.guest().maintenance());
    bench.exit();
    // A line that drops before the guest looks is withdrawn.
    line(true);
    bench.enter();
    bench.exit();
    line(false);
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert!(irq.state().queued_on().is_none());
    bench.finish();
}

#[test]
fn a_forwarded_interrupt_is_deactivated_by_the_guest_or_for_it() {
    let bench = Bench::new();
    let timer = ppi(27);
    bench.configure(
        bench.vm.vm().vcpu(V0).unwrap().private(timer).unwrap(),
        true,
        0,
    );
    bench
        .vm
        .connect_ppi(&bench.pin(), V0, timer, timer)
        .unwrap();
    let high = || bench.vm.host().high.lock().unwrap();
    high().push(ppi_of(0, 27));
    let fire = || {
        let _ = bench.vm.forward_ppi(&bench.pin(), V0, timer).unwrap();
    };
    fire();
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.end(27);
    assert_eq!(bench.guest().take_deactivations(), [27]);
    bench.exit();
    assert!(bench.vm.host().deactivated.lock().unwrap().is_empty());
    // Withdrawn by the guest while it is in a register: the hypervisor deactivates.
    fire();
    bench.enter();
    bench.exit();
    let irq = bench.vm.vm().vcpu(V0).unwrap().private(timer).unwrap();
    crate::delivery::change::clear_pending(bench.vm.vm(), &bench.pin(), irq);
    assert!(
        bench.vm.host().deactivated.lock().unwrap().is_empty(),
        "the register has it"
    );
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert_eq!(
        *bench.vm.host().deactivated.lock().unwrap(),
        [ppi_of(0, 27)]
    );
    bench.finish();
}

#[test]
fn a_forwarded_interrupt_stays_forwarded_across_cpus() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let intid = bench.edge_spi(40, 0xa0);
    bench.vm.connect_spi(&bench.pin(), intid, spi(70)).unwrap();
    let _ = bench.vm.forward_spi(&bench.pin(), intid).unwrap();
    bench.enter();
    bench.exit();
    bench.vm.vcpu_put(&bench.pin(), V0).unwrap();
    let pin = other.pin();
    bench.vm.enter(&pin, V0).unwrap();
    assert_eq!(other.interface().read_iar1(), 40);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    drop(pin);
    bench.enter();
    bench.end(40);
    assert_eq!(bench.guest().take_deactivations(), [70]);
    bench.exit();
    assert!(bench.vm.host().deactivated.lock().unwrap().is_empty());
    bench.finish();
}

#[test]
fn a_latched_level_leaves_no_maintenance_interrupt_behind() {
    let bench = Bench::new();
    bench.configure(bench.irq(spi(50)), true, 0x80);
    bench.inject(spi(50));
    bench.enter();
    assert_eq!(bench.acknowledge(), 50);
    bench.end(50);
    assert!(bench.guest().maintenance());
    bench.exit();
    bench.enter();
    assert!(!bench.guest().maintenance());
    bench.exit();
    bench.finish();
}

#[test]
fn registers_that_keep_their_value_are_not_written() {
    let bench = Bench::new();
    bench.inject(bench.edge_spi(40, 0x40));
    bench.inject(bench.edge_spi(41, 0x80));
    bench.enter();
    bench.exit();
    let before = bench.guest().accesses();
    let _ = bench
        .vm
        .vm()
        .vcpu(V0)
        .unwrap()
        .residency
        .notify(RECALL_LATER, || false);
    bench.enter();
    bench.exit();
    let accesses = bench.guest().accesses() - before;
    assert_eq!((accesses.lr_reads, accesses.lr_writes), (2, 0));
    bench.finish();
}

/// The physical interrupt that would be forwarded is disabled with the guest's, or active for it.
#[test]
fn a_forwarded_line_is_shown_as_pending_while_it_is_disabled() {
    let bench = Bench::new();
    let (vm, pin) = (&bench.vm, bench.pin());
    let gicd = vm.config().distributor;
    let sgi_base = vm.config().redistributors[0].base + 0x1_0000;
    vm.connect_spi(&pin, spi(40), spi(70)).unwrap();
    vm.connect_ppi(&pin, V0, ppi(27), ppi(30)).unwrap();
    let read = |gpa| vm.mmio_read(&pin, V1, gpa, Width::Word).unwrap();
    assert_eq!(read(gicd + 0x204), MmioOutcome::Done(0));
    *vm.host().high.lock().unwrap() = std::vec![spi_of(70), ppi_of(0, 30)];
    for register in [0x200, 0x280] {
        assert_eq!(read(gicd + register + 4), MmioOutcome::Done(1 << 8));
        assert_eq!(read(sgi_base + register), MmioOutcome::Done(1 << 27));
    }
    let _ = vm.mmio_write(&pin, gicd + 0xc08, Width::Word, 2 << 16);
    assert_eq!(
        read(gicd + 0x204),
        MmioOutcome::Done(0),
        "an edge is no line"
    );
    drop(pin);
    bench.finish();
}

#[test]
fn a_disabled_interrupt_leaves_the_register() {
    let bench = Bench::new();
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    bench.exit();
    bench.change(intid, |state| state.with(0, ENABLED));
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    let state = bench.irq(intid).state();
    assert!(state.pending() && state.queued_on().is_none(), "{state:?}");
    bench.configure(bench.irq(intid), false, 0xa0);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.end(40);
    bench.exit();
    bench.finish();
}

#[test]
fn random_sequences_lose_and_double_nothing() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let bench = Bench::new();
        let intids: Vec<IntId> = (0..8)
            .map(|n| bench.edge_spi(40 + n, next(31) as u8 * 8))
            .collect();
        let mut active: Vec<u32> = vec![];
        for _ in 0..200 {
            match next(8) {
                0..3 => bench.inject(intids[next(8) as usize]),
                3 => {
                    let intid = intids[next(8) as usize];
                    let on = next(2) == 0;
                    bench.change(intid, |state| state.with_flag(ENABLED, on));
                }
                4 => {
                    let intid = intids[next(8) as usize];
                    let priority = next(31) as u8 * 8;
                    bench.change(intid, |state| state.with_priority(priority));
                }
                5 => bench.vm.vcpu_put(&bench.pin(), V0).unwrap_or(()),
                _ => {
                    bench.enter();
                    for _ in 0..next(4) {
                        if next(2) == 0 {
                            let intid = bench.acknowledge();
                            if intid != 1023 {
                                assert!(!active.contains(&intid), "delivered twice");
                                active.push(intid);
                            }
                        } else if let Some(intid) = active.pop() {
                            bench.end(intid);
                        }
                    }
                    bench.exit();
                }
            }
        }
        bench.enter();
        bench.exit();
        bench.finish();
    }
}

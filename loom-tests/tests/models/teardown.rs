//! `teardown`: the end of a VM, and of a vCPU, against injections in flight. No edge is lost while
//! the VM lives. No reference is left at its end, in any state.
//!
//! Known faults elsewhere: a vCPU destroyed with interrupts on its list; a teardown concurrent with
//! injections in flight.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{LEVEL, Machine, PPI, SGI, SPI, V0, V1, check_serial, discard, sole, spawn, take};
use vgic::internals;
use vgic::{EntryError, TeardownError};

/// Tears the VM down on the last CPU using it, right after an injection and a `DISCARD`.
#[test]
fn the_last_one_takes_it_apart() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
            let _ = machine.inject(&cpu.pin());
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();
        sole(machine).finish(&cpu);
    });
}

/// Races a teardown against an entry. A VM taken apart has no vCPU on a CPU, and none is entered
/// afterwards. A VM that is not taken apart is as before.
#[test]
fn teardown_against_entry() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        let running = Arc::new(AtomicBool::new(false));

        let other = {
            let running = running.clone();
            spawn(&machine, 1, move |machine, cpu| {
                let entered = machine.vm.enter(&cpu.pin(), V0);
                if entered.is_ok() {
                    running.store(true, Relaxed);
                    machine.exit(cpu, V0);
                    running.store(false, Relaxed);
                    machine.put(cpu, V0);
                }
                entered
            })
        };
        let torn = machine.vm.teardown(&cpu.pin());
        assert!(torn.is_err() || !running.load(Relaxed), "a vCPU runs on");
        let entered = other.join();

        match torn {
            Ok(report) => assert_eq!(report.references, 0),
            Err(error) => {
                assert_eq!((error, entered), (TeardownError::Loaded(V0), Ok(())));
                assert_eq!(machine.serve(&cpu, V0), 1);
                machine.vm.teardown(&cpu.pin()).unwrap();
            }
        }
        let again = machine.vm.enter(&cpu.pin(), V0);
        assert_eq!(again, Err(EntryError::TornDown));
        assert_eq!(machine.listed(), 0);
    });
}

/// Races a teardown against another. One of them takes the VM apart.
#[test]
fn teardown_against_teardown() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.vm.teardown(&cpu.pin()).map(|report| report.pending)
        });
        let torn = machine.vm.teardown(&cpu.pin()).map(|report| report.pending);
        let results = [torn, other.join()];
        let taken = results.iter().filter(|torn| torn.is_ok()).count();
        assert_eq!(taken, 1, "{results:?}");
        assert!(results.contains(&Err(TeardownError::TornDown)));
        assert_eq!(machine.listed(), 0);
    });
}

/// Races a reset against an entry of vCPU 0. A guest that finds the controller reset powers on and
/// programs vCPU 1, and the reset does not undo it.
#[test]
fn reset_against_entry() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V1);
        machine.exit(&cpu, V1);
        machine.vm.power_off(&cpu.pin(), V1).unwrap();

        let other = spawn(&machine, 1, |machine, cpu| {
            if machine.vm.enter(&cpu.pin(), V0).is_err() {
                return false;
            }
            machine.exit(cpu, V0);
            let is_reset = machine.read_gicd(cpu, V0, 0) & 3 == 0; // CTLR
            if is_reset {
                machine.gicr(&cpu.pin(), V1, 0x14, 0); // WAKER
                machine.vm.power_on(V1);
            }
            machine.put(cpu, V0);
            is_reset
        });
        let reset = machine.vm.reset(&cpu.pin());
        if other.join() {
            assert_eq!(reset, Ok(()));
            assert!(machine.vm.is_powered_on(V1), "CPU_ON is lost");
            assert_eq!(machine.read_gicr(&cpu, V1, 0x14), 0, "WAKER is lost");
        }
    });
}

/// Races a teardown against injections on another CPU. The drop of the VM puts every reference that
/// the teardown has not put.
#[test]
fn teardown_against_injection() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.vm.teardown(&cpu.pin()).unwrap();
        assert!(machine.msi(&cpu.pin(), 0, 0).is_none(), "it is unmapped");
        other.join();

        let Machine { domain, vm, .. } = sole(machine);
        drop(vm);
        let totals = domain.totals();
        assert_eq!(totals.mapping_gets, totals.mapping_puts);
    });
}

/// Drops a VM with interrupts in its vCPU's list registers, without a teardown call. The interrupts
/// are found and every reference is put.
#[test]
fn dropped_with_list_registers_in_use() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
            let _ = machine.inject(&cpu.pin());
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        other.join();

        let Machine { domain, vm, .. } = sole(machine);
        drop(vm);
        drop(domain);
    });
}

/// Races a power-off against injections, with an interrupt in a list register. The vCPU takes every
/// interrupt after a power-on, on another CPU.
#[test]
fn power_off_against_injection() {
    check_serial(4, || {
        let machine = Arc::new(Machine::new(1));
        let (cpu, elsewhere) = (machine.cpu(0), machine.cpu(1));
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 2, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
            let _ = machine.inject_spi(&cpu.pin());
        });
        machine.exit(&cpu, V0);
        machine.vm.power_off(&cpu.pin(), V0).unwrap();
        other.join();

        assert_eq!(machine.listed(), 2, "a vCPU that is off lost interrupts");
        machine.vm.power_on(V0);
        assert_eq!(machine.serve(&elsewhere, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Races a power-off against a power-on by another CPU, as of a guest that turns a CPU off and on
/// again. A CPU that has powered the vCPU on sees what was written before the power-off, and the
/// CPU that enters the vCPU sees what was written before the power-on.
#[test]
fn power_off_against_power_on() {
    check_serial(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let last = Arc::new(AtomicBool::new(false));
        let context = Arc::new(AtomicBool::new(false));

        let other = spawn(&machine, 1, {
            let (last, context) = (last.clone(), context.clone());
            move |machine, _| {
                context.store(true, Relaxed);
                let on = machine.vm.power_on(V0);
                assert!(!on || last.load(Relaxed), "its last life is unknown");
                on
            }
        });
        {
            let pin = cpu.pin();
            // The entry into the epoch is a fence, and would publish the store by itself.
            let _ = internals::guard(&pin);
            last.store(true, Relaxed);
            machine.vm.power_off(&pin, V0).unwrap();
        }
        match machine.vm.enter(&cpu.pin(), V0) {
            Ok(()) => {
                assert!(context.load(Relaxed), "its context is unknown");
                machine.exit(&cpu, V0);
                machine.put(&cpu, V0);
            }
            Err(error) => assert_eq!(error, EntryError::PoweredOff(V0)),
        }
        assert_eq!(other.join(), machine.vm.is_powered_on(V0));
        sole(machine).finish(&cpu);
    });
}

/// Races a reset against the put of a vCPU. The reset is refused, or resets the saved state.
#[test]
fn reset_against_put() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let private = 1 << PPI | 1 << LEVEL | 1 << SGI;
        // The reset has nothing to report to the host. A report has a fence, and would order the
        // reset by itself.
        machine.gicd(&cpu.pin(), 0x184, 1 << (SPI - 32)); // ICENABLER1
        machine.gicd(&cpu.pin(), 0xc08, 0); // ICFGR2
        machine.gicr(&cpu.pin(), V0, 0x1_0180, private); // ICENABLER0
        machine.gicr(&cpu.pin(), V0, 0x1_0c04, 0); // ICFGR1
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            // So would the entry into the epoch.
            let _ = internals::guard(&pin);
            machine.vm.reset(&pin)
        });
        machine.put(&cpu, V0);
        let reset = other.join();

        assert!(matches!(reset, Ok(()) | Err(TeardownError::Loaded(V0))));
        sole(machine).finish(&cpu);
    });
}

/// Races a power-off against a retarget of the interrupt in a list register. The other vCPU gets
/// the interrupt.
#[test]
fn power_off_against_retarget() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| machine.route(&cpu.pin(), V1));
        machine.exit(&cpu, V0);
        machine.vm.power_off(&cpu.pin(), V0).unwrap();
        other.join();

        assert_eq!(
            machine.serve(&cpu, V1),
            1,
            "it stayed with a vCPU that is off"
        );
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a put against an injection and an entry on another CPU.
#[test]
fn put_against_injection_and_entry() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);

        let injector = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let elsewhere = spawn(&machine, 2, |machine, cpu| {
            if machine.vm.enter(&cpu.pin(), V0).is_err() {
                return 0;
            }
            let taken = take(cpu);
            machine.exit(cpu, V0);
            machine.put(cpu, V0);
            taken
        });
        machine.put(&cpu, V0);
        injector.join();
        let taken = elsewhere.join();

        assert_eq!(taken + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

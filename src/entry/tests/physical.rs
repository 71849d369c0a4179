//! Physical interrupts that are forwarded have one owner, from the forwarding to the deactivation.

use std::vec::Vec;

use crate::delivery::change;
use crate::epoch::CpuPin;
use crate::host::PhysicalInterrupt;
use crate::intid::IntId;
use crate::mmio::{MmioOutcome, Width};
use crate::vm::irq::{ACTIVE, ENABLED, Irq, PENDING};
use crate::{Blocked, InjectError};

use super::{Bench, V0, V1, ppi, ppi_of, spi, spi_of};

impl Bench {
    /// Returns PPI 27 of vCPU 0, a level, connected to the physical PPI 27.
    fn timer(&self) -> IntId {
        let timer = ppi(27);
        self.configure(self.timer_irq(), true, 0);
        (self.vm.connect_ppi(&self.pin(), V0, timer, timer)).unwrap();
        timer
    }

    fn timer_irq(&self) -> &Irq {
        self.vm.vm().vcpu(V0).unwrap().private(ppi(27)).unwrap()
    }

    /// Makes the lines of these physical interrupts high, and all others low.
    fn set_lines(&self, high: &[PhysicalInterrupt]) {
        *self.vm.host().high.lock().unwrap() = high.to_vec();
    }

    /// The timer fires on CPU 0.
    fn fire(&self) {
        self.set_lines(&[ppi_of(0, 27)]);
        let _ = (self.vm.forward_ppi(&self.pin(), V0, ppi(27))).unwrap();
    }

    fn put(&self) {
        self.vm.vcpu_put(&self.pin(), V0).unwrap();
    }

    /// Returns the deactivations by the host since the last call, in order.
    fn deactivated(&self) -> Vec<PhysicalInterrupt> {
        let mut all = core::mem::take(&mut *self.vm.host().deactivated.lock().unwrap());
        all.sort_unstable();
        all
    }

    /// Returns `GICR_ISPENDR0` of vCPU 0.
    fn ispendr0(&self) -> MmioOutcome {
        let sgi_base = self.vm.config().redistributors[0].base + 0x1_0000;
        (self
            .vm
            .mmio_read(&self.pin(), V0, sgi_base + 0x200, Width::Word))
        .unwrap()
    }
}

// --- connection ----------------------------------------------------------------------------------

#[test]
fn without_a_connection_nothing_is_forwarded() {
    let bench = Bench::new();
    let (vm, pin) = (&bench.vm, bench.pin());
    let refused = Err(InjectError::NotConnected);
    let _ = bench.edge_spi(40, 0xa0);
    assert_eq!(vm.forward_spi(&pin, spi(40)), refused);
    assert_eq!(vm.forward_ppi(&pin, V0, ppi(27)), refused);
    assert_eq!(vm.forward_ppi(&pin, V1, ppi(27)), refused);
    assert_eq!(
        vm.disconnect_spi(&pin, spi(40)),
        Err(InjectError::NotConnected)
    );
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();

    vm.connect_spi(&pin, spi(40), spi(70)).unwrap();
    vm.disconnect_spi(&pin, spi(40)).unwrap();
    assert_eq!(vm.forward_spi(&pin, spi(40)), refused);
    assert_eq!(bench.deactivated(), []);
    drop(pin);
    bench.finish();
}

#[test]
fn a_physical_interrupt_has_one_connection() {
    let bench = Bench::new();
    let (vm, pin) = (&bench.vm, bench.pin());
    let taken = Err(InjectError::AlreadyConnected);
    vm.connect_spi(&pin, spi(40), spi(70)).unwrap();
    assert_eq!(vm.connect_spi(&pin, spi(40), spi(70)), Ok(()), "once more");
    assert_eq!(vm.connect_spi(&pin, spi(40), spi(71)), taken);
    assert_eq!(vm.connect_spi(&pin, spi(41), spi(70)), taken);
    assert_eq!(vm.connect_ppi(&pin, V1, ppi(20), spi(70)), taken);

    // A physical PPI belongs to a CPU: each vCPU may have one of that number.
    vm.connect_ppi(&pin, V0, ppi(27), ppi(27)).unwrap();
    vm.connect_ppi(&pin, V1, ppi(27), ppi(27)).unwrap();
    assert_eq!(vm.connect_ppi(&pin, V0, ppi(28), ppi(27)), taken);
    let none = Err(InjectError::UnknownInterrupt);
    assert_eq!(vm.connect_spi(&pin, spi(42), ppi(27)), none, "no CPU's");

    vm.disconnect_spi(&pin, spi(40)).unwrap();
    vm.connect_spi(&pin, spi(41), spi(70)).unwrap();
    vm.connect_spi(&pin, spi(40), spi(71)).unwrap();
    drop(pin);
    bench.finish();
}

#[test]
fn a_disconnected_interrupt_is_deactivated_wherever_it_is() {
    let bench = Bench::new();
    let (vm, pin) = (&bench.vm, bench.pin());
    for n in 40..44 {
        let intid = bench.edge_spi(n, 0xa0);
        bench.configure(bench.irq(intid), n != 43, 0xa0);
        vm.connect_spi(&pin, intid, spi(n + 100)).unwrap();
        bench.set_lines(&[spi_of(140), spi_of(141), spi_of(142), spi_of(143)]);
        let _ = vm.forward_spi(&pin, intid).unwrap();
    }
    bench.enter();
    let active = bench.acknowledge();
    bench.exit();
    for n in 40..44 {
        vm.disconnect_spi(&pin, spi(n)).unwrap();
    }
    bench.enter();
    bench.exit();
    let all = [spi_of(140), spi_of(141), spi_of(142), spi_of(143)];
    assert_eq!(bench.deactivated(), all);

    // Of the levels nothing is left but what is active; an edge stays.
    bench.enter();
    assert_eq!(bench.guest().read_hppir1(), 43);
    bench.end(active);
    assert_eq!(bench.guest().take_deactivations(), [] as [u32; 0]);
    assert_eq!(bench.acknowledge(), 43);
    bench.end(43);
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    drop(pin);
    bench.finish();
}

// --- a PPI belongs to a CPU ----------------------------------------------------------------------

/// The timer was saved with its vCPU, and fires on the vCPU's next CPU.
#[test]
fn a_ppi_pending_at_the_put_is_released_there() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    for in_register in [true, false] {
        bench.fire();
        if in_register {
            bench.enter();
            bench.exit();
        }
        bench.set_lines(&[]);
        bench.put();
        assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);

        let pin = other.pin();
        bench.vm.enter(&pin, V0).unwrap();
        assert_eq!(other.interface().read_iar1(), 1023, "it has not fired here");
        bench.vm.exit(&pin, V0).unwrap();
        bench.set_lines(&[ppi_of(1, 27)]);
        let _ = bench.vm.forward_ppi(&pin, V0, ppi(27)).unwrap();
        bench.vm.enter(&pin, V0).unwrap();
        assert_eq!(other.interface().read_iar1(), 27);
        other.interface().write_eoir1(27);
        assert_eq!(other.interface().take_deactivations(), [27]);
        bench.vm.exit(&pin, V0).unwrap();
        bench.vm.vcpu_put(&pin, V0).unwrap();
        assert_eq!(bench.deactivated(), []);
        drop(pin);
        bench.enter();
        bench.exit();
    }
    bench.finish();
}

#[test]
fn an_edge_of_a_ppi_is_not_lost_by_the_put() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    bench.configure(bench.timer_irq(), false, 0);
    bench.fire();
    bench.put();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    let pin = other.pin();
    bench.vm.enter(&pin, V0).unwrap();
    assert_eq!(other.interface().read_iar1(), 27);
    other.interface().write_eoir1(27);
    assert_eq!(other.interface().take_deactivations(), [] as [u32; 0]);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    drop(pin);
    bench.enter();
    bench.exit();
    bench.finish();
}

/// The vCPU is preempted in the handler of its timer, and goes on elsewhere.
#[test]
fn a_ppi_active_at_the_put_is_released_there() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    bench.fire();
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.exit();
    bench.put();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);

    let pin = other.pin();
    let guest = other.interface();
    bench.vm.enter(&pin, V0).unwrap();
    bench.vm.exit(&pin, V0).unwrap();
    // The line is high, and the physical PPI of CPU 1 is not active: it fires there.
    bench.set_lines(&[ppi_of(1, 27)]);
    let _ = bench.vm.forward_ppi(&pin, V0, ppi(27)).unwrap();
    bench.vm.enter(&pin, V0).unwrap();
    assert_eq!(guest.read_iar1(), 1023, "it is active");
    // The handler has set the timer anew.
    bench.set_lines(&[]);
    guest.write_eoir1(27);
    assert_eq!(guest.take_deactivations(), [] as [u32; 0], "CPU 1's");
    assert!(guest.maintenance());
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.enter(&pin, V0).unwrap();
    assert_eq!(guest.read_iar1(), 1023, "the line is low");
    assert_eq!(bench.deactivated(), [ppi_of(1, 27)]);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    assert_eq!(bench.deactivated(), []);
    drop(pin);
    bench.enter();
    bench.exit();
    bench.finish();
}

#[test]
fn a_ppi_of_a_cpu_without_the_vcpu_is_refused() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    let forward = |pin: &CpuPin<'_>| bench.vm.forward_ppi(pin, V0, ppi(27));
    assert_eq!(forward(&other.pin()), Err(InjectError::NotLoaded));
    bench.put();
    assert_eq!(forward(&bench.pin()), Err(InjectError::NotLoaded));
    bench.vm.enter(&other.pin(), V0).unwrap();
    bench.vm.exit(&other.pin(), V0).unwrap();
    assert!(forward(&other.pin()).is_ok());
    bench.vm.vcpu_put(&other.pin(), V0).unwrap();
    assert_eq!(bench.deactivated(), [ppi_of(1, 27)]);
    bench.enter();
    bench.exit();
    bench.finish();
}

/// `ICACTIVER` and `ICPENDR` of another vCPU: the CPU of the PPI deactivates it.
#[test]
fn another_vcpu_ends_a_ppi_on_its_own_cpu() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    bench.guest().write_ctlr(1 << 1).unwrap();
    // In no list register.
    bench.update(bench.timer_irq(), |state| state.with(0, ENABLED));
    for active in [true, false] {
        bench.fire();
        let (vm, irq) = (bench.vm.vm(), bench.timer_irq());
        if active {
            bench.update(irq, |state| state.with(ACTIVE, PENDING));
            change::deactivate(vm, &other.pin(), irq);
        } else {
            change::clear_pending(vm, &other.pin(), irq);
        }
        assert_eq!(bench.deactivated(), [], "CPU 1 cannot");
        assert!(!bench.timer_irq().state().shows_pending());
        assert!(!bench.timer_irq().state().shows_active());
        bench.enter();
        assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
        assert_eq!(bench.acknowledge(), 1023);
        bench.exit();
        bench.put();
        assert_eq!(bench.deactivated(), []);
        bench.enter();
        bench.exit();
    }
    // Without the books: the test has made a pending state active.
}

#[test]
fn another_vcpu_ends_a_ppi_and_its_vcpu_is_put() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    bench.timer();
    bench.fire();
    change::clear_pending(bench.vm.vm(), &other.pin(), bench.timer_irq());
    bench.put();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    bench.enter();
    bench.exit();
    assert_eq!(bench.deactivated(), []);
    bench.finish();
}

/// Puts a vCPU with a PPI that was connected to a physical PPI once, and is connected to a physical
/// SPI now. A physical SPI is of no CPU.
#[test]
fn a_put_releases_no_physical_spi() {
    let bench = Bench::new();
    let timer = bench.timer();
    bench.vm.disconnect_ppi(&bench.pin(), V0, timer).unwrap();
    (bench.vm.connect_ppi(&bench.pin(), V0, timer, spi(140))).unwrap();
    let _ = (bench.vm.forward_ppi(&bench.pin(), V0, timer)).unwrap();
    bench.set_lines(&[spi_of(140)]);
    bench.enter();
    bench.exit();
    bench.put();
    assert_eq!(bench.deactivated(), []);
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.end(27);
    assert_eq!(bench.guest().take_deactivations(), [140]);
    bench.exit();
    bench.finish();
}

#[test]
fn the_power_off_of_a_vcpu_releases_its_ppis() {
    let bench = Bench::new();
    bench.timer();
    bench.fire();
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.exit();
    bench.vm.power_off(&bench.pin(), V0).unwrap();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    bench.vm.power_on(V0);
    bench.enter();
    bench.exit();
    bench.finish();
}

// --- the end -------------------------------------------------------------------------------------

/// Forwards 140, 141 and 143: the first is active, the second pending, the third disabled.
fn forward_three(bench: &Bench) {
    for n in 40..44 {
        let intid = bench.edge_spi(n, 0xa0);
        (bench.vm.connect_spi(&bench.pin(), intid, spi(n + 100))).unwrap();
    }
    for n in [40, 41, 43] {
        let _ = bench.vm.forward_spi(&bench.pin(), spi(n)).unwrap();
    }
    bench.change(spi(43), |state| state.with(0, ENABLED));
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    assert_eq!(bench.deactivated(), []);
}

#[test]
fn teardown_deactivates_what_is_forwarded_and_no_more() {
    let bench = Bench::new();
    forward_three(&bench);
    bench.timer();
    bench.fire();
    bench.put();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    let _ = bench.vm.teardown(&bench.pin()).unwrap();
    let three = [spi_of(140), spi_of(141), spi_of(143)];
    assert_eq!(bench.deactivated(), three);

    let (vm, pin) = (&bench.vm, bench.pin());
    assert_eq!(
        vm.forward_spi(&pin, spi(42)),
        Err(InjectError::NotConnected)
    );
    let torn_down = Err(InjectError::TornDown);
    assert_eq!(vm.connect_spi(&pin, spi(42), spi(142)), torn_down);
}

#[test]
fn a_dropped_vm_deactivates_what_is_forwarded_and_no_more() {
    let bench = Bench::new();
    forward_three(&bench);
    bench.timer();
    bench.fire();
    // In a list register too, and not forwarded.
    bench.inject(bench.edge_spi(50, 0xa0));
    bench.enter();
    bench.exit();
    let log = bench.vm.host().deactivated.clone();
    drop(bench.vm);
    let mut all = log.lock().unwrap().clone();
    all.sort_unstable();
    let four = [ppi_of(0, 27), spi_of(140), spi_of(141), spi_of(143)];
    assert_eq!(all, four);
}

// --- samples -------------------------------------------------------------------------------------

/// Interrupts masked, the compare value in the past, the timer on, off, a look, and unmasked.
#[test]
fn a_level_whose_line_falls_before_it_is_taken_is_not_pending() {
    let bench = Bench::new();
    bench.timer();
    bench.fire();
    bench.enter();
    bench.set_lines(&[]);
    bench.exit();
    assert_eq!(bench.ispendr0(), MmioOutcome::Done(0));
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);

    // A line that stays high costs nothing but the sample.
    bench.fire();
    bench.enter();
    bench.exit();
    assert_eq!(bench.ispendr0(), MmioOutcome::Done(1 << 27));
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.end(27);
    bench.exit();
    assert_eq!(bench.deactivated(), []);
    bench.finish();
}

/// Forwarded, and disabled by the guest until the line has fallen.
#[test]
fn a_level_is_sampled_when_it_is_enabled() {
    let bench = Bench::new();
    bench.timer();
    let sgi_base = bench.vm.config().redistributors[0].base + 0x1_0000;
    let write = |at| {
        let value = 1 << 27;
        (bench
            .vm
            .mmio_write(&bench.pin(), sgi_base + at, Width::Word, value))
        .unwrap()
    };
    bench.fire();
    let _ = write(0x180);
    bench.enter();
    bench.exit();
    bench.set_lines(&[]);
    let _ = write(0x100);
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    bench.finish();
}

/// More than fit: the sixth waits outside the list registers, and its line falls there.
#[test]
fn a_level_that_has_waited_is_sampled_when_it_comes_in() {
    let bench = Bench::new();
    for n in 50..55 {
        bench.inject(bench.edge_spi(n, 0x40));
    }
    let level = spi(40);
    bench.configure(bench.irq(level), true, 0xa0);
    bench.vm.connect_spi(&bench.pin(), level, spi(140)).unwrap();
    bench.set_lines(&[spi_of(140)]);
    let _ = bench.vm.forward_spi(&bench.pin(), level).unwrap();
    bench.enter();
    bench.set_lines(&[]);
    for _ in 50..55 {
        if bench.guest().maintenance() {
            bench.exit();
            bench.enter();
        }
        let intid = bench.acknowledge();
        assert!((50..55).contains(&intid), "{intid}");
        bench.end(intid);
        bench.exit();
        bench.enter();
    }
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert_eq!(bench.deactivated(), [spi_of(140)]);
    bench.finish();
}

/// The vCPU sleeps with the interrupt masked, while the line falls.
#[test]
fn a_level_is_sampled_after_a_sleep() {
    for put in [false, true] {
        let bench = Bench::new();
        let level = spi(40);
        bench.configure(bench.irq(level), true, 0xa0);
        bench.vm.connect_spi(&bench.pin(), level, spi(140)).unwrap();
        bench.guest().write_pmr(0).unwrap();
        bench.set_lines(&[spi_of(140)]);
        let _ = bench.vm.forward_spi(&bench.pin(), level).unwrap();
        assert_eq!(bench.vm.block(&bench.pin(), V0).unwrap(), Blocked::Yes);
        bench.set_lines(&[]);
        if put {
            bench.put();
        }
        bench.enter();
        bench.guest().write_pmr(0xf8).unwrap();
        assert_eq!(bench.acknowledge(), 1023, "put: {put}");
        bench.exit();
        assert_eq!(bench.deactivated(), [spi_of(140)]);
        bench.finish();
    }
}

/// The guest ends the interrupt, and then quiets the device, as some handlers do: with an exit in
/// between, the second delivery is withdrawn.
#[test]
fn a_level_ended_before_its_device_is_quiet_is_withdrawn_at_the_next_exit() {
    let bench = Bench::new();
    bench.timer();
    bench.fire();
    bench.enter();
    assert_eq!(bench.acknowledge(), 27);
    bench.end(27);
    bench.exit();
    bench.fire();
    bench.enter();
    bench.set_lines(&[]);
    bench.exit();
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert_eq!(bench.deactivated(), [ppi_of(0, 27)]);
    bench.finish();
}

/// Disconnects an edge-triggered PPI from another CPU, while the PPI waits on the list, and while
/// it is about to be staged.
#[test]
fn a_disconnected_ppi_goes_into_no_list_register() {
    for staged in [false, true] {
        let bench = Bench::new();
        let other = bench.second_cpu();
        let vm = &bench.vm;
        let irq = bench.timer_irq();
        let timer = bench.timer();
        bench.configure(irq, false, 0);
        bench.enter();
        bench.exit();
        if staged {
            bench.update(irq, |state| state.with(0, ENABLED));
        } else {
            let spi = bench.edge_spi(40, 0xa0);
            let _ = vm.inject_spi(&other.pin(), spi).unwrap();
        }
        bench.fire();
        vm.disconnect_ppi(&other.pin(), V0, timer).unwrap();
        bench.update(irq, |state| state.with(ENABLED, 0));

        bench.enter();
        assert_eq!(bench.deactivated(), [ppi_of(0, 27)], "staged: {staged}");
        assert_eq!(bench.acknowledge(), 27, "the edge stays");
        bench.end(27);
        assert_eq!(bench.guest().take_deactivations(), [] as [u32; 0]);
        bench.exit();
        bench.finish();
    }
}

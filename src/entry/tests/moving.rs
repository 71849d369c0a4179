//! Other vCPUs and other CPUs: routing, moving, blocking, and what is refused.

use crate::cpu_interface::software::SoftwareInterface;
use crate::intid::{CpuId, VcpuId};
use crate::vm::irq::Changed;
use crate::{Blocked, Cpu, EntryError, PinnedCpu};

use super::{Bench, V0, V1};

#[test]
fn a_pending_and_active_interrupt_wakes_nobody() {
    let bench = Bench::new();
    let intid = bench.edge_spi(40, 0xa0);
    bench.guest().write_ctlr(1 << 1).unwrap();
    bench.inject(intid);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    // EOImode 1: the running priority drops, the interrupt stays active.
    bench.end(40);
    bench.exit();
    bench.inject(intid);
    let block = || bench.vm.block(&bench.pin(), V0).unwrap();
    assert_eq!(block(), Blocked::Yes);
    let Changed { follow_up, .. } = bench.irq(intid).clear_active();
    crate::delivery::queue::follow_up(bench.vm.vm(), &bench.pin(), bench.irq(intid), follow_up);
    assert_eq!(block(), Blocked::No);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    bench.finish();
}

/// Exits vCPU 1, which runs on `other`, enters it again to take interrupt 40, and puts it.
fn take_40_as_vcpu_1(
    bench: &Bench,
    other: &Cpu<SoftwareInterface>,
    pin: &PinnedCpu<'_, SoftwareInterface>,
) {
    bench.vm.exit(pin, V1).unwrap();
    bench.vm.enter(pin, V1).unwrap();
    assert_eq!(other.interface().read_iar1(), 40);
    other.interface().write_eoir1(40);
    bench.vm.exit(pin, V1).unwrap();
    bench.vm.vcpu_put(pin, V1).unwrap();
}

#[test]
fn retargeting_moves_what_waits_and_kicks_both() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let pin = other.pin();
    bench.vm.enter(&pin, V1).unwrap();
    bench.open(&other);
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    // In a register of vCPU 0, which runs: it must give it up, then vCPU 1 must get it.
    bench.change(intid, |state| state.with_target(Some(V1)));
    assert_eq!(*bench.vm.host().kicks.lock().unwrap(), [(CpuId(0), V0)]);
    bench.exit();
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    assert_eq!(bench.vm.host().kicks.lock().unwrap()[1..], [(CpuId(1), V1)]);
    take_40_as_vcpu_1(&bench, &other, &pin);
    bench.exit();
    drop(pin);
    bench.finish();
}

#[test]
fn an_active_and_pending_interrupt_that_is_rerouted_goes_there_when_it_ends() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let pin = other.pin();
    bench.vm.enter(&pin, V1).unwrap();
    bench.open(&other);
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    bench.change(intid, |state| state.with_target(Some(V1)));
    bench.inject(intid);
    bench.enter();
    bench.end(40);
    assert_eq!(bench.acknowledge(), 1023, "it is the other vCPU's");
    assert!(bench.guest().maintenance(), "nothing else makes it exit");
    bench.exit();
    take_40_as_vcpu_1(&bench, &other, &pin);
    drop(pin);
    bench.finish();
}

#[test]
fn a_vcpu_moves_between_cpus_with_all_its_state() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let active = bench.edge_spi(40, 0x40);
    bench.inject(active);
    bench.inject(bench.edge_spi(41, 0x80));
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    let pin = other.pin();
    assert_eq!(bench.vm.enter(&pin, V0), Err(EntryError::OnAnotherCpu(V0)));
    bench.vm.vcpu_put(&bench.pin(), V0).unwrap();
    bench.vm.enter(&pin, V0).unwrap();
    let guest = other.interface();
    assert_eq!(guest.read_rpr(), Ok(0x40));
    assert_eq!(guest.read_iar1(), 1023);
    guest.write_eoir1(40);
    assert_eq!(guest.read_iar1(), 41);
    guest.write_eoir1(41);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    bench.enter();
    bench.exit();
    drop(pin);
    bench.finish();
}

#[test]
fn the_next_vcpu_of_a_cpu_finds_no_priority_active() {
    let bench = Bench::new();
    bench.inject(bench.edge_spi(40, 0x40));
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    let pin = bench.pin();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    bench.vm.enter(&pin, V1).unwrap();
    assert_eq!(bench.guest().read_rpr(), Ok(0xff));
    // Of the registers that a guest may write, too.
    bench.guest().write_ap1r(0, 1 << 3);
    bench.vm.exit(&pin, V1).unwrap();
    bench.vm.vcpu_put(&pin, V1).unwrap();
    drop(pin);

    bench.enter();
    assert_eq!(bench.guest().read_rpr(), Ok(0x40));
    bench.end(40);
    bench.exit();
    bench.finish();
}

#[test]
fn blocking_honours_mask_and_groups_and_loses_no_wake() {
    let bench = Bench::new();
    let block = || bench.vm.block(&bench.pin(), V0).unwrap();
    let intid = bench.edge_spi(40, 0xa0);
    assert_eq!(block(), Blocked::Yes);
    bench.inject(intid);
    assert_eq!(*bench.vm.host().wakes.lock().unwrap(), [V0]);
    assert_eq!(block(), Blocked::No);
    // Masked: nothing to wake up for.
    bench.guest().write_pmr(0xa0).unwrap();
    assert_eq!(block(), Blocked::Yes);
    bench.guest().write_pmr(0xf8).unwrap();
    assert_eq!(block(), Blocked::No);
    bench.guest().write_igrpen1(false);
    assert_eq!(block(), Blocked::Yes);
    bench.guest().write_igrpen1(true);
    // Not more urgent than what runs.
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    bench.inject(bench.edge_spi(41, 0xa0));
    assert_eq!(block(), Blocked::Yes);
    bench.inject(bench.edge_spi(42, 0x90));
    assert_eq!(block(), Blocked::No);
    bench.finish();
}

/// The CPU that writes `GICD_CTLR` stops after the write, and notifies nobody.
#[test]
fn an_enabled_group_is_filled_without_a_notification() {
    let bench = Bench::new();
    let block = || bench.vm.block(&bench.pin(), V0).unwrap();
    let write = |groups| drop(bench.vm.vm.distributor.control.write(groups));
    write(0);
    bench.inject(bench.edge_spi(40, 0xa0));
    assert_eq!(block(), Blocked::Yes);
    bench.enter();
    assert!(!bench.guest().virq());
    bench.exit();
    write(0b10);
    assert_eq!(block(), Blocked::No);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    bench.finish();
}

#[test]
fn misuse_is_a_typed_error() {
    let bench = Bench::new();
    let pin = bench.pin();
    let unknown = VcpuId::new(7).unwrap();
    let (vm, cpu) = (&bench.vm, &bench.cpu);
    assert_eq!(
        vm.enter(&pin, unknown),
        Err(EntryError::UnknownVcpu(unknown))
    );
    assert_eq!(vm.exit(&pin, V0), Err(EntryError::NotEntered(V0)));
    assert_eq!(vm.enter(&pin, V1), Err(EntryError::CpuInUse));
    vm.enter(&pin, V0).unwrap();
    assert_eq!(vm.enter(&pin, V0), Err(EntryError::AlreadyEntered(V0)));
    assert_eq!(vm.vcpu_put(&pin, V0), Err(EntryError::AlreadyEntered(V0)));
    let look = vm.has_pending(&pin, V0);
    assert_eq!(look, Err(EntryError::AlreadyEntered(V0)));
    vm.exit(&pin, V0).unwrap();
    vm.power_off(&pin, V0).unwrap();
    assert_eq!(vm.vcpu_put(&pin, V0), Err(EntryError::NotEntered(V0)));
    assert_eq!(vm.enter(&pin, V0), Err(EntryError::PoweredOff(V0)));
    assert!(vm.power_on(V0));
    vm.enter(&pin, V0).unwrap();
    assert!(!cpu.interface().read_igrpen1(), "reset");
    vm.exit(&pin, V0).unwrap();
    drop(pin);
    bench.finish();
}

/// For Miri: what waits is pointed to, and must be found by these pointers wherever the VM is.
#[test]
fn a_vm_may_be_moved_while_interrupts_wait() {
    fn go_on(bench: Bench) {
        bench.enter();
        let taken = bench.guest().read_iar1();
        assert_eq!(taken, 40);
        bench.guest().write_eoir1(taken);
        bench.exit();
        bench.finish();
    }
    let bench = Bench::new();
    let intid = bench.edge_spi(40, 0xa0);
    let _ = bench.vm.inject_spi(&bench.pin(), intid).unwrap();
    go_on(bench);
}

//! More interrupts than list registers, and groups that are disabled.

use std::vec::Vec;

use crate::Cpu;
use crate::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use crate::cpu_interface::{CpuInterface, Vtr, hcr, misr, vmcr};
use crate::intid::CpuId;
use crate::lr::ListRegister;
use crate::vm::irq::GROUP1;

use super::{Bench, V0, spi};

/// Pending interrupts beyond the registers come in order of priority, whatever the order of
/// arrival.
#[test]
fn overflow_is_served_in_order_of_priority() {
    for count in [5_u32, 16, 64, 900] {
        let bench = Bench::new();
        let mut expected = Vec::new();
        for n in 0..count {
            let priority = ((n * 37) % 29 * 8) as u8;
            bench.inject(bench.edge_spi(32 + n, priority));
            expected.push((priority, 32 + n));
        }
        expected.sort_unstable();
        let mut seen = Vec::new();
        while seen.len() < count as usize {
            bench.enter();
            loop {
                let intid = bench.acknowledge();
                if intid == 1023 {
                    break;
                }
                seen.push((bench.irq(spi(intid)).state().priority(), intid));
                bench.end(intid);
            }
            assert!(seen.len() == count as usize || bench.guest().maintenance());
            bench.exit();
        }
        let sorted = |list: &[(u8, u32)]| list.iter().map(|(p, _)| *p).collect::<Vec<_>>();
        assert_eq!(sorted(&seen), sorted(&expected));
        seen.sort_unstable();
        assert_eq!(seen, expected);
        bench.finish();
    }
}

/// Nested to 20 levels with four registers, then ended from the inside out: EOIcount ends those
/// that were left out, and only those.
#[test]
fn nested_active_interrupts_beyond_the_registers_end_in_order() {
    let bench = Bench::new();
    let depth = 20_u32;
    for n in 0..depth {
        let intid = bench.edge_spi(100 + n, (0xf0 - n * 8) as u8);
        bench.inject(intid);
        bench.enter();
        assert_eq!(bench.acknowledge(), 100 + n);
        bench.exit();
    }
    let mut left = depth;
    for ended in [1, 9, 2, 1, 7] {
        bench.enter();
        for _ in 0..ended {
            left -= 1;
            bench.end(100 + left);
        }
        bench.exit();
        bench.refresh_states();
        for m in 0..depth {
            let active = bench.irq(spi(100 + m)).state().shows_active();
            assert_eq!(active, m < left, "{m} with {left} left");
        }
    }
    let resampled = bench.vm.host().resampled.lock().unwrap();
    assert!(resampled.is_empty(), "edges: {resampled:?}");
    drop(resampled);
    bench.finish();
}

/// QEMU counts priority drops of interrupts in no list register in EOIcount too. Deactivations of
/// EOImode 1 trap: whatever was counted, nothing has been deactivated.
#[test]
fn priority_drops_that_are_counted_end_nothing() {
    let bench = Bench::new();
    let depth = 6_u32;
    bench.enter();
    bench.guest().write_ctlr(2).unwrap();
    bench.exit();
    for n in 0..depth {
        bench.inject(bench.edge_spi(100 + n, 0xa0));
        bench.enter();
        assert_eq!(bench.acknowledge(), 100 + n);
        bench.end(100 + n);
        bench.exit();
    }
    bench.enter();
    let count = 2 << hcr::EOI_COUNT_SHIFT;
    bench.guest().write_hcr(bench.guest().read_hcr() | count);
    bench.exit();
    bench.refresh_states();
    for n in 0..depth {
        let state = bench.irq(spi(100 + n)).state();
        assert!(state.shows_active(), "{n}: {state:?}");
    }
    assert_eq!(bench.guest().read_hcr() & hcr::EOI_COUNT, 0);
    for n in 0..depth {
        crate::delivery::change::deactivate(bench.vm.vm(), &bench.pin(), bench.irq(spi(100 + n)));
    }
    bench.finish();
}

#[test]
fn a_more_urgent_interrupt_finds_room() {
    let bench = Bench::new();
    for n in 0..4 {
        bench.inject(bench.edge_spi(60 + n, 0xa0));
    }
    bench.enter();
    bench.exit();
    bench.inject(bench.edge_spi(70, 0x20));
    bench.enter();
    assert_eq!(bench.acknowledge(), 70);
    bench.end(70);
    bench.exit();
    bench.finish();
}

/// The list register becomes free while an interrupt waits. An interrupt that the vCPU's own CPU
/// raises then is not staged.
#[test]
fn a_raise_on_the_vcpus_cpu_does_not_overtake_what_waits() {
    let bench = Bench::new();
    bench.vm.vcpu_put(&bench.pin(), V0).unwrap();
    let vtr = Vtr {
        list_registers: 1,
        ..NEOVERSE
    };
    let local = bench.domain.register(CpuId(7)).unwrap();
    let cpu = Cpu::new(local, SoftwareInterface::new(vtr));
    let (pin, guest) = (cpu.pin(), cpu.interface());
    bench.inject(bench.edge_spi(60, 0x20));
    bench.inject(bench.edge_spi(61, 0x80));
    bench.vm.enter(&pin, V0).unwrap();
    assert_eq!(guest.read_iar1(), 60);
    guest.write_eoir1(60);
    bench.vm.exit(&pin, V0).unwrap();

    let intid = bench.edge_spi(62, 0xa0);
    let _ = bench.vm.inject_spi(&pin, intid).unwrap();
    for intid in [61, 62] {
        bench.vm.enter(&pin, V0).unwrap();
        assert_eq!(guest.read_iar1(), intid);
        guest.write_eoir1(intid);
        bench.vm.exit(&pin, V0).unwrap();
    }
    bench.vm.vcpu_put(&pin, V0).unwrap();
    drop(pin);
    bench.enter();
    bench.exit();
    bench.finish();
}

/// Group 0 is enabled in the distributor but not by the guest's interface.
#[test]
fn disabling_the_last_group_brings_no_exit() {
    let bench = Bench::new();
    for n in 40..46 {
        let intid = bench.edge_spi(n, 0xa0);
        if n % 2 == 0 {
            bench.change(intid, |state| state.with(0, GROUP1));
        }
        bench.inject(intid);
    }
    let watched = || bench.guest().read_hcr() & (hcr::VGRP0DIE | hcr::VGRP1DIE);
    bench.guest().write_igrpen0(true);
    bench.enter();
    assert_eq!(watched(), hcr::VGRP0DIE | hcr::VGRP1DIE);
    // The interrupt in Group 0 waited for this; the one in Group 1 can wait.
    bench.guest().write_igrpen1(false);
    bench.exit();
    bench.enter();
    assert_eq!(watched(), 0);
    bench.exit();
    bench.finish();
}

#[test]
fn a_disabled_group_does_not_hog_the_registers() {
    let bench = Bench::new();
    for n in 0..8 {
        let intid = bench.edge_spi(80 + n, 0);
        bench.change(intid, |state| state.with(0, GROUP1));
        bench.inject(intid);
    }
    bench.inject(bench.edge_spi(90, 0xa0));
    bench.enter();
    assert_eq!(bench.acknowledge(), 90);
    bench.end(90);
    bench.guest().write_igrpen0(true);
    assert!(bench.guest().maintenance(), "the group was enabled");
    bench.exit();
    bench.enter();
    assert!(bench.guest().vfiq());
    assert_eq!(bench.guest().read_iar0(), 80);
    bench.guest().write_eoir0(80);
    bench.exit();
    bench.finish();
}

/// QEMU's `ICH_MISR_EL2` (10.0 and later): VGrp0D goes by the enable of Group 1.
#[derive(Default)]
struct Qemu(SoftwareInterface);

impl CpuInterface for Qemu {
    fn vtr(&self) -> Vtr {
        self.0.vtr()
    }
    fn read_lr(&self, index: usize) -> ListRegister {
        self.0.read_lr(index)
    }
    fn write_lr(&self, index: usize, value: ListRegister) {
        self.0.write_lr(index, value);
    }
    fn read_elrsr(&self) -> u16 {
        self.0.read_elrsr()
    }
    fn read_eisr(&self) -> u16 {
        self.0.read_eisr()
    }
    fn read_misr(&self) -> u64 {
        let disabled = self.0.read_vmcr() & vmcr::VENG1 == 0;
        let watched = self.0.read_hcr() & hcr::VGRP0DIE != 0;
        let shown = if watched && disabled { misr::VGRP0D } else { 0 };
        self.0.read_misr() & !misr::VGRP0D | shown
    }
    fn read_hcr(&self) -> u64 {
        self.0.read_hcr()
    }
    fn write_hcr(&self, value: u64) {
        self.0.write_hcr(value);
    }
    fn read_vmcr(&self) -> u64 {
        self.0.read_vmcr()
    }
    fn write_vmcr(&self, value: u64) {
        self.0.write_vmcr(value);
    }
    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        self.0.read_apr(group1, index)
    }
    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        self.0.write_apr(group1, index, value);
    }
    fn synchronize(&self) {
        self.0.synchronize();
    }
}

/// Group 0 fills the registers, the guest disables it, and Group 1 gets them at the next exit of
/// any kind.
#[test]
fn a_group_disabled_on_qemu_does_not_hog_the_registers() {
    let bench = Bench::new();
    bench.vm.vcpu_put(&bench.pin(), V0).unwrap();
    let cpu = Cpu::new(bench.domain.register(CpuId(7)).unwrap(), Qemu::default());
    let pin = cpu.pin();
    for n in 80..84 {
        let intid = bench.edge_spi(n, 0);
        bench.change(intid, |state| state.with(0, GROUP1));
        bench.inject(intid);
    }
    bench.inject(bench.edge_spi(90, 0xa0));
    bench.vm.enter(&pin, V0).unwrap();
    let guest = &cpu.interface().0;
    guest.write_igrpen0(true);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.enter(&pin, V0).unwrap();
    assert!(guest.vfiq());
    guest.write_igrpen0(false);
    for _ in 0..3 {
        bench.vm.exit(&pin, V0).unwrap();
        bench.vm.enter(&pin, V0).unwrap();
    }
    assert_eq!(guest.read_iar1(), 90);
    guest.write_eoir1(90);
    bench.vm.exit(&pin, V0).unwrap();
    bench.vm.vcpu_put(&pin, V0).unwrap();
    drop(pin);
    bench.enter();
    bench.exit();
    bench.finish();
}

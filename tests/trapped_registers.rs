//! CPUs without `ICH_HCR_EL2.TDIR` (`ICH_VTR_EL2.TDS` is 0): the system registers common to both
//! groups trap, and the vGIC emulates them.

mod common;

use std::sync::Arc;

use common::{GICD, GITS, Machine, affinity, vcpu};
use vgic::Config;
use vgic::cpu_interface::software::{NEOVERSE, Trapped};
use vgic::cpu_interface::{CpuInterface, Vtr, hcr};
use vgic::sysreg::SysReg;

const CBPR: u64 = 1 << 0;
const EOI_MODE: u64 = 1 << 1;

/// A Cortex-A53 or A72.
const WITHOUT_TDS: Vtr = Vtr {
    traps_dir: false,
    ..NEOVERSE
};

fn machine(vtr: Vtr) -> Machine {
    let vcpus = (0..2).map(affinity).collect();
    let machine = Machine::with_vtr(Arc::default(), 0, Config::new(vcpus).with_its(GITS), vtr);
    machine.set_up();
    machine
}

/// Reads a register as vCPU 0, whose access trapped.
fn read(machine: &Machine, register: SysReg) -> u64 {
    let value = machine
        .vm
        .sysreg_read(&machine.cpus[0].pin(), vcpu(0), register);
    value.expect("readable")
}

#[test]
fn the_trap_is_tdir_or_tc() {
    for (vtr, trap, other) in [
        (NEOVERSE, hcr::TDIR, hcr::TC),
        (WITHOUT_TDS, hcr::TC, hcr::TDIR),
    ] {
        let machine = machine(vtr);
        machine.enter(0);
        let found = machine.guest(0).read_hcr();
        assert_eq!(
            found & (hcr::EN | trap | other),
            hcr::EN | trap,
            "{found:#x}"
        );
        assert_eq!(machine.guest(0).read_pmr().is_err(), trap == hcr::TC);
        assert_eq!(machine.guest(0).write_dir(40), Err(Trapped));
        machine.exit(0);
        machine.finish();
    }
}

#[test]
fn the_mask_and_the_control_register_are_kept() {
    let machine = machine(WITHOUT_TDS);
    machine.enter(0);
    assert_eq!(machine.guest(0).write_pmr(0x80), Err(Trapped));
    assert_eq!(machine.guest(0).write_ctlr(EOI_MODE), Err(Trapped));
    machine.exit(0);

    for mask in [0, 0x80, 0xff, 0xa7, 0xf8] {
        machine.sysreg(0, SysReg::Pmr, mask);
        assert_eq!(read(&machine, SysReg::Pmr), mask & 0xf8, "five bits");
    }

    // PRIbits, IDbits, A3V and RSS do not change.
    let constant = 4 << 8 | 1 << 15 | 1 << 18;
    for control in [CBPR, EOI_MODE, CBPR | EOI_MODE, 0] {
        machine.sysreg(0, SysReg::Ctlr, !3 | control);
        assert_eq!(read(&machine, SysReg::Ctlr), constant | control);
    }

    // Nothing of it reaches another vCPU, and all of it moves with the vCPU.
    machine.sysreg(0, SysReg::Pmr, 0x50);
    machine.sysreg(0, SysReg::Ctlr, EOI_MODE);
    let other = machine
        .vm
        .sysreg_read(&machine.cpus[1].pin(), vcpu(1), SysReg::Pmr);
    assert_eq!(other, Some(0xf8));
    let elsewhere = machine
        .vm
        .sysreg_read(&machine.cpus[1].pin(), vcpu(0), SysReg::Pmr);
    assert_eq!(elsewhere, None, "its registers are on another CPU");
    let pin = machine.cpus[1].pin();
    machine
        .vm
        .sysreg_write(&pin, vcpu(0), SysReg::Pmr, 0)
        .unwrap();
    assert_eq!(read(&machine, SysReg::Pmr), 0x50);

    let put = |n: usize| machine.vm.vcpu_put(&machine.cpus[n].pin(), vcpu(n));
    assert_eq!((put(0), put(1)), (Ok(()), Ok(())));
    let cpu = &machine.cpus[1];
    machine.vm.enter(&cpu.pin(), vcpu(0)).unwrap();
    machine.vm.exit(&cpu.pin(), vcpu(0)).unwrap();
    let moved = |register| machine.vm.sysreg_read(&cpu.pin(), vcpu(0), register);
    assert_eq!(moved(SysReg::Pmr), Some(0x50));
    assert_eq!(moved(SysReg::Ctlr), Some(constant | EOI_MODE));
    machine.vm.vcpu_put(&cpu.pin(), vcpu(0)).unwrap();
    machine.finish();
}

#[test]
fn a_mask_holds_back_and_the_running_priority_is_seen() {
    let machine = machine(WITHOUT_TDS);
    for (intid, priority) in [(40_u32, 0xa0), (41, 0x40)] {
        machine.edge_spi(intid, 0);
        let at = GICD + 0x400 + u64::from(intid);
        machine.write_as(0, at, vgic::mmio::Width::Byte, priority);
    }

    assert_eq!(read(&machine, SysReg::Rpr), 0xff, "idle");
    machine.sysreg(0, SysReg::Pmr, 0x80);
    machine.inject_spi(40);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.block(0), vgic::Blocked::Yes, "masked in WFI, too");
    machine.inject_spi(41);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 41);
    machine.exit(0);
    assert_eq!(read(&machine, SysReg::Rpr), 0x40);
    machine.sysreg(0, SysReg::Rpr, 0);
    assert_eq!(read(&machine, SysReg::Rpr), 0x40, "read-only");
    machine.enter(0);
    machine.guest(0).write_eoir1(41);
    machine.exit(0);
    machine.sysreg(0, SysReg::Pmr, 0xf8);
    assert_eq!(machine.serve(0), [40]);
    machine.finish();
}

#[test]
fn an_end_is_split_and_deactivations_are_counted() {
    let machine = machine(WITHOUT_TDS);
    machine.edge_spi(40, 0);
    machine.sysreg(0, SysReg::Ctlr, EOI_MODE);
    machine.inject_spi(40);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 40);
    machine.guest(0).write_eoir1(40);
    machine.exit(0);
    assert!(machine.spi_bit(0, 0x300, 40), "active");
    machine.sysreg(0, SysReg::Dir, 40);
    assert!(!machine.spi_bit(0, 0x300, 40));

    // More active than list registers: their ends are counted, and HCR keeps its trap.
    machine.sysreg(0, SysReg::Ctlr, 0);
    for intid in 50..56_u32 {
        machine.edge_spi(intid, 0);
        let at = GICD + 0x400 + u64::from(intid);
        let priority = 0xf0 - u64::from(intid - 50) * 0x10;
        machine.write_as(0, at, vgic::mmio::Width::Byte, priority);
        machine.inject_spi(intid);
        machine.enter(0);
        assert_eq!(machine.guest(0).read_iar1(), intid);
        machine.exit(0);
    }
    for intid in (50..56).rev() {
        machine.enter(0);
        machine.guest(0).write_eoir1(intid);
        machine.exit(0);
    }
    assert_eq!(machine.read(0, GICD + 0x304), 0, "none is active");
    machine.enter(0);
    let found = machine.guest(0).read_hcr();
    assert_eq!(found, hcr::EN | hcr::TC);
    machine.exit(0);
    machine.finish();
}

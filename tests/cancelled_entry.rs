//! An entry that the embedder cancels: `enter`, then `exit` without the guest between the two.
//!
//! On hardware, the effect of a write of a list register on `ICH_ELRSR_EL2`, `ICH_EISR_EL2` and
//! `ICH_MISR_EL2` may be read only after a context synchronisation event (DDI 0487): an `ERET`, an
//! exception or an `ISB`. [`Stale`] shows the status of the last such event.

mod common;

use std::cell::Cell;

use common::{GICD, Machine, vcpu};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::cpu_interface::{CpuInterface, Vtr};
use vgic::intid::{CpuId, IntId};
use vgic::lr::ListRegister;
use vgic::mmio::Width;
use vgic::{Blocked, Cpu};

/// A CPU interface whose status registers are as stale as the architecture lets them be.
#[derive(Default)]
struct Stale {
    registers: SoftwareInterface,
    /// `ICH_ELRSR_EL2`, `ICH_EISR_EL2` and `ICH_MISR_EL2` at the last synchronisation.
    status: Cell<(u16, u16, u64)>,
}

impl Stale {
    /// Runs `guest` between an `ERET` and an exception.
    fn run<R>(&self, guest: impl FnOnce(&SoftwareInterface) -> R) -> R {
        let result = guest(&self.registers);
        self.synchronize();
        result
    }
}

impl CpuInterface for Stale {
    fn vtr(&self) -> Vtr {
        self.registers.vtr()
    }
    fn read_lr(&self, index: usize) -> ListRegister {
        self.registers.read_lr(index)
    }
    fn write_lr(&self, index: usize, value: ListRegister) {
        self.registers.write_lr(index, value);
    }
    fn read_elrsr(&self) -> u16 {
        self.status.get().0
    }
    fn read_eisr(&self) -> u16 {
        self.status.get().1
    }
    fn read_misr(&self) -> u64 {
        self.status.get().2
    }
    fn read_hcr(&self) -> u64 {
        self.registers.read_hcr()
    }
    fn write_hcr(&self, value: u64) {
        self.registers.write_hcr(value);
    }
    fn read_vmcr(&self) -> u64 {
        self.registers.read_vmcr()
    }
    fn write_vmcr(&self, value: u64) {
        self.registers.write_vmcr(value);
    }
    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        self.registers.read_apr(group1, index)
    }
    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        self.registers.write_apr(group1, index, value);
    }
    fn synchronize(&self) {
        self.registers.synchronize();
        self.status.set((
            self.registers.read_elrsr(),
            self.registers.read_eisr(),
            self.registers.read_misr(),
        ));
    }
}

/// A VM with one vCPU, on a CPU with stale status registers.
struct Bench {
    machine: Machine,
    cpu: Cpu<Stale>,
}

/// Edge-triggered SPIs of the tests, and one level-sensitive SPI after them.
const EDGES: std::ops::Range<u32> = 40..48;
const LEVEL: u32 = 48;

impl Bench {
    fn new() -> Self {
        let machine = Machine::new(1);
        for intid in EDGES {
            machine.edge_spi(intid, 0);
        }
        machine.write64(0, GICD + 0x6000 + u64::from(LEVEL) * 8, 0);
        machine.set_spi(0, 0x100, LEVEL);
        // Less urgent than the edges: a line that stays high lets them come first.
        machine.write_as(0, GICD + 0x400 + u64::from(LEVEL), Width::Byte, 0xa0);
        let pin = machine.cpus[0].pin();
        machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
        drop(pin);
        let local = machine.domain.register(CpuId(7)).unwrap();
        let cpu = Cpu::new(local, Stale::default());
        Self { machine, cpu }
    }

    fn enter(&self) {
        self.machine.vm.enter(&self.cpu.pin(), vcpu(0)).unwrap();
    }

    fn exit(&self) {
        self.machine.vm.exit(&self.cpu.pin(), vcpu(0)).unwrap();
    }

    /// Enters and exits: the embedder had another thing to do first.
    fn cancel(&self) {
        self.enter();
        self.exit();
    }

    fn run<R>(&self, guest: impl FnOnce(&SoftwareInterface) -> R) -> R {
        self.cpu.interface().run(guest)
    }

    fn set_line(&self, high: bool) {
        let (vm, level) = (&self.machine.vm, IntId::spi(LEVEL).unwrap());
        vm.set_spi_line(&self.cpu.pin(), level, high).unwrap();
    }

    /// Lets the guest take and end one interrupt.
    fn take(&self) -> u32 {
        self.enter();
        let intid = self.run(|guest| {
            let intid = guest.read_iar1();
            guest.write_eoir1(intid);
            intid
        });
        self.exit();
        intid
    }

    fn finish(self) {
        let pin = self.cpu.pin();
        self.machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
        drop(pin);
        self.machine.finish();
    }
}

/// Raises another interrupt, which finds a list register of its own, and lets the guest take both.
fn take_with_another(bench: &Bench, intid: u32) {
    let other = if intid == 47 { 46 } else { 47 };
    bench.machine.inject_spi(other);
    let mut taken = [bench.take(), bench.take()];
    taken.sort_unstable();
    let mut expected = [intid, other];
    expected.sort_unstable();
    assert_eq!(taken, expected);
}

#[test]
fn an_edge_survives_a_cancelled_entry() {
    let bench = Bench::new();
    assert_eq!(bench.take(), 1023);
    bench.machine.inject_spi(40);
    bench.cancel();
    take_with_another(&bench, 40);
    assert_eq!(bench.take(), 1023);
    bench.finish();
}

#[test]
fn a_level_survives_a_cancelled_entry() {
    let bench = Bench::new();
    assert_eq!(bench.take(), 1023);
    bench.set_line(true);
    for _ in 0..2 {
        bench.cancel();
        take_with_another(&bench, LEVEL);
    }
    bench.set_line(false);
    assert_eq!(bench.take(), 1023);
    bench.finish();
}

/// Checks an edge that the exit has staged in the list register of the edge before.
#[test]
fn a_second_edge_survives_a_cancelled_entry() {
    let bench = Bench::new();
    bench.machine.inject_spi(40);
    bench.enter();
    bench.run(|guest| assert_eq!(guest.read_iar1(), 40));
    bench.machine.inject_spi(40);
    bench.run(|guest| guest.write_eoir1(40));
    bench.exit();
    bench.cancel();
    take_with_another(&bench, 40);
    bench.finish();
}

/// Checks an entry that has nothing to write: `block` has filled the list register.
#[test]
fn an_edge_survives_an_entry_cancelled_after_a_wfi() {
    let bench = Bench::new();
    assert_eq!(bench.take(), 1023);
    bench.machine.inject_spi(40);
    let pin = bench.cpu.pin();
    assert_eq!(bench.machine.vm.block(&pin, vcpu(0)), Ok(Blocked::No));
    drop(pin);
    bench.cancel();
    take_with_another(&bench, 40);
    bench.finish();
}

/// Checks that the next VM's guest does not find the interrupt: a list register that is taken for
/// free would stay filled on the CPU.
#[test]
fn a_vcpu_put_after_a_cancelled_entry_leaves_nothing_behind() {
    let bench = Bench::new();
    assert_eq!(bench.take(), 1023);
    bench.machine.inject_spi(40);
    bench.cancel();
    let pin = bench.cpu.pin();
    bench.machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    drop(pin);
    let registers = &bench.cpu.interface().registers;
    assert!(registers.list_registers().all(ListRegister::is_empty));
    assert_eq!(bench.take(), 40);
    bench.finish();
}

/// Checks that each edge is delivered, and none twice, with more interrupts than list registers and
/// entries cancelled by chance.
#[test]
fn nothing_is_lost_or_doubled_by_cancelled_entries() {
    let bench = Bench::new();
    let mut seed = 1_u64;
    let mut chance = |one_in: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % one_in
    };
    let mut raised = [false; 8];
    let mut line = false;
    let mut delivered = 0;
    for round in 0..20_000 {
        let draining = round >= 19_000;
        for _ in 0..if draining { 0 } else { chance(3) } {
            let n = chance(8) as usize;
            bench.machine.inject_spi(EDGES.start + n as u32);
            raised[n] = true;
        }
        if !draining && chance(8) == 0 {
            line = true;
            bench.set_line(true);
        }
        for _ in 0..chance(3) {
            bench.cancel();
        }
        let intid = bench.take();
        if intid == LEVEL {
            assert!(line, "the line was low in round {round}");
            line = false;
            bench.set_line(false);
        } else if intid != 1023 {
            let n = (intid - EDGES.start) as usize;
            assert!(raised[n], "{intid} came twice in round {round}");
            raised[n] = false;
            delivered += 1;
        }
    }
    assert_eq!((raised, line), ([false; 8], false), "after {delivered}");
    bench.finish();
}

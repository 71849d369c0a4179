//! Entry, exit and blocking, with the software CPU interface as the guest.

use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use crate::cpu_interface::software::SoftwareInterface;
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::epoch::{Domain, Pin};
use crate::host::{BadAddress, Host};
use crate::intid::{Affinity, CpuId, IntId, Kind, VcpuId};
use crate::irq::{Changed, ENABLED, GROUP1, Irq, LEVEL};
use crate::mmio::{MmioOutcome, Width};
use crate::{Blocked, Config, Cpu, EntryError, Vgic};

#[derive(Default)]
struct Log {
    kicks: Mutex<Vec<(CpuId, VcpuId)>>,
    wakes: Mutex<Vec<VcpuId>>,
    deactivated: Mutex<Vec<u16>>,
    resampled: Mutex<Vec<(VcpuId, IntId)>>,
    /// Physical interrupts whose lines are high.
    high: Mutex<Vec<(Option<VcpuId>, u16)>>,
}

impl Host for Log {
    fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
        self.kicks.lock().unwrap().push((cpu, vcpu));
    }
    fn wake(&self, vcpu: VcpuId) {
        self.wakes.lock().unwrap().push(vcpu);
    }
    fn read_memory(&self, _gpa: u64, _buffer: &mut [u8]) -> Result<(), BadAddress> {
        Err(BadAddress)
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, pintid: u16) {
        self.deactivated.lock().unwrap().push(pintid);
    }
    fn is_pending(&self, vcpu: Option<VcpuId>, pintid: u16) -> bool {
        self.high.lock().unwrap().contains(&(vcpu, pintid))
    }
    fn resample(&self, vcpu: VcpuId, intid: IntId) {
        self.resampled.lock().unwrap().push((vcpu, intid));
    }
}

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);

struct Bench {
    domain: Domain,
    vm: Vgic<Log>,
    cpu: Cpu<SoftwareInterface>,
}

fn spi(n: u32) -> IntId {
    IntId::spi(n).unwrap()
}

fn ppi(n: u32) -> IntId {
    IntId::ppi(n).unwrap()
}

impl Bench {
    /// Two vCPUs, of which 0 is on CPU 0 with its groups enabled and nothing masked.
    fn new() -> Self {
        let domain = Domain::new();
        let mut config =
            Config::new((0..2).map(|n| Affinity::new(0, 0, 0, n)).collect()).with_its(0x0808_0000);
        if cfg!(miri) {
            config.spis = 64;
        }
        let vm = Vgic::new(config, Log::default()).unwrap();
        vm.power_on(V1);
        vm.distributor().open_all_groups();
        let cpu = Cpu::new(domain.register(CpuId(0)), SoftwareInterface::default());
        let bench = Self { domain, vm, cpu };
        bench.enter();
        bench.open(&bench.cpu);
        bench.exit();
        bench
    }

    fn open(&self, cpu: &Cpu<SoftwareInterface>) {
        cpu.interface().write_igrpen1(true);
        cpu.interface().write_pmr(0xf8).unwrap();
    }

    fn second_cpu(&self) -> Cpu<SoftwareInterface> {
        Cpu::new(self.domain.register(CpuId(1)), SoftwareInterface::default())
    }

    fn pin(&self) -> Pin<'_> {
        self.cpu.pin()
    }

    fn enter(&self) {
        self.vm.enter(&self.cpu, &self.pin(), V0).unwrap();
    }

    fn exit(&self) {
        self.vm.exit(&self.cpu, &self.pin(), V0).unwrap();
    }

    fn guest(&self) -> &SoftwareInterface {
        self.cpu.interface()
    }

    /// Enabled, Group 1, at `priority`; level-sensitive or edge-triggered.
    fn configure(&self, irq: &Irq, level: bool, priority: u8) {
        let Changed { owed, .. } = irq.update(|state| {
            state
                .with(ENABLED | GROUP1, 0)
                .with_flag(LEVEL, level)
                .with_priority(priority)
        });
        self.vm.pay(&self.pin(), irq, owed);
    }

    fn edge_spi(&self, n: u32, priority: u8) -> IntId {
        self.configure(self.vm.distributor().spi(spi(n)).unwrap(), false, priority);
        spi(n)
    }

    fn inject(&self, intid: IntId) {
        let _ = self.vm.inject_spi(&self.pin(), intid).unwrap();
    }

    fn acknowledge(&self) -> u32 {
        self.guest().read_iar1()
    }

    fn end(&self, intid: u32) {
        self.guest().write_eoir1(intid);
    }

    fn irq(&self, intid: IntId) -> &Irq {
        self.vm.distributor().spi(intid).unwrap()
    }

    /// Takes the VM apart and checks that nothing is left but what the counters say.
    fn finish(self) {
        let pin = self.cpu.pin();
        self.vm.put(&self.cpu, &pin, V0).unwrap();
        let totals = self.domain.totals();
        let remains = self.vm.teardown(&pin).unwrap();
        assert_eq!(remains.references, 0);
        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(
                totals.injections[kind],
                totals.coalesced[kind]
                    + totals.deliveries[kind]
                    + totals.withdrawn[kind]
                    + remains.pending[kind],
                "kind {kind}: {totals:?}"
            );
        }
        let totals = self.domain.totals();
        assert_eq!(totals.lookup_gets, totals.lookup_puts);
    }
}

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
    let irq = bench.vm.distributor().spi(spi(50)).unwrap();
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
    bench.configure(bench.vm.vcpu(V0).unwrap().private(timer).unwrap(), true, 0);
    bench.vm.connect_ppi(V0, timer, timer).unwrap();
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
    let irq = bench.vm.vcpu(V0).unwrap().private(timer).unwrap();
    let (deactivate, changed) = irq.clear_pending();
    assert!(!deactivate, "the register has it");
    bench.vm.settle_up(&bench.pin(), irq, changed);
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    bench.exit();
    assert_eq!(*bench.vm.host().deactivated.lock().unwrap(), [27]);
    bench.finish();
}

#[test]
fn a_forwarded_interrupt_stays_forwarded_across_cpus() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let intid = bench.edge_spi(40, 0xa0);
    bench.vm.connect_spi(intid, spi(70)).unwrap();
    let _ = bench.vm.forward_spi(&bench.pin(), intid).unwrap();
    bench.enter();
    bench.exit();
    bench.vm.put(&bench.cpu, &bench.pin(), V0).unwrap();
    let pin = other.pin();
    bench.vm.enter(&other, &pin, V0).unwrap();
    assert_eq!(other.interface().read_iar1(), 40);
    bench.vm.exit(&other, &pin, V0).unwrap();
    bench.vm.put(&other, &pin, V0).unwrap();
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
        .vcpu(V0)
        .unwrap()
        .residency
        .notify(super::residency::NOTE);
    bench.enter();
    bench.exit();
    let accesses = bench.guest().accesses() - before;
    assert_eq!((accesses.lr_reads, accesses.lr_writes), (2, 0));
    bench.finish();
}

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
    let block = || bench.vm.block(&bench.cpu, &bench.pin(), V0).unwrap();
    assert_eq!(block(), Blocked::Yes);
    let (_, Changed { owed, .. }) = bench.irq(intid).clear_active();
    bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
    assert_eq!(block(), Blocked::No);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    bench.finish();
}

/// Pending interrupts beyond the registers come in order of priority, whatever the order of arrival.
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

/// Nested to 20 levels with four registers, then ended from the inside out: EOIcount ends those that
/// were left out, and only those.
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
        bench
            .vm
            .sync(&bench.cpu, &bench.pin(), bench.vm.vcpu(V0).unwrap());
        for m in 0..depth {
            let active = bench.irq(spi(100 + m)).state().shows_active();
            assert_eq!(active, m < left, "{m} with {left} left");
        }
    }
    bench.finish();
}

/// QEMU counts priority drops of interrupts in no list register in EOIcount too. Deactivations of EOImode 1
/// trap: whatever was counted, nothing has been deactivated.
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
    bench
        .vm
        .sync(&bench.cpu, &bench.pin(), bench.vm.vcpu(V0).unwrap());
    for n in 0..depth {
        let state = bench.irq(spi(100 + n)).state();
        assert!(state.shows_active(), "{n}: {state:?}");
    }
    assert_eq!(bench.guest().read_hcr() & hcr::EOI_COUNT, 0);
    for n in 0..depth {
        bench.vm.deactivate(&bench.pin(), bench.irq(spi(100 + n)));
    }
    bench.finish();
}

/// The physical interrupt that would be forwarded is disabled with the guest's, or active for it.
#[test]
fn a_forwarded_line_is_shown_as_pending_while_it_is_disabled() {
    let bench = Bench::new();
    let (vm, pin) = (&bench.vm, bench.pin());
    let gicd = vm.config().distributor;
    let sgi_base = vm.config().redistributors[0].base + 0x1_0000;
    vm.connect_spi(spi(40), spi(70)).unwrap();
    vm.connect_ppi(V0, ppi(27), ppi(30)).unwrap();
    let read = |gpa| vm.mmio_read(&bench.cpu, &pin, V1, gpa, Width::Word);
    assert_eq!(read(gicd + 0x204), MmioOutcome::Done(0));
    *vm.host().high.lock().unwrap() = std::vec![(None, 70), (Some(V0), 30)];
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

/// Group 0 is enabled in the distributor but not by the guest's interface.
#[test]
fn disabling_the_last_group_brings_no_exit() {
    let bench = Bench::new();
    for n in 40..46 {
        let intid = bench.edge_spi(n, 0xa0);
        if n % 2 == 0 {
            let Changed { owed, .. } = bench.irq(intid).update(|state| state.with(0, GROUP1));
            bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
        }
        bench.inject(intid);
    }
    let watched = || bench.guest().read_hcr() & (hcr::VGRP0DIE | hcr::VGRP1DIE);
    bench.guest().write_igrpen0(true);
    bench.enter();
    assert_eq!(watched(), hcr::VGRP0DIE | hcr::VGRP1DIE);
    // What waits in Group 0 waited for this; what waits in Group 1 can wait.
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
        let Changed { owed, .. } = bench.irq(intid).update(|state| state.with(0, GROUP1));
        bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
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

#[test]
fn retargeting_moves_what_waits_and_kicks_both() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let pin = other.pin();
    bench.vm.enter(&other, &pin, V1).unwrap();
    bench.open(&other);
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    // In a register of vCPU 0, which runs: it must give it up, then vCPU 1 must get it.
    let Changed { owed, .. } = bench.irq(intid).update(|state| state.with_target(Some(V1)));
    bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
    assert_eq!(*bench.vm.host().kicks.lock().unwrap(), [(CpuId(0), V0)]);
    bench.exit();
    bench.enter();
    assert_eq!(bench.acknowledge(), 1023);
    assert_eq!(bench.vm.host().kicks.lock().unwrap()[1..], [(CpuId(1), V1)]);
    bench.vm.exit(&other, &pin, V1).unwrap();
    bench.vm.enter(&other, &pin, V1).unwrap();
    assert_eq!(other.interface().read_iar1(), 40);
    other.interface().write_eoir1(40);
    bench.vm.exit(&other, &pin, V1).unwrap();
    bench.vm.put(&other, &pin, V1).unwrap();
    bench.exit();
    drop(pin);
    bench.finish();
}

#[test]
fn an_active_and_pending_interrupt_that_is_rerouted_goes_there_when_it_ends() {
    let bench = Bench::new();
    let other = bench.second_cpu();
    let pin = other.pin();
    bench.vm.enter(&other, &pin, V1).unwrap();
    bench.open(&other);
    let intid = bench.edge_spi(40, 0xa0);
    bench.inject(intid);
    bench.enter();
    assert_eq!(bench.acknowledge(), 40);
    bench.exit();
    let Changed { owed, .. } = bench.irq(intid).update(|state| state.with_target(Some(V1)));
    bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
    bench.inject(intid);
    bench.enter();
    bench.end(40);
    assert_eq!(bench.acknowledge(), 1023, "it is the other vCPU's");
    assert!(bench.guest().maintenance(), "nothing else makes it exit");
    bench.exit();
    bench.vm.exit(&other, &pin, V1).unwrap();
    bench.vm.enter(&other, &pin, V1).unwrap();
    assert_eq!(other.interface().read_iar1(), 40);
    other.interface().write_eoir1(40);
    bench.vm.exit(&other, &pin, V1).unwrap();
    bench.vm.put(&other, &pin, V1).unwrap();
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
    assert_eq!(
        bench.vm.enter(&other, &pin, V0),
        Err(EntryError::OnAnotherCpu(V0))
    );
    bench.vm.put(&bench.cpu, &bench.pin(), V0).unwrap();
    bench.vm.enter(&other, &pin, V0).unwrap();
    let guest = other.interface();
    assert_eq!(guest.read_rpr(), Ok(0x40));
    assert_eq!(guest.read_iar1(), 1023);
    guest.write_eoir1(40);
    assert_eq!(guest.read_iar1(), 41);
    guest.write_eoir1(41);
    bench.vm.exit(&other, &pin, V0).unwrap();
    bench.vm.put(&other, &pin, V0).unwrap();
    bench.enter();
    bench.exit();
    drop(pin);
    bench.finish();
}

#[test]
fn blocking_honours_mask_and_groups_and_loses_no_wake() {
    let bench = Bench::new();
    let block = || bench.vm.block(&bench.cpu, &bench.pin(), V0).unwrap();
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

#[test]
fn misuse_is_a_typed_error() {
    let bench = Bench::new();
    let pin = bench.pin();
    let unknown = VcpuId::new(7).unwrap();
    let (vm, cpu) = (&bench.vm, &bench.cpu);
    assert_eq!(
        vm.enter(cpu, &pin, unknown),
        Err(EntryError::UnknownVcpu(unknown))
    );
    assert_eq!(vm.exit(cpu, &pin, V0), Err(EntryError::NotEntered(V0)));
    assert_eq!(vm.enter(cpu, &pin, V1), Err(EntryError::CpuInUse));
    vm.enter(cpu, &pin, V0).unwrap();
    assert_eq!(vm.enter(cpu, &pin, V0), Err(EntryError::AlreadyEntered(V0)));
    assert_eq!(vm.put(cpu, &pin, V0), Err(EntryError::AlreadyEntered(V0)));
    vm.exit(cpu, &pin, V0).unwrap();
    vm.power_off(cpu, &pin, V0).unwrap();
    assert_eq!(vm.put(cpu, &pin, V0), Err(EntryError::NotEntered(V0)));
    assert_eq!(vm.enter(cpu, &pin, V0), Err(EntryError::PoweredOff(V0)));
    assert!(vm.power_on(V0));
    vm.enter(cpu, &pin, V0).unwrap();
    assert!(!cpu.interface().read_igrpen1(), "reset");
    vm.exit(cpu, &pin, V0).unwrap();
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
    let Changed { owed, .. } = bench.irq(intid).update(|state| state.with(0, ENABLED));
    bench.vm.pay(&bench.pin(), bench.irq(intid), owed);
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

/// Random operations on a few interrupts: whatever happens, the guest sees every injection once, or
/// merged with one that it had not seen yet.
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
                    let irq = bench.irq(intids[next(8) as usize]);
                    let on = next(2) == 0;
                    let Changed { owed, .. } = irq.update(|state| state.with_flag(ENABLED, on));
                    bench.vm.pay(&bench.pin(), irq, owed);
                }
                4 => {
                    let irq = bench.irq(intids[next(8) as usize]);
                    let priority = next(31) as u8 * 8;
                    let Changed { owed, .. } = irq.update(|state| state.with_priority(priority));
                    bench.vm.pay(&bench.pin(), irq, owed);
                }
                5 => bench.vm.put(&bench.cpu, &bench.pin(), V0).unwrap_or(()),
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

/// QEMU's `ICH_MISR_EL2` (10.0 and later): VGrp0D goes by the enable of Group 1.
#[derive(Default)]
struct Qemu(SoftwareInterface);

impl CpuInterface for Qemu {
    fn vtr(&self) -> crate::cpu_interface::Vtr {
        self.0.vtr()
    }
    fn read_lr(&self, index: usize) -> crate::lr::ListRegister {
        self.0.read_lr(index)
    }
    fn write_lr(&self, index: usize, value: crate::lr::ListRegister) {
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

/// Group 0 fills the registers, the guest disables it, and Group 1 gets them at the next exit of any kind.
#[test]
fn a_group_disabled_on_qemu_does_not_hog_the_registers() {
    let bench = Bench::new();
    bench.vm.put(&bench.cpu, &bench.pin(), V0).unwrap();
    let cpu = Cpu::new(bench.domain.register(CpuId(7)), Qemu::default());
    let pin = cpu.pin();
    for n in 80..84 {
        let intid = bench.edge_spi(n, 0);
        let Changed { owed, .. } = bench.irq(intid).update(|state| state.with(0, GROUP1));
        bench.vm.pay(&pin, bench.irq(intid), owed);
        bench.inject(intid);
    }
    bench.inject(bench.edge_spi(90, 0xa0));
    bench.vm.enter(&cpu, &pin, V0).unwrap();
    let guest = &cpu.interface().0;
    guest.write_igrpen0(true);
    bench.vm.exit(&cpu, &pin, V0).unwrap();
    bench.vm.enter(&cpu, &pin, V0).unwrap();
    assert!(guest.vfiq());
    guest.write_igrpen0(false);
    for _ in 0..3 {
        bench.vm.exit(&cpu, &pin, V0).unwrap();
        bench.vm.enter(&cpu, &pin, V0).unwrap();
    }
    assert_eq!(guest.read_iar1(), 90);
    guest.write_eoir1(90);
    bench.vm.exit(&cpu, &pin, V0).unwrap();
    bench.vm.put(&cpu, &pin, V0).unwrap();
    drop(pin);
    bench.enter();
    bench.exit();
    bench.finish();
}

//! Entry, exit and blocking, with the software CPU interface as the guest.

mod delivery;
mod moving;
mod overflow;
mod physical;

use std::sync::{Arc, Mutex};
use std::vec::Vec;

use crate::cpu_interface::software::SoftwareInterface;
use crate::epoch::Domain;
use crate::host::{BadAddress, Host, PhysicalInterrupt};
use crate::intid::{Affinity, CpuId, IntId, Kind, VcpuId};
use crate::sync::Ordering::Relaxed;
use crate::vm::irq::{Changed, ENABLED, GROUP1, Irq, LEVEL, State};
use crate::{Config, Cpu, PinnedCpu, Vgic};

#[derive(Default)]
struct Log {
    kicks: Mutex<Vec<(CpuId, VcpuId)>>,
    wakes: Mutex<Vec<VcpuId>>,
    deactivated: Arc<Mutex<Vec<PhysicalInterrupt>>>,
    resampled: Mutex<Vec<(VcpuId, IntId)>>,
    /// Physical interrupts whose lines are high.
    high: Mutex<Vec<PhysicalInterrupt>>,
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
    fn write_memory(&self, _gpa: u64, _bytes: &[u8]) -> Result<(), BadAddress> {
        Err(BadAddress)
    }
    fn deactivate(&self, physical: PhysicalInterrupt) {
        self.deactivated.lock().unwrap().push(physical);
    }
    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        self.high.lock().unwrap().contains(&physical)
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

/// Returns a physical PPI of a CPU.
fn ppi_of(cpu: u16, n: u32) -> PhysicalInterrupt {
    PhysicalInterrupt::Ppi {
        cpu: CpuId(cpu),
        intid: ppi(n),
    }
}

/// Returns a physical SPI.
fn spi_of(n: u32) -> PhysicalInterrupt {
    PhysicalInterrupt::Spi { intid: spi(n) }
}

impl Bench {
    /// Two vCPUs, awake, of which 0 is on CPU 0 with its groups enabled and nothing masked.
    fn new() -> Self {
        let domain = Domain::new();
        let mut config =
            Config::new((0..2).map(|n| Affinity::new(0, 0, 0, n)).collect()).with_its(0x0808_0000);
        if cfg!(miri) {
            config.spis = 64;
        }
        let vm = Vgic::new(&domain, config, Log::default()).unwrap();
        vm.power_on(V1);
        vm.vm().distributor.open_all_groups();
        for vcpu in vm.vm().added_vcpus() {
            vcpu.redistributor.waker.store(0, Relaxed);
        }
        let cpu = Cpu::new(
            domain.register(CpuId(0)).unwrap(),
            SoftwareInterface::default(),
        );
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
        Cpu::new(
            self.domain.register(CpuId(1)).unwrap(),
            SoftwareInterface::default(),
        )
    }

    fn pin(&self) -> PinnedCpu<'_, SoftwareInterface> {
        self.cpu.pin()
    }

    fn enter(&self) {
        self.vm.enter(&self.pin(), V0).unwrap();
    }

    fn exit(&self) {
        self.vm.exit(&self.pin(), V0).unwrap();
        assert!(!self.guest().maintenance(), "still asserted after an exit");
    }

    fn guest(&self) -> &SoftwareInterface {
        self.cpu.interface()
    }

    /// Enabled, Group 1, at `priority`; level-sensitive or edge-triggered.
    fn configure(&self, irq: &Irq, level: bool, priority: u8) {
        self.update(irq, |state| {
            state
                .with(ENABLED | GROUP1, 0)
                .with_flag(LEVEL, level)
                .with_priority(priority)
        });
    }

    fn edge_spi(&self, n: u32, priority: u8) -> IntId {
        self.configure(self.irq(spi(n)), false, priority);
        spi(n)
    }

    /// Changes an SPI as a write of a GICD register does.
    fn change(&self, intid: IntId, change: impl Fn(State) -> State) {
        self.update(self.irq(intid), change);
    }

    /// Changes the state of an interrupt, and follows up.
    fn update(&self, irq: &Irq, change: impl Fn(State) -> State) {
        let Changed { follow_up, .. } = irq.update(change);
        crate::delivery::queue::follow_up(self.vm.vm(), &self.pin(), irq, follow_up);
    }

    /// Reads the state of every list register, as another vCPU's read of a register does.
    fn refresh_states(&self) {
        let vcpu = self.vm.vm().vcpu(V0).unwrap();
        crate::entry::fold::refresh_states(&self.cpu, &self.pin(), vcpu);
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
        self.vm.vm().distributor.spi(intid).unwrap()
    }

    /// Takes the VM apart and checks that nothing is left but what the counters say.
    fn finish(self) {
        let pin = self.cpu.pin();
        self.vm.vcpu_put(&pin, V0).unwrap();
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
        assert_eq!(totals.mapping_gets, totals.mapping_puts);
    }
}

//! Scaffolding of the models: a VM small enough for loom to explore.
#![cfg(loom)]

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{Domain, Pin};
use vgic::intid::{Affinity, CpuId, IntId, Kind, VcpuId};
use vgic::mmio::Width;
use vgic::{BadAddress, Config, Cpu, Host, Vgic};

/// vCPU 0.
pub const V0: VcpuId = match VcpuId::new(0) {
    Some(id) => id,
    None => unreachable!(),
};

/// vCPU 1.
pub const V1: VcpuId = match VcpuId::new(1) {
    Some(id) => id,
    None => unreachable!(),
};

/// The SPI that models use.
pub const SPI: u32 = 40;

const GITS: u64 = 0x0808_0000;
const QUEUE: usize = 0x1_0000;
const RAM: usize = QUEUE + 0x1000;

/// A host that does nothing but count. Its counters are not loom's: they are observations, not part of
/// the protocol.
#[derive(Default)]
pub struct Quiet {
    /// Kicks.
    pub kicks: std::sync::atomic::AtomicUsize,
    /// Wakes.
    pub wakes: std::sync::atomic::AtomicUsize,
    /// Guest memory at address 0: an ITS's command queue and its tables.
    pub ram: std::sync::Mutex<Vec<u8>>,
}

impl Host for Quiet {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {
        self.kicks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn wake(&self, _vcpu: VcpuId) {
        self.wakes
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let ram = self.ram.lock().unwrap();
        let bytes = ram.get(gpa as usize..).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(BadAddress)?);
        Ok(())
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, _pintid: u16) {}
}

/// Runs `model` under every interleaving with at most `preemptions` preemptions.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = std::env::var("LOOM_MAX_PREEMPTIONS").ok();
    builder.preemption_bound = Some(bound.map_or(preemptions, |n| n.parse().expect("a number")));
    builder.max_branches = 100_000;
    builder.check(model);
}

/// A VM and the epoch of its hypervisor.
pub struct Machine {
    /// The epoch.
    pub domain: Domain,
    /// The VM.
    pub vm: Vgic<Quiet>,
}

impl Machine {
    /// So many vCPUs; PPI 20, SPI 40 and SGI 3 are enabled edges in Group 1.
    #[must_use]
    pub fn new(vcpus: u8) -> Self {
        let affinities = (0..vcpus).map(|n| Affinity::new(0, 0, 0, n)).collect();
        let mut config = Config::new(affinities);
        config.spis = 32;
        Self::from_config(config)
    }

    /// As the configuration says, with the same interrupts set up.
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        let vcpus = config.vcpus.len() as u64;
        let machine = Self {
            domain: Domain::new(),
            vm: Vgic::new(config, Quiet::default()).unwrap(),
        };
        let local = machine.domain.register(CpuId(99));
        let pin = local.pin();
        let gicd = machine.vm.config().distributor;
        let write = |gpa: u64, value: u64| {
            let _ = machine.vm.mmio_write(&pin, gpa, Width::Word, value);
        };
        write(gicd, 0x12);
        write(gicd + 0x084, 1 << 8);
        write(gicd + 0xc08, 2 << 16);
        write(gicd + 0x104, 1 << 8);
        for n in 0..vcpus {
            let sgis = machine.vm.config().redistributors[0].base + n * 0x2_0000 + 0x1_0000;
            write(sgis + 0x080, 1 << 20 | 1 << 3);
            write(sgis + 0xc04, 2 << 8);
            write(sgis + 0x100, 1 << 20 | 1 << 3);
        }
        for n in 0..vcpus as usize {
            machine.vm.power_on(VcpuId::new(n).unwrap());
        }
        drop(pin);
        drop(local);
        machine
    }

    /// One vCPU and an ITS: device 0 has two events, of which event 0 is LPI 8192.
    #[must_use]
    pub fn with_lpi() -> Self {
        let mut config = Config::new(vec![Affinity::new(0, 0, 0, 0)]).with_its(GITS);
        config.spis = 32;
        config.lpi_bits = 5;
        config.its[0].device_bits = 1;
        config.its[0].collections = 1;
        let machine = Self::from_config(config);
        *machine.vm.host().ram.lock().unwrap() = vec![0xa1; RAM];
        let local = machine.domain.register(CpuId(98));
        let pin = local.pin();
        let write = |gpa: u64, value: u64| {
            let _ = machine.vm.mmio_write(&pin, gpa, Width::Double, value);
        };
        let gicr = machine.vm.config().redistributors[0].base;
        write(gicr + 0x70, 0x4000 | 13);
        write(gicr + 0x78, 1 << 62);
        let _ = machine.vm.mmio_write(&pin, gicr, Width::Word, 1);
        write(GITS + 0x100, 1 << 63 | 0x1000);
        write(GITS + 0x108, 1 << 63 | 0x2000);
        write(GITS + 0x80, 1 << 63 | QUEUE as u64);
        let _ = machine.vm.mmio_write(&pin, GITS, Width::Word, 1);
        machine.command(&pin, 0, [0x08, 0, 1 << 63, 0]); // MAPD, one bit of EventID
        machine.command(&pin, 1, [0x09, 0, 1 << 63, 0]); // MAPC
        machine.command(&pin, 2, Self::mapti(0));
        drop(pin);
        drop(local);
        machine
    }

    /// `MAPTI` of an event of device 0 as LPI 8192.
    #[must_use]
    pub fn mapti(event: u64) -> [u64; 4] {
        [0x0a, event | 8192 << 32, 0, 0]
    }

    /// `DISCARD` of an event of device 0.
    #[must_use]
    pub fn discard(event: u64) -> [u64; 4] {
        [0x0f, event, 0, 0]
    }

    /// Executes a command, the `place`th in the queue.
    pub fn command(&self, pin: &Pin<'_>, place: usize, command: [u64; 4]) {
        {
            let mut ram = self.vm.host().ram.lock().unwrap();
            for (word, at) in command.iter().zip((QUEUE + place * 32..).step_by(8)) {
                ram[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        let end = (place as u64 + 1) * 32;
        let _ = self.vm.mmio_write(pin, GITS + 0x88, Width::Double, end);
    }

    /// A CPU.
    #[must_use]
    pub fn cpu(&self, n: u16) -> Cpu<SoftwareInterface> {
        Cpu::new(self.domain.register(CpuId(n)), SoftwareInterface::default())
    }

    /// An edge on PPI 20 of vCPU 0.
    pub fn inject(&self, pin: &Pin<'_>) {
        let _ = self
            .vm
            .inject_ppi(pin, V0, IntId::ppi(20).unwrap())
            .unwrap();
    }

    /// Routes SPI 40.
    pub fn route(&self, pin: &Pin<'_>, vcpu: u64) {
        let router = self.vm.config().distributor + 0x6000 + 8 * u64::from(SPI);
        let _ = self.vm.mmio_write(pin, router, Width::Double, vcpu);
    }

    /// An edge on SPI 40.
    pub fn inject_spi(&self, pin: &Pin<'_>) {
        let _ = self.vm.inject_spi(pin, IntId::spi(SPI).unwrap()).unwrap();
    }

    /// Enters, lets the guest set its interface up and take everything, exits and puts; how many it took.
    pub fn serve(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) -> usize {
        let mut taken = 0;
        loop {
            self.vm.enter(cpu, &cpu.pin(), vcpu).unwrap();
            let before = taken;
            taken += take(cpu);
            self.vm.exit(cpu, &cpu.pin(), vcpu).unwrap();
            if taken == before {
                break;
            }
        }
        self.vm.put(cpu, &cpu.pin(), vcpu).unwrap();
        taken
    }

    /// Takes the VM apart: no reference is left, and every injection was taken, merged, withdrawn or is
    /// still pending.
    pub fn finish(self, cpu: &Cpu<SoftwareInterface>) {
        let totals = self.domain.totals();
        let remains = self.vm.teardown(&cpu.pin()).unwrap();
        assert_eq!(remains.references, 0);
        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(
                totals.injections[kind],
                totals.coalesced[kind]
                    + totals.deliveries[kind]
                    + totals.withdrawn[kind]
                    + remains.pending[kind]
            );
        }
    }
}

/// The guest sets its interface up and takes everything that is signalled.
pub fn take(cpu: &Cpu<SoftwareInterface>) -> usize {
    let guest = cpu.interface();
    guest.write_igrpen1(true);
    guest.write_pmr(0xf8).unwrap();
    let mut taken = 0;
    loop {
        let intid = guest.read_iar1();
        if intid == 1023 {
            return taken;
        }
        taken += 1;
        guest.write_eoir1(intid);
    }
}

//! The soaked VM: few interrupts, for frequent races, and two ITSes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{CpuLocal, Domain};
use vgic::intid::{Affinity, CpuId, IntId, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::{BadAddress, Config, Cpu, Host, PhysicalInterrupt, Vgic};

use crate::oracle::Oracle;
use crate::threads::yield_now;

/// vCPUs.
pub(crate) const VCPUS: usize = 6;
/// Number of polls of a guest waiting for an interrupt, or for a register.
pub(crate) const PATIENCE: usize = if cfg!(shuttle) { 20 } else { 2000 };
/// Largest number of physical CPUs running vCPUs. Higher CPU numbers serve set-up and the final
/// checks.
pub(crate) const CPUS: usize = 32;
/// SGIs in use: 0 to 3.
pub(crate) const SGIS: u32 = 4;
/// The PPI in use, edge-triggered.
pub(crate) const PPI: u32 = 20;
/// SPIs: edge-triggered, always enabled, never cleared.
pub(crate) const STEADY_SPIS: std::ops::Range<u32> = 32..36;
/// SPIs: edge-triggered, and disabled, cleared and deactivated by the guest.
pub(crate) const EDGES: std::ops::Range<u32> = 36..40;
/// SPIs: level-sensitive, always enabled.
pub(crate) const LEVELS: std::ops::Range<u32> = 40..42;
/// LPIs always mapped by ITS 0, and enabled.
pub(crate) const STEADY_LPIS: std::ops::Range<u32> = 8192..8196;
/// LPIs mapped and unmapped by both ITSes.
pub(crate) const LOOSE_LPIS: std::ops::Range<u32> = 8196..8200;
/// LPIs that exist.
pub(crate) const LPIS: u32 = 32;

/// The distributor's base address.
pub(crate) const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
/// The base addresses of the two ITSes.
pub(crate) const GITS: [u64; 2] = [0x0808_0000, 0x0900_0000];

// Guest memory: two command queues, and the LPI tables.
const QUEUES: [u64; 2] = [0, 0x1_0000];
const PROPERTIES: u64 = 0x2000;
/// An all-zero pending table, shared by every vCPU.
const PENDING: u64 = 0x2_0000;
const TABLES: u64 = 0x3000;
const RAM: usize = PENDING as usize + VCPUS * 0x1_0000;
/// Commands in a queue of 4 KiB.
const QUEUE_COMMANDS: u64 = 128;
const VALID: u64 = 1 << 63;

/// Returns the base of a vCPU's SGI and PPI registers.
pub(crate) fn sgi_base(vcpu: usize) -> u64 {
    redistributor(vcpu) + 0x1_0000
}

/// Returns the base of a vCPU's redistributor.
pub(crate) fn redistributor(vcpu: usize) -> u64 {
    GICR + vcpu as u64 * 0x2_0000
}

/// Returns the ID of vCPU n.
pub(crate) fn vcpu(n: usize) -> VcpuId {
    VcpuId::new(n).expect("a vCPU of the VM")
}

/// The embedder: records kicks and wakes.
pub(crate) struct Embedder {
    ram: Mutex<Vec<u8>>,
    kicked: Vec<AtomicBool>,
    woken: Vec<AtomicBool>,
}

impl Embedder {
    fn new() -> Self {
        let flags = |count| (0..count).map(|_| AtomicBool::new(false)).collect();
        Self {
            ram: Mutex::new(vec![0; RAM]),
            kicked: flags(CPUS + 2),
            woken: flags(VCPUS),
        }
    }

    /// Forgets the kicks of a CPU about to enter a guest.
    pub(crate) fn forget_kicks(&self, cpu: CpuId) {
        // A swap: the CPU sees the work behind the kick that it forgets.
        self.kicked[usize::from(cpu.0)].swap(false, SeqCst);
    }

    /// Returns whether a CPU was kicked since [`Self::forget_kicks`].
    pub(crate) fn is_kicked(&self, cpu: CpuId) -> bool {
        self.kicked[usize::from(cpu.0)].load(SeqCst)
    }

    /// Forgets the wakes of a vCPU about to block.
    pub(crate) fn forget_wakes(&self, vcpu: usize) {
        self.woken[vcpu].store(false, SeqCst);
    }

    /// Returns whether a vCPU was woken since [`Self::forget_wakes`].
    pub(crate) fn is_woken(&self, vcpu: usize) -> bool {
        self.woken[vcpu].load(SeqCst)
    }
}

impl Host for Embedder {
    fn kick(&self, cpu: CpuId, _vcpu: VcpuId) {
        self.kicked[usize::from(cpu.0)].store(true, SeqCst);
    }

    fn wake(&self, vcpu: VcpuId) {
        self.woken[vcpu.index()].store(true, SeqCst);
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let ram = self.ram.lock().expect("no panic while locked");
        let bytes = ram.get(gpa as usize..).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(BadAddress)?);
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut ram = self.ram.lock().expect("no panic while locked");
        let place = ram.get_mut(gpa as usize..).ok_or(BadAddress)?;
        let place = place.get_mut(..bytes.len()).ok_or(BadAddress)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn deactivate(&self, physical: PhysicalInterrupt) {
        panic!("no interrupt is forwarded, and {physical:?} is to be deactivated");
    }
    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        panic!("no interrupt is connected, and {physical:?} is to be sampled");
    }
}

/// The VM, the epoch of its hypervisor, and the oracle.
pub(crate) struct Machine {
    pub(crate) vm: Vgic<Embedder>,
    pub(crate) domain: Domain,
    pub(crate) oracle: Oracle,
}

impl Machine {
    /// Returns a VM after the guest's set-up: interrupts spread over the vCPUs, with different
    /// priorities.
    pub(crate) fn new() -> Self {
        let affinities = (0..VCPUS as u8)
            .map(|n| Affinity::new(0, 0, 0, n))
            .collect();

        let mut config = Config::new(affinities).with_its(GITS[0]).with_its(GITS[1]);
        config.spis = 32;
        config.lpis = 32;
        for its in &mut config.its {
            its.device_bits = 1;
            its.event_bits = 2;
            its.collections = VCPUS as u32;
        }

        let domain = Domain::new();
        let vm = Vgic::new(&domain, config, Embedder::new()).expect("a valid configuration");
        let machine = Self {
            vm,
            domain,
            oracle: Oracle::new(),
        };

        machine.set_up();
        machine
    }

    fn set_up(&self) {
        let cpu = self.cpu(CPUS as u16);

        for n in 0..VCPUS {
            self.vm.power_on(vcpu(n));
            // Awake: WFI depends on the CPU interface.
            self.write(cpu.local(), redistributor(n) + 0x14, 0);
            self.write(cpu.local(), sgi_base(n) + 0x080, 1 << PPI | 0xf);
            self.write(cpu.local(), sgi_base(n) + 0xc04, 2 << (PPI % 16 * 2));
            self.write(cpu.local(), sgi_base(n) + 0x400, 0x2060_a0e0);
            self.write(cpu.local(), sgi_base(n) + 0x400 + u64::from(PPI), 0x40);
            self.write(cpu.local(), sgi_base(n) + 0x100, 1 << PPI | 0xf);
            self.write64(cpu.local(), redistributor(n) + 0x70, PROPERTIES | 13);
            let table = PENDING + n as u64 * 0x1_0000;
            self.write64(cpu.local(), redistributor(n) + 0x78, table);
        }

        let spis = (1 << (LEVELS.end - 32)) - 1;
        self.write(cpu.local(), GICD + 0x084, spis);
        self.write(cpu.local(), GICD + 0xc08, 0xaaaa);
        for (word, priorities) in (0..).zip([0x80c0_1050, 0x3090_7000, 0x0000_4098]) {
            self.write(cpu.local(), GICD + 0x420 + 4 * word, priorities);
        }

        for (n, lpi) in (STEADY_LPIS.start..LOOSE_LPIS.end).enumerate() {
            self.configure_lpi(lpi, 0x20 * (n as u8 % 8), true);
        }

        for (id, its) in GITS.into_iter().enumerate() {
            self.write64(cpu.local(), its + 0x100, VALID | TABLES);
            self.write64(cpu.local(), its + 0x108, VALID | TABLES);
            self.write64(cpu.local(), its + 0x80, VALID | QUEUES[id]);
            self.write(cpu.local(), its, 1);
        }

        self.restore(&cpu);
        for id in 0..2 {
            let mut its = Its::new(self, &cpu, id);
            for n in 0..VCPUS as u64 {
                its.mapc(n, n);
            }
            for device in 0..2 {
                its.mapd(device, Some(2));
            }
            if id == 0 {
                for (event, lpi) in (0..).zip(STEADY_LPIS) {
                    its.mapti(0, event, lpi, event % VCPUS as u64);
                }
            }
            for (event, lpi) in (0..).zip(LOOSE_LPIS) {
                its.mapti(1, event, lpi, event % VCPUS as u64);
            }
        }
    }

    /// Returns a CPU for running vCPUs or for register accesses.
    pub(crate) fn cpu(&self, number: u16) -> Cpu<SoftwareInterface> {
        Cpu::new(
            self.domain.register(CpuId(number)).unwrap(),
            SoftwareInterface::default(),
        )
    }

    /// Enables the groups and SPIs possibly disabled by the guest, and routes every SPI to a
    /// vCPU.
    pub(crate) fn restore(&self, cpu: &Cpu<SoftwareInterface>) {
        let local = cpu.local();
        self.write(local, GICD, 0x12);
        for (n, spi) in (STEADY_SPIS.start..LEVELS.end).enumerate() {
            self.route(local, spi, (n % VCPUS) as u64);
        }

        self.write(local, GICD + 0x104, (1 << (LEVELS.end - 32)) - 1);
        for lpi in LOOSE_LPIS {
            self.configure_lpi(lpi, 0x20, true);
        }

        self.write64(local, redistributor(0) + 0xb0, 0);

        self.advance(local);
    }

    /// Enables the LPIs of every vCPU, off its CPU. The pending tables have been written before.
    pub(crate) fn enable_lpis(&self, cpu: &Cpu<SoftwareInterface>) {
        self.advance(cpu.local());
        for n in 0..VCPUS {
            self.write(cpu.local(), redistributor(n), 1);
        }
        self.advance(cpu.local());
    }

    /// Polls `GICR_CTLR.RWP` of vCPU `n`, until the pending table has been written. Returns false
    /// after some time: the vCPU has to fold first, and may be away.
    pub(crate) fn is_stored(&self, cpu: &Cpu<SoftwareInterface>, n: usize) -> bool {
        (0..PATIENCE).any(|_| {
            self.advance(cpu.local());
            yield_now();
            let ctlr = (self.vm).mmio_read(&cpu.pin(), vcpu(n), redistributor(n), Width::Word);
            matches!(ctlr, Ok(MmioOutcome::Done(ctlr)) if ctlr & 1 << 3 == 0)
        })
    }

    /// Does all deferred work.
    pub(crate) fn advance(&self, local: &CpuLocal) {
        while self.vm.has_deferred() {
            self.vm.advance(&local.pin()).unwrap();
        }
    }

    /// Writes a 32-bit register.
    pub(crate) fn write(&self, local: &CpuLocal, gpa: u64, value: u32) {
        let done = self
            .vm
            .mmio_write(&local.pin(), gpa, Width::Word, value.into());
        assert_eq!(done, Ok(MmioOutcome::Done(0)), "write of {gpa:#x}");
    }

    /// Writes a 64-bit register.
    pub(crate) fn write64(&self, local: &CpuLocal, gpa: u64, value: u64) {
        let done = self.vm.mmio_write(&local.pin(), gpa, Width::Double, value);
        assert_eq!(done, Ok(MmioOutcome::Done(0)), "write of {gpa:#x}");
    }

    /// Routes an SPI to the vCPU with the given affinity, if any.
    pub(crate) fn route(&self, local: &CpuLocal, spi: u32, affinity: u64) {
        self.write64(local, GICD + 0x6000 + 8 * u64::from(spi), affinity);
    }

    /// Writes an LPI's configuration byte. The guest still has to invalidate the LPI.
    pub(crate) fn configure_lpi(&self, lpi: u32, priority: u8, enabled: bool) {
        let at = (PROPERTIES + u64::from(lpi - 8192)) as usize;
        self.vm.host().ram.lock().expect("no panic while locked")[at] =
            priority | u8::from(enabled);
    }

    /// Injects an edge on a steady or loose SPI.
    pub(crate) fn inject_spi(&self, local: &CpuLocal, spi: u32) {
        self.oracle.raising(0, spi);
        let intid = IntId::spi(spi).expect("an SPI");
        let _ = self
            .vm
            .inject_spi(&local.pin(), intid)
            .expect("an SPI of the VM");
    }
}

/// A guest's driver of one ITS.
pub(crate) struct Its<'a> {
    machine: &'a Machine,
    cpu: &'a Cpu<SoftwareInterface>,
    base: u64,
    queue: u64,
    next: u64,
}

impl<'a> Its<'a> {
    /// Returns a driver of ITS `id`, starting at the current GITS_CREADR.
    pub(crate) fn new(machine: &'a Machine, cpu: &'a Cpu<SoftwareInterface>, id: usize) -> Self {
        let mut driver = Self {
            machine,
            cpu,
            base: GITS[id],
            queue: QUEUES[id],
            next: 0,
        };
        driver.next = driver.creadr() / 32;
        driver
    }

    fn creadr(&self) -> u64 {
        let (vm, cpu) = (&self.machine.vm, self.cpu);
        match vm.mmio_read(&cpu.pin(), vcpu(0), self.base + 0x90, Width::Double) {
            Ok(MmioOutcome::Done(value)) => value,
            other => panic!("GITS_CREADR: {other:?}"),
        }
    }

    /// Queues a command and polls until the ITS has executed it.
    fn send(&mut self, command: [u64; 4]) {
        let at = (self.queue + self.next * 32) as usize;

        {
            let host = self.machine.vm.host();
            let mut ram = host.ram.lock().expect("no panic while locked");
            for (word, at) in command.iter().zip((at..).step_by(8)) {
                ram[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }

        self.next = (self.next + 1) % QUEUE_COMMANDS;
        self.machine
            .write64(self.cpu.local(), self.base + 0x88, self.next * 32);

        for _ in 0..100_000 {
            if self.creadr() == self.next * 32 {
                return;
            }
            yield_now();
        }
        panic!("the queue of the ITS at {:#x} is stuck", self.base);
    }

    pub(crate) fn mapd(&mut self, device: u64, event_bits: Option<u64>) {
        let map = event_bits.map_or([0, 0], |bits| [bits - 1, VALID | TABLES]);
        self.send([0x08 | device << 32, map[0], map[1], 0]);
    }

    pub(crate) fn mapc(&mut self, icid: u64, vcpu: u64) {
        self.send([0x09, 0, VALID | vcpu << 16 | icid, 0]);
    }

    pub(crate) fn mapti(&mut self, device: u64, event: u64, intid: u32, icid: u64) {
        self.send([0x0a | device << 32, event | u64::from(intid) << 32, icid, 0]);
    }

    pub(crate) fn movi(&mut self, device: u64, event: u64, icid: u64) {
        self.send([0x01 | device << 32, event, icid, 0]);
    }

    pub(crate) fn movall(&mut self, from: u64, to: u64) {
        self.send([0x0e, 0, from << 16, to << 16]);
    }

    pub(crate) fn int(&mut self, device: u64, event: u64) {
        self.send([0x03 | device << 32, event, 0, 0]);
    }

    pub(crate) fn clear(&mut self, device: u64, event: u64) {
        self.send([0x04 | device << 32, event, 0, 0]);
    }

    pub(crate) fn discard(&mut self, device: u64, event: u64) {
        self.send([0x0f | device << 32, event, 0, 0]);
    }

    pub(crate) fn inv(&mut self, device: u64, event: u64) {
        self.send([0x0c | device << 32, event, 0, 0]);
    }

    pub(crate) fn invall(&mut self, icid: u64) {
        self.send([0x0d, 0, icid, 0]);
    }
}

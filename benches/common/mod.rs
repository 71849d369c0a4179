//! A VM to measure: the guest's set-up is done, interrupts are enabled, LPIs are mapped.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a room that several benchmarks share, each using its part"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{Domain, Pin};
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::Width;
use vgic::{BadAddress, Config, Cpu, Host, Vgic};

pub const GICD: u64 = 0x0800_0000;
pub const GITS: u64 = 0x0808_0000;
const RAM: u64 = 0x4000_0000;
const QUEUE: u64 = RAM;
/// Commands in the queue, which is 64 KiB.
pub const QUEUE_SLOTS: u64 = 0x1_0000 / 32;
const DEVICES: u64 = RAM + 0x10_0000;
const COLLECTIONS: u64 = RAM + 0x20_0000;
const PROPERTIES: u64 = RAM + 0x30_0000;
const PENDING: u64 = RAM + 0x40_0000;
const RAM_SIZE: usize = 0x50_0000;
const VALID: u64 = 1 << 63;
/// The first LPI.
const LPI: u64 = 8192;

/// A host with RAM that is told nothing.
pub struct Quiet {
    ram: Mutex<Vec<u8>>,
}

impl Host for Quiet {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let ram = self.ram.lock().unwrap();
        let at = gpa.checked_sub(RAM).ok_or(BadAddress)? as usize;
        let bytes = ram.get(at..at + buffer.len()).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, _pintid: u16) {}
}

/// Where the LPIs go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// All to vCPU 0.
    One,
    /// Device n's to vCPU n, round and round.
    All,
}

/// The VM, and the epoch of its hypervisor.
pub struct Bed {
    pub domain: Domain,
    pub vm: Vgic<Quiet>,
    pub vcpus: usize,
    pub devices: u64,
    pub events: u64,
    written: AtomicU64,
}

pub fn vcpu(n: usize) -> VcpuId {
    VcpuId::new(n).unwrap()
}

impl Bed {
    /// So many vCPUs, and LPIs for so many devices with so many events each.
    pub fn new(vcpus: usize, devices: u64, events: u64, spread: Spread) -> Self {
        let affinity = |n: usize| Affinity::new(0, 0, (n / 16) as u8, (n % 16) as u8);
        let config = Config::new((0..vcpus).map(affinity).collect()).with_its(GITS);
        let quiet = Quiet {
            ram: Mutex::new(vec![0; RAM_SIZE]),
        };
        let bed = Self {
            domain: Domain::new(),
            vm: Vgic::new(config, quiet).unwrap(),
            vcpus,
            devices,
            events,
            written: AtomicU64::new(0),
        };
        let cpu = bed.cpu(0);
        bed.set_up(&cpu);
        for device in 0..devices {
            let bits = u64::from(events.next_power_of_two().trailing_zeros()).max(1);
            bed.command(&cpu.pin(), [0x08 | device << 32, bits - 1, VALID | RAM, 0]);
            for event in 0..events {
                let icid = match spread {
                    Spread::One => 0,
                    Spread::All => device % vcpus as u64,
                };
                bed.map(&cpu.pin(), device, event, icid);
            }
        }
        bed
    }

    fn set_up(&self, cpu: &Cpu<SoftwareInterface>) {
        self.ram(PROPERTIES, &[0xa1; 0x1_0000]);
        self.write(&cpu.pin(), GICD, 0x12);
        for register in 1..32 {
            self.write(&cpu.pin(), GICD + 0x80 + 4 * register, 0xffff_ffff);
            self.write(&cpu.pin(), GICD + 0x100 + 4 * register, 0xffff_ffff);
            self.write(&cpu.pin(), GICD + 0xc00 + 8 * register, 0xaaaa_aaaa);
            self.write(&cpu.pin(), GICD + 0xc04 + 8 * register, 0xaaaa_aaaa);
        }
        self.write_double(&cpu.pin(), GITS + 0x100, VALID | DEVICES | 0xf);
        self.write_double(&cpu.pin(), GITS + 0x108, VALID | COLLECTIONS);
        self.write_double(&cpu.pin(), GITS + 0x80, VALID | QUEUE | 0xf);
        self.write(&cpu.pin(), GITS, 1);
        for n in 0..self.vcpus {
            self.vm.power_on(vcpu(n));
            let gicr = self.gicr(n);
            self.write(&cpu.pin(), gicr + 0x14, 0);
            self.write(&cpu.pin(), gicr + 0x1_0080, 0xffff_ffff);
            self.write(&cpu.pin(), gicr + 0x1_0100, 0xffff_ffff);
            self.write_double(&cpu.pin(), gicr + 0x70, PROPERTIES | 16);
            self.write_double(&cpu.pin(), gicr + 0x78, PENDING);
            self.write(&cpu.pin(), gicr, 1);
            self.enter(cpu, n);
            cpu.interface().write_igrpen1(true);
            cpu.interface().write_pmr(0xf8).unwrap();
            self.exit(cpu, n);
            self.put(cpu, n);
            self.settle(&cpu.pin());
            let n = n as u64;
            self.command(&cpu.pin(), [0x09, 0, VALID | n << 16 | n, 0]);
        }
    }

    /// A physical CPU, for the thread that calls.
    pub fn cpu(&self, n: u16) -> Cpu<SoftwareInterface> {
        Cpu::new(self.domain.register(CpuId(n)), SoftwareInterface::default())
    }

    pub fn gicr(&self, n: usize) -> u64 {
        let mut left = n;
        for region in &self.vm.config().redistributors {
            if left < region.count {
                return region.base + left as u64 * 0x2_0000;
            }
            left -= region.count;
        }
        panic!("no redistributor {n}");
    }

    pub fn write(&self, pin: &Pin<'_>, gpa: u64, value: u64) {
        let _ = self.vm.mmio_write(pin, gpa, Width::Word, value);
    }

    pub fn write_double(&self, pin: &Pin<'_>, gpa: u64, value: u64) {
        let _ = self.vm.mmio_write(pin, gpa, Width::Double, value);
    }

    fn ram(&self, gpa: u64, bytes: &[u8]) {
        let at = (gpa - RAM) as usize;
        self.vm.host().ram.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Does all deferred work.
    pub fn settle(&self, pin: &Pin<'_>) {
        while self.vm.has_deferred() {
            self.vm.advance(pin);
        }
    }

    /// Puts a command into the queue without telling the ITS.
    pub fn queue(&self, command: [u64; 4]) -> u64 {
        let at = self.written.fetch_add(1, Ordering::Relaxed) % QUEUE_SLOTS;
        let mut bytes = [0; 32];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(command) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        self.ram(QUEUE + at * 32, &bytes);
        (at + 1) % QUEUE_SLOTS * 32
    }

    /// Tells the ITS how far the queue is filled, and lets it work.
    pub fn go(&self, pin: &Pin<'_>, end: u64) {
        self.write_double(pin, GITS + 0x88, end);
        self.settle(pin);
    }

    /// One command, from the guest's write to its completion.
    pub fn command(&self, pin: &Pin<'_>, command: [u64; 4]) {
        let end = self.queue(command);
        self.go(pin, end);
    }

    pub fn map(&self, pin: &Pin<'_>, device: u64, event: u64, icid: u64) {
        let lpi = LPI + device * self.events + event;
        self.command(pin, [0x0a | device << 32, event | lpi << 32, icid, 0]);
    }

    pub fn discard(&self, pin: &Pin<'_>, device: u64, event: u64) {
        self.command(pin, [0x0f | device << 32, event, 0, 0]);
    }

    pub fn movi(&self, pin: &Pin<'_>, device: u64, event: u64, icid: u64) {
        self.command(pin, [0x01 | device << 32, event, icid, 0]);
    }

    #[inline]
    pub fn msi(&self, pin: &Pin<'_>, device: u64, event: u64) {
        let _ = self.vm.inject_msi(
            pin,
            ItsId(0),
            DeviceId(device as u32),
            EventId(event as u32),
        );
    }

    pub fn spi(&self, pin: &Pin<'_>, intid: u32) {
        let _ = self.vm.inject_spi(pin, IntId::spi(intid).unwrap());
    }

    #[inline]
    pub fn enter(&self, cpu: &Cpu<SoftwareInterface>, n: usize) {
        self.vm.enter(cpu, &cpu.pin(), vcpu(n)).unwrap();
    }

    #[inline]
    pub fn exit(&self, cpu: &Cpu<SoftwareInterface>, n: usize) {
        self.vm.exit(cpu, &cpu.pin(), vcpu(n)).unwrap();
    }

    pub fn put(&self, cpu: &Cpu<SoftwareInterface>, n: usize) {
        self.vm.put(cpu, &cpu.pin(), vcpu(n)).unwrap();
    }

    /// The guest takes and ends what its registers hold; how many those were.
    #[inline]
    pub fn take(&self, cpu: &Cpu<SoftwareInterface>) -> u64 {
        let mut taken = 0;
        loop {
            let intid = cpu.interface().read_iar1();
            if intid == 1023 {
                return taken;
            }
            cpu.interface().write_eoir1(intid);
            taken += 1;
        }
    }

    /// Into the guest, which takes what its registers hold, and out again; how many those were.
    pub fn visit(&self, cpu: &Cpu<SoftwareInterface>, n: usize) -> u64 {
        self.enter(cpu, n);
        let taken = self.take(cpu);
        self.exit(cpu, n);
        taken
    }

    /// The guest takes everything there is for this vCPU, while nobody injects.
    pub fn drain(&self, cpu: &Cpu<SoftwareInterface>, n: usize) {
        while self.visit(cpu, n) != 0 {}
    }
}

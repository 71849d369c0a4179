//! A VM after its guest's set-up, and a host without a measurable cost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{CpuPin, Domain};
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{BadAddress, Config, Cpu, Host, PhysicalInterrupt, Vgic};

pub const GICD: u64 = 0x0800_0000;
pub const GITS: u64 = 0x0808_0000;
const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 0x0040_0000;
const DEVICE_TABLE: u64 = RAM + 0x1_0000;
const COLLECTION_TABLE: u64 = RAM + 0x2_0000;
const QUEUE: u64 = RAM + 0x3_0000;
/// Commands in the queue of 64 KiB.
pub const QUEUE_COMMANDS: u64 = 0x1_0000 / 32;
/// LPI configuration table: a byte for each LPI, from INTID 8192 on.
const PROPERTIES: u64 = RAM + 0x10_0000;
/// The pending table of every redistributor, all zero.
const PENDING: u64 = RAM + 0x20_0000;
const VALID: u64 = 1 << 63;

/// The first INTID of LPIs.
pub const FIRST_LPI: u32 = 8192;

/// Configuration byte of an enabled LPI.
const ENABLED: u8 = 0xa1;

/// A host with RAM. Kicks and wakes have no effect.
pub struct QuietHost {
    ram: Box<[AtomicU64]>,
}

impl Default for QuietHost {
    /// Returns a host whose RAM is all zeros.
    fn default() -> Self {
        Self {
            ram: (0..RAM_SIZE / 8).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl QuietHost {
    fn word(&self, gpa: u64) -> Option<&AtomicU64> {
        self.ram
            .get(usize::try_from(gpa.checked_sub(RAM)? / 8).ok()?)
    }

    fn write(&self, gpa: u64, value: u64) {
        self.word(gpa).expect("in RAM").store(value, Relaxed);
    }
}

impl Host for QuietHost {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let mut at = gpa;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(at).ok_or(BadAddress)?.load(Relaxed).to_le_bytes();
            let word = &word[(at % 8) as usize..];
            let count = word.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[..count]);
            rest = later;
            at += count as u64;
        }
        Ok(())
    }
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        // Pending tables are written by double words.
        for (at, bytes) in (gpa..).step_by(8).zip(bytes.chunks_exact(8)) {
            let word = u64::from_le_bytes(bytes.try_into().map_err(|_| BadAddress)?);
            self.word(at).ok_or(BadAddress)?.store(word, Relaxed);
        }
        Ok(())
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
}

/// A physical CPU.
pub type SoftCpu = Cpu<SoftwareInterface>;

/// A VM. Each thread registers CPUs of its own.
pub struct Vm {
    pub domain: Domain,
    pub vgic: Vgic<QuietHost>,
    /// Commands queued so far. One thread at a time sends commands.
    commands: AtomicU64,
}

pub fn vcpu(n: usize) -> VcpuId {
    VcpuId::new(n).expect("below 4,095")
}

impl Vm {
    /// Returns a VM with `count` vCPUs, all groups enabled, nothing masked, LPIs enabled, and
    /// collection n on vCPU n.
    pub fn new(count: usize) -> Self {
        let affinities = (0..count)
            .map(|n| Affinity::new(0, 0, (n / 16) as u8, (n % 16) as u8))
            .collect();
        let config = Config::new(affinities).with_its(GITS);
        let domain = Domain::new();
        let vm = Self {
            vgic: Vgic::new(&domain, config, QuietHost::default()).expect("a valid configuration"),
            domain,
            commands: AtomicU64::new(0),
        };

        // Every LPI is enabled.
        for at in (0..0x1_0000).step_by(8) {
            (vm.vgic.host()).write(PROPERTIES + at, u64::from_le_bytes([ENABLED; 8]));
        }

        vm.set_up(count);
        vm
    }

    fn set_up(&self, count: usize) {
        let cpu = self.cpu(0);
        self.write(&cpu, GICD, Width::Word, 0x13);

        for register in 1..32 {
            self.write(
                &cpu,
                GICD + 0x80 + 4 * register,
                Width::Word,
                u64::from(u32::MAX),
            );
        }

        for n in 0..count {
            self.vgic.power_on(vcpu(n));
            let gicr = self.gicr(n);
            for (offset, width, value) in [
                (0x14, Width::Word, 0),
                (0x1_0080, Width::Word, u64::from(u32::MAX)),
                (0x1_0100, Width::Word, 0xffff),
                (0x70, Width::Double, PROPERTIES | 16),
                // PTZ: the table is all zero and is not read.
                (0x78, Width::Double, 1 << 62 | PENDING),
                (0x0, Width::Word, 1),
            ] {
                self.write(&cpu, gicr + offset, width, value);
            }

            self.enter(&cpu, n);
            cpu.interface().write_igrpen1(true);
            cpu.interface().write_pmr(0xf8).expect("not trapped");
            self.exit(&cpu, n);
            self.put(&cpu, n);
        }

        for (offset, width, value) in [
            (0x100, Width::Double, VALID | DEVICE_TABLE | 0xf),
            (0x108, Width::Double, VALID | COLLECTION_TABLE),
            (0x80, Width::Double, VALID | QUEUE | 0xf),
            (0x0, Width::Word, 1),
        ] {
            self.write(&cpu, GITS + offset, width, value);
        }

        for n in 0..count as u64 {
            self.send(&cpu, Command::mapc(n, n));
        }

        self.advance(&cpu);
    }

    /// Returns the bytes of the guest's RAM: memory of the host, not of the library.
    pub fn host_bytes() -> usize {
        RAM_SIZE as usize
    }

    /// Returns a physical CPU for the calling thread.
    pub fn cpu(&self, id: u16) -> SoftCpu {
        Cpu::new(
            self.domain.register(CpuId(id)).unwrap(),
            SoftwareInterface::default(),
        )
    }

    /// Returns the base of a vCPU's redistributor.
    pub fn gicr(&self, n: usize) -> u64 {
        let vcpu = VcpuId::new(n).unwrap();
        let base = self.vgic.config().redistributor_base(vcpu);
        base.expect("the vCPU has a redistributor")
    }

    pub fn write(&self, cpu: &SoftCpu, gpa: u64, width: Width, value: u64) {
        let outcome = self.vgic.mmio_write(&cpu.pin(), gpa, width, value);
        assert_eq!(outcome, Ok(MmioOutcome::Done(0)), "write of {gpa:#x}");
    }

    pub fn read(&self, cpu: &SoftCpu, n: usize, gpa: u64, width: Width) -> u64 {
        match self.vgic.mmio_read(&cpu.pin(), vcpu(n), gpa, width) {
            Ok(MmioOutcome::Done(value)) => value,
            other => panic!("read of {gpa:#x}: {other:?}"),
        }
    }

    /// Does all deferred work.
    pub fn advance(&self, cpu: &SoftCpu) {
        while self.vgic.has_deferred() {
            self.vgic.advance(&cpu.pin()).expect("a CPU of the domain");
        }
    }

    #[inline]
    pub fn enter(&self, cpu: &SoftCpu, n: usize) {
        self.vgic.enter(&cpu.pin(), vcpu(n)).expect("entered");
    }

    #[inline]
    pub fn exit(&self, cpu: &SoftCpu, n: usize) {
        self.vgic.exit(&cpu.pin(), vcpu(n)).expect("left");
    }

    pub fn put(&self, cpu: &SoftCpu, n: usize) {
        self.vgic.vcpu_put(&cpu.pin(), vcpu(n)).expect("put");
    }

    /// Lets the guest take and end the interrupts in the list registers.
    pub fn guest(&self, cpu: &SoftCpu, mut taken: impl FnMut(u32)) {
        loop {
            let intid = cpu.interface().read_iar1();
            if intid == 1023 {
                return;
            }
            cpu.interface().write_eoir1(intid);
            taken(intid);
        }
    }

    /// Runs the vCPU until nothing is pending, and puts it. Returns the number of interrupts taken.
    pub fn drain(&self, cpu: &SoftCpu, n: usize) -> u64 {
        let mut taken = 0;
        loop {
            self.enter(cpu, n);
            self.guest(cpu, |_| taken += 1);
            self.exit(cpu, n);
            let pending = self.vgic.has_pending(&cpu.pin(), vcpu(n));
            if !pending.expect("on this CPU") {
                self.put(cpu, n);
                return taken;
            }
        }
    }

    #[inline]
    pub fn inject(&self, cpu: &SoftCpu, device: u32, event: u32) {
        self.inject_by(&cpu.pin(), device, event);
    }

    // Not inlined: the cost of an MSI must not depend on the number of injecting loops in this
    // program.
    #[inline(never)]
    pub fn inject_by(&self, pin: &CpuPin<'_>, device: u32, event: u32) {
        let injected = (self.vgic).inject_msi(pin, ItsId(0), DeviceId(device), EventId(event));
        let _ = std::hint::black_box(injected.expect("mapped"));
    }

    /// Writes `ICC_SGI1R_EL1` as vCPU `n`.
    #[inline]
    pub fn sgi(&self, cpu: &SoftCpu, n: usize, value: u64) {
        let written = (self.vgic).sysreg_write(&cpu.pin(), vcpu(n), SysReg::Sgi1r, value);
        written.expect("a vCPU of the VM");
    }

    /// Configures an SPI as edge-triggered and enables it, for vCPU 0.
    pub fn edge_spi(&self, cpu: &SoftCpu, intid: u32) {
        let spi = IntId::spi(intid).expect("an SPI").raw();
        let configuration = GICD + 0xc00 + u64::from(spi / 16) * 4;
        self.write(cpu, configuration, Width::Word, 2 << (spi % 16 * 2));
        let enable = GICD + 0x100 + u64::from(spi / 32) * 4;
        self.write(cpu, enable, Width::Word, 1 << (spi % 32));
    }

    /// Queues a command without a write of GITS_CWRITER.
    pub fn queue(&self, command: Command) {
        // Relaxed: one thread at a time sends commands.
        let index = self.commands.fetch_add(1, Relaxed);
        let at = QUEUE + index % QUEUE_COMMANDS * 32;
        for (word, value) in (0..).zip(command.0) {
            self.vgic.host().write(at + word * 8, value);
        }
    }

    /// Lets the ITS execute every queued command.
    pub fn run_queue(&self, cpu: &SoftCpu) {
        let end = self.commands.load(Relaxed) % QUEUE_COMMANDS * 32;
        self.write(cpu, GITS + 0x88, Width::Double, end);
        self.advance(cpu);
    }

    pub fn send(&self, cpu: &SoftCpu, command: Command) {
        self.queue(command);
        self.run_queue(cpu);
    }

    /// Maps `events` events of `device` to the LPIs from `first` on, each to the collection given
    /// by `icid`.
    pub fn map(
        &self,
        cpu: &SoftCpu,
        device: u64,
        events: u64,
        first: u64,
        icid: impl Fn(u64) -> u64,
    ) {
        let bits = u64::from(events.next_power_of_two().trailing_zeros().max(1));
        self.send(cpu, Command::mapd(device, bits));
        for event in 0..events {
            self.send(
                cpu,
                Command::mapti(device, event, first + event, icid(event)),
            );
        }
    }
}

/// An ITS command (IHI 0069, 5.3).
#[derive(Clone, Copy)]
pub struct Command(pub [u64; 4]);

impl Command {
    pub fn mapd(device: u64, event_bits: u64) -> Self {
        Self([0x08 | device << 32, event_bits - 1, VALID | RAM, 0])
    }
    pub fn unmap_device(device: u64) -> Self {
        Self([0x08 | device << 32, 0, 0, 0])
    }
    pub fn mapc(icid: u64, vcpu: u64) -> Self {
        Self([0x09, 0, VALID | vcpu << 16 | icid, 0])
    }
    pub fn mapti(device: u64, event: u64, intid: u64, icid: u64) -> Self {
        Self([0x0a | device << 32, event | intid << 32, icid, 0])
    }
    pub fn mapi(device: u64, event: u64, icid: u64) -> Self {
        Self([0x0b | device << 32, event, icid, 0])
    }
    pub fn movi(device: u64, event: u64, icid: u64) -> Self {
        Self([0x01 | device << 32, event, icid, 0])
    }
    pub fn movall(from: u64, to: u64) -> Self {
        Self([0x0e, 0, from << 16, to << 16])
    }
    pub fn int(device: u64, event: u64) -> Self {
        Self([0x03 | device << 32, event, 0, 0])
    }
    pub fn clear(device: u64, event: u64) -> Self {
        Self([0x04 | device << 32, event, 0, 0])
    }
    pub fn discard(device: u64, event: u64) -> Self {
        Self([0x0f | device << 32, event, 0, 0])
    }
    pub fn inv(device: u64, event: u64) -> Self {
        Self([0x0c | device << 32, event, 0, 0])
    }
    pub fn invall(icid: u64) -> Self {
        Self([0x0d, 0, icid, 0])
    }
    pub fn sync(vcpu: u64) -> Self {
        Self([0x05, 0, vcpu << 16, 0])
    }
}

//! A small VM, the operations a guest and its devices have on it, and what must hold whatever they do.

pub mod memory;

use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Arbitrary;
use vgic::config::ItsConfig;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::{Domain, Pin};
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{BadAddress, Blocked, Config, Cpu, Host, Vgic};

use memory::{BASE, Memory};

const VCPUS: usize = 3;
const CPUS: usize = 2;
const QUEUE: u64 = BASE + 0x1_0000;
/// Slots of a 4 KiB command queue.
const QUEUE_SLOTS: u64 = 0x1000 / 32;
const VALID: u64 = 1 << 63;
/// Guest memory that one trap may have read, in bytes: a slice of commands, or of a table.
const BYTES_PER_TRAP: u64 = 0x4000;
/// Slices after which deferred work that no new request feeds must be done.
const SLICES: u64 = 100_000;

/// One thing that happens to the VM.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A trapped access. Even `spread`s are aligned to its size.
    Access {
        /// Whose access.
        vcpu: u8,
        /// Which of the frames.
        frame: u8,
        /// Where in the frame.
        offset: u32,
        /// Bytes, as a power of two.
        width: u8,
        /// What to write; a read without.
        write: Option<u64>,
    },
    /// A trapped write of a system register.
    SysReg {
        /// Whose.
        vcpu: u8,
        /// Which.
        register: u8,
        /// What is written.
        value: u64,
    },
    /// The next command of an ITS's queue.
    Command {
        /// Which ITS.
        its: u8,
        /// The command's number and its first double word.
        number: u8,
        /// A device.
        device: u8,
        /// An event.
        event: u8,
        /// An INTID, counted from the first LPI.
        lpi: u8,
        /// A collection.
        icid: u8,
        /// What else the command has: a target, a size, the valid bit.
        rest: u64,
    },
    /// A command of any content.
    RawCommand {
        /// Which ITS.
        its: u8,
        /// The command.
        words: [u64; 4],
    },
    /// Guest memory changes.
    Poke {
        /// Where, from the start of the memory.
        at: u32,
        /// To what.
        value: u64,
    },
    /// From now on guest memory changes as it is read.
    Unsettle(u64),
    /// A device writes `GITS_TRANSLATER`.
    Msi {
        /// Which ITS.
        its: u8,
        /// The device.
        device: u8,
        /// What it writes.
        event: u8,
    },
    /// An SPI's edge.
    Spi(u8),
    /// An SPI's line.
    SpiLine(u8, bool),
    /// A PPI's line.
    PpiLine(u8, u8, bool),
    /// A CPU runs a vCPU for a while; the guest's accesses of its CPU interface.
    Run {
        /// The CPU.
        cpu: u8,
        /// The vCPU.
        vcpu: u8,
        /// What the guest does.
        guest: Vec<Guest>,
    },
    /// A vCPU leaves its CPU.
    Put(u8),
    /// A vCPU is powered off, or on.
    Power(u8, bool),
    /// The hypervisor has time for deferred work.
    Advance,
}

/// One access of the guest to its CPU interface.
#[derive(Arbitrary, Clone, Debug)]
pub enum Guest {
    /// `ICC_IAR0_EL1` or `ICC_IAR1_EL1`.
    Acknowledge(bool),
    /// `ICC_EOIR0_EL1` or `ICC_EOIR1_EL1` for the last one acknowledged.
    End(bool),
    /// An EOI that is not due.
    StrayEnd(bool, u16),
    /// `ICC_DIR_EL1`.
    Deactivate(u16),
    /// `ICC_PMR_EL1`.
    Mask(u8),
    /// `ICC_CTLR_EL1`.
    Control(u8),
    /// `ICC_BPR0_EL1` or `ICC_BPR1_EL1`.
    BinaryPoint(bool, u8),
    /// `ICC_IGRPEN0_EL1` or `ICC_IGRPEN1_EL1`.
    Group(bool, bool),
    /// `ICC_AP0R0_EL1` or `ICC_AP1R0_EL1`.
    ActivePriorities(bool, u32),
}

/// A host whose guest memory is hostile.
#[derive(Default)]
pub struct HostileHost {
    /// The memory.
    pub memory: Memory,
    calls: AtomicU64,
}

impl Host for HostileHost {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
    fn wake(&self, _vcpu: VcpuId) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.memory.read(gpa, buffer)
    }
    fn deactivate(&self, _vcpu: Option<VcpuId>, _pintid: u16) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// The VM, and what of it the fuzzer needs to know.
pub struct Machine {
    domain: Domain,
    vm: Vgic<HostileHost>,
    cpus: Vec<Cpu<SoftwareInterface>>,
    /// The CPU that has a vCPU's registers.
    places: [Option<usize>; VCPUS],
    on: [bool; VCPUS],
    acknowledged: Vec<u32>,
    written: [u64; 2],
}

fn vcpu(n: usize) -> VcpuId {
    VcpuId::new(n % VCPUS).unwrap()
}

impl Machine {
    /// Three vCPUs, one of them beyond Aff0's first 16, two small ITSes and 256 LPIs.
    #[must_use]
    pub fn new() -> Self {
        let affinities = [0, 1, 20].map(|aff0| Affinity::new(0, 0, 0, aff0));
        let mut config = Config::new(affinities.to_vec());
        config.spis = 64;
        config.lpi_bits = 8;
        config.its = [0x0808_0000, 0x1808_0000]
            .map(|base| ItsConfig {
                max_devices: 4,
                max_events: 64,
                collections: 4,
                ..ItsConfig::at(base)
            })
            .to_vec();
        let domain = Domain::new();
        let vm = Vgic::new(config, HostileHost::default()).unwrap();
        let cpus = (0..CPUS)
            .map(|n| {
                Cpu::new(
                    domain.register(CpuId(n as u16)),
                    SoftwareInterface::default(),
                )
            })
            .collect();
        let mut machine = Self {
            domain,
            vm,
            cpus,
            places: [None; VCPUS],
            // vCPU 0 is on from the start.
            on: [true, false, false],
            acknowledged: Vec::new(),
            written: [0; 2],
        };
        for n in 1..VCPUS {
            machine.power(n, true);
        }
        machine
    }

    /// What a guest's driver sets up: everything enabled, in Group 1, an edge, and LPIs with tables.
    pub fn set_up(&mut self) {
        let config = self.vm.config().clone();
        let gicd = config.distributor;
        self.write(gicd, 0x13);
        for register in 1..3 {
            self.write(gicd + 0x80 + 4 * register, 0xffff_ffff);
            self.write(gicd + 0x100 + 4 * register, 0xffff_ffff);
        }
        for n in 0..VCPUS as u64 {
            let gicr = config.redistributors[0].base + n * 0x2_0000;
            self.write(gicr + 0x1_0080, 0xffff_ffff);
            self.write(gicr + 0x1_0100, 0xffff_ffff);
            self.write_double(gicr + 0x70, BASE | 13);
            self.write_double(gicr + 0x78, BASE + 0x2_0000 + n * 0x1_0000);
            self.write(gicr, 1);
        }
        self.vm.host().memory.write(BASE, &[0xa1; 0x100]);
        for (its, offset) in config.its.iter().zip([0, 0x1000]) {
            self.write_double(its.base + 0x100, VALID | (BASE + 0x8000));
            self.write_double(its.base + 0x108, VALID | (BASE + 0x9000));
            self.write_double(its.base + 0x80, VALID | (QUEUE + offset));
            self.write(its.base, 1);
        }
        for its in 0..2 {
            for icid in 0..3 {
                self.command(its, [0x09, 0, VALID | icid << 16 | icid, 0]);
            }
            for device in 0..2 {
                self.command(its, [0x08 | device << 32, 3, VALID | BASE, 0]);
                for event in 0..4 {
                    let lpi = 8192 + device * 4 + event;
                    self.command(its, [0x0a | device << 32, event | lpi << 32, event % 3, 0]);
                }
            }
        }
        for n in 0..VCPUS {
            self.run(
                0,
                n,
                &[
                    Guest::Mask(0xf8),
                    Guest::Group(true, true),
                    Guest::Group(false, true),
                ],
            );
            self.put(n);
        }
    }

    /// Does one thing, and checks that it was soon done.
    pub fn apply(&mut self, op: &Op) {
        memory::take_bytes_read();
        match *op {
            Op::Access {
                vcpu,
                frame,
                offset,
                width,
                write,
            } => self.access(vcpu.into(), frame, offset, width, write),
            Op::SysReg {
                vcpu,
                register,
                value,
            } => self.sysreg(vcpu.into(), register, value),
            Op::Command {
                its,
                number,
                device,
                event,
                lpi,
                icid,
                rest,
            } => {
                let words = [
                    u64::from(number & 0x0f) | u64::from(device & 7) << 32,
                    if number & 0x0f == 8 {
                        rest & 0x1f
                    } else {
                        u64::from(event & 0x1f) | (8192 + u64::from(lpi)) << 32
                    },
                    rest & (VALID | 0x0003_0000) | u64::from(icid & 7) | BASE & (rest << 8),
                    rest & 0x0003_0000,
                ];
                self.command(its.into(), words);
            }
            Op::RawCommand { its, words } => self.command(its.into(), words),
            Op::Poke { at, value } => {
                let memory = &self.vm.host().memory;
                memory.write(BASE + u64::from(at), &value.to_le_bytes());
            }
            Op::Unsettle(seed) => self.vm.host().memory.unsettle(seed),
            Op::Msi { its, device, event } => {
                let id = (
                    ItsId(its & 1),
                    DeviceId((device & 7).into()),
                    EventId(event.into()),
                );
                let _ = self.vm.inject_msi(&self.pin(), id.0, id.1, id.2);
            }
            Op::Spi(n) => {
                if let Some(intid) = IntId::spi(u32::from(n)) {
                    let _ = self.vm.inject_spi(&self.pin(), intid);
                }
            }
            Op::SpiLine(n, high) => {
                if let Some(intid) = IntId::spi(u32::from(n)) {
                    let _ = self.vm.set_spi_line(&self.pin(), intid, high);
                }
            }
            Op::PpiLine(n, ppi, high) => {
                if let Some(intid) = IntId::ppi(u32::from(ppi)) {
                    let _ = self
                        .vm
                        .set_ppi_line(&self.pin(), vcpu(n.into()), intid, high);
                }
            }
            Op::Run {
                cpu,
                vcpu,
                ref guest,
            } => self.run(cpu.into(), vcpu.into(), guest),
            Op::Put(n) => self.put(n.into()),
            Op::Power(n, on) => self.power(n.into(), on),
            Op::Advance => self.vm.advance(&self.pin()),
        }
        let read = memory::take_bytes_read();
        assert!(read <= BYTES_PER_TRAP, "{op:?} had {read} bytes read");
    }

    /// Takes the VM apart: every book must balance.
    pub fn finish(mut self) {
        for n in 0..VCPUS {
            self.put(n);
        }
        self.vm.host().memory.unsettle(0);
        let mut slices = 0;
        while self.vm.has_deferred() {
            self.vm.advance(&self.pin());
            slices += 1;
            assert!(slices < SLICES, "deferred work does not end");
        }
        let Self {
            domain, vm, cpus, ..
        } = self;
        let before = domain.totals();
        let remains = vm.teardown(&cpus[0].pin()).expect("no vCPU is on a CPU");
        assert_eq!(remains.references, 0);
        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(
                before.injections[kind],
                before.coalesced[kind]
                    + before.deliveries[kind]
                    + before.withdrawn[kind]
                    + remains.pending[kind],
                "{before:?} {remains:?}"
            );
        }
        let after = domain.totals();
        assert_eq!(after.lookup_gets, after.lookup_puts);
        assert_eq!(after.list_gets, after.list_puts);
    }

    fn pin(&self) -> Pin<'_> {
        self.cpus[0].pin()
    }

    fn write(&self, gpa: u64, value: u64) {
        let _ = self.vm.mmio_write(&self.pin(), gpa, Width::Word, value);
    }

    fn write_double(&self, gpa: u64, value: u64) {
        let _ = self.vm.mmio_write(&self.pin(), gpa, Width::Double, value);
    }

    fn access(&mut self, n: usize, frame: u8, offset: u32, width: u8, write: Option<u64>) {
        let bytes = 1 << (width & 3);
        let Some(width) = Width::from_bytes(bytes) else {
            return;
        };
        let config = self.vm.config();
        let (base, size) = match frame % 6 {
            0 => (config.distributor, 0x1_0000),
            at @ 1..=3 => (
                config.redistributors[0].base + u64::from(at - 1) * 0x2_0000,
                0x2_0000,
            ),
            at => (config.its[usize::from(at) - 4].base, 0x2_0000),
        };
        // Most registers are in a frame's first 4 KiB; half of the accesses go there.
        let offset = u64::from(offset) % if offset & 1 << 31 == 0 { 0x1000 } else { size };
        let gpa = base + (offset & !(bytes - 1));
        assert!(self.vm.claims(gpa));
        let outcome = match write {
            Some(value) => self.vm.mmio_write(&self.pin(), gpa, width, value),
            None => {
                let cpu = &self.cpus[self.places[n % VCPUS].unwrap_or(0)];
                self.vm.mmio_read(cpu, &cpu.pin(), vcpu(n), gpa, width)
            }
        };
        if let MmioOutcome::Done(value) = outcome {
            assert!(bytes == 8 || value >> (8 * bytes) == 0, "{value:#x}");
        }
    }

    fn sysreg(&mut self, n: usize, register: u8, value: u64) {
        let register = [
            SysReg::Sgi1r,
            SysReg::Sgi0r,
            SysReg::Asgi1r,
            SysReg::Dir,
            SysReg::Sre,
        ][usize::from(register) % 5];
        let cpu = &self.cpus[self.places[n % VCPUS].unwrap_or(0)];
        let _ = self.vm.sysreg_read(register);
        self.vm
            .sysreg_write(cpu, &cpu.pin(), vcpu(n), register, value);
    }

    fn command(&mut self, its: usize, words: [u64; 4]) {
        let its = its & 1;
        let base = self.vm.config().its[its].base;
        let at = QUEUE + its as u64 * 0x1000 + self.written[its] % QUEUE_SLOTS * 32;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.vm.host().memory.write(at, &bytes);
        self.written[its] += 1;
        self.write_double(base + 0x88, self.written[its] % QUEUE_SLOTS * 32);
    }

    fn run(&mut self, cpu: usize, n: usize, guest: &[Guest]) {
        let n = n % VCPUS;
        let cpu = *self.places[n].get_or_insert(cpu % CPUS);
        // The CPU may have another vCPU's registers.
        for other in 0..VCPUS {
            if other != n && self.places[other] == Some(cpu) {
                self.put(other);
            }
        }
        let this = &self.cpus[cpu];
        if self.vm.enter(this, &this.pin(), vcpu(n)).is_err() {
            assert!(!self.on[n]);
            self.places[n] = None;
            return;
        }
        let interface = this.interface();
        for access in guest {
            match *access {
                Guest::Acknowledge(group1) => {
                    let intid = if group1 {
                        interface.read_iar1()
                    } else {
                        interface.read_iar0()
                    };
                    if intid < 1020 || intid >= 8192 {
                        self.acknowledged.push(intid);
                    }
                }
                Guest::End(group1) => {
                    let intid = self.acknowledged.pop().unwrap_or(1023);
                    if group1 {
                        interface.write_eoir1(intid);
                    } else {
                        interface.write_eoir0(intid);
                    }
                }
                Guest::StrayEnd(true, intid) => interface.write_eoir1(intid.into()),
                Guest::StrayEnd(false, intid) => interface.write_eoir0(intid.into()),
                Guest::Deactivate(intid) => {
                    if interface.write_dir(intid.into()).is_err() {
                        self.vm.exit(this, &this.pin(), vcpu(n)).unwrap();
                        self.vm
                            .sysreg_write(this, &this.pin(), vcpu(n), SysReg::Dir, intid.into());
                        self.vm.enter(this, &this.pin(), vcpu(n)).unwrap();
                    }
                }
                Guest::Mask(mask) => drop(interface.write_pmr(mask)),
                Guest::Control(value) => drop(interface.write_ctlr(value.into())),
                Guest::BinaryPoint(true, value) => interface.write_bpr1(value & 7),
                Guest::BinaryPoint(false, value) => interface.write_bpr0(value & 7),
                Guest::Group(true, on) => interface.write_igrpen1(on),
                Guest::Group(false, on) => interface.write_igrpen0(on),
                Guest::ActivePriorities(true, value) => interface.write_ap1r(0, value),
                Guest::ActivePriorities(false, value) => interface.write_ap0r(0, value),
            }
        }
        self.vm.exit(this, &this.pin(), vcpu(n)).unwrap();
        let pending = self.vm.has_pending(this, &this.pin(), vcpu(n)).unwrap();
        if self.vm.block(this, &this.pin(), vcpu(n)).unwrap() == Blocked::Yes {
            assert!(!pending, "asleep with an interrupt");
        }
    }

    fn put(&mut self, n: usize) {
        let n = n % VCPUS;
        if let Some(cpu) = self.places[n].take() {
            let cpu = &self.cpus[cpu];
            self.vm.put(cpu, &cpu.pin(), vcpu(n)).unwrap();
        }
    }

    fn power(&mut self, n: usize, on: bool) {
        let n = n % VCPUS;
        if on {
            assert_eq!(self.vm.power_on(vcpu(n)), !self.on[n]);
            self.on[n] = true;
        } else if let Some(cpu) = self.places[n].take() {
            let cpu = &self.cpus[cpu];
            self.vm.power_off(cpu, &cpu.pin(), vcpu(n)).unwrap();
            self.on[n] = false;
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a VM through what `ops` keeps of these operations, set up by its guest or not, to its end.
pub fn run(set_up: bool, ops: &[Op], keep: impl Fn(&Op) -> bool) {
    let mut machine = Machine::new();
    if set_up {
        machine.set_up();
    }
    for op in ops.iter().filter(|op| keep(op)) {
        machine.apply(op);
    }
    machine.finish();
}

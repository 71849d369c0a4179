//! A VM, its host, and the operations of guest, device and CPU in the models.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock};

use loom::sync::atomic::{AtomicBool, AtomicU8};
use vgic::config::{ItsConfig, RedistributorRegion};
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::{CpuPin, Domain};
use vgic::gicv4::Gicv4;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{
    BadAddress, Blocked, Config, Cpu, Host, InjectError, Injected, PhysicalInterrupt, Vgic,
};

use crate::gicv4::Hardware;
use crate::{LEVEL, PPI, SGI, SPI, V0};

/// The frames of ITS 0. The frames of further ITSes follow.
const GITS: u64 = 0x0c00_0000;
const GITS_STRIDE: u64 = 0x2_0000;
/// The LPI configuration table in guest memory.
const PROPERTIES: u64 = 0x4000;
/// The command queue of ITS 0 in guest memory. The queues of further ITSes follow.
const QUEUE: usize = 0x1_0000;
const QUEUE_STRIDE: usize = 0x1_0000;

/// A host with counters for its callbacks. The counters are not loom's atomics: they observe the
/// protocol without taking part.
#[derive(Default)]
pub struct Quiet {
    /// Kicks.
    pub kicks: AtomicUsize,
    /// Wakes.
    pub wakes: AtomicUsize,
    /// Resamples.
    pub resamples: AtomicUsize,
    /// Physical interrupts deactivated by the library.
    pub deactivated: Mutex<Vec<PhysicalInterrupt>>,
    /// The last report of an enable, in the order of loom's reports: one of loom's atomics.
    pub enabled: AtomicBool,
    /// Guest memory at address 0: command queues and tables of the ITSes.
    ram: Mutex<Vec<u8>>,
    /// Bytes of guest memory that loom knows, by address, in place of those in `ram`.
    racing: OnceLock<Vec<(u64, AtomicU8)>>,
    /// GICv4 of the machine, if it has one.
    gicv4: Option<Hardware>,
}

impl Quiet {
    /// Returns the bytes of guest memory that loom knows and that are among `length` at `gpa`, each
    /// with its place among these.
    fn racing(&self, gpa: u64, length: usize) -> impl Iterator<Item = (usize, &AtomicU8)> {
        let racing = self.racing.get().into_iter().flatten();
        racing.filter_map(move |(at, byte)| {
            let place = at.checked_sub(gpa)? as usize;
            (place < length).then_some((place, byte))
        })
    }
}

impl Host for Quiet {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {
        self.kicks.fetch_add(1, Relaxed);
    }
    fn wake(&self, _vcpu: VcpuId) {
        self.wakes.fetch_add(1, Relaxed);
    }
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let ram = self.ram.lock().unwrap();
        let bytes = ram.get(gpa as usize..).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(BadAddress)?);
        // loom may run another CPU at an access of its atomics.
        drop(ram);
        for (place, byte) in self.racing(gpa, buffer.len()) {
            // Relaxed: the library orders the load, or nothing does.
            buffer[place] = byte.load(Relaxed);
        }
        Ok(())
    }
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut ram = self.ram.lock().unwrap();
        let place = ram.get_mut(gpa as usize..).ok_or(BadAddress)?;
        let place = place.get_mut(..bytes.len()).ok_or(BadAddress)?;
        place.copy_from_slice(bytes);
        // loom may run another CPU at an access of its atomics.
        drop(ram);
        for (place, byte) in self.racing(gpa, bytes.len()) {
            // Relaxed: the library orders the store, or nothing does.
            byte.store(bytes[place], Relaxed);
        }
        Ok(())
    }
    fn deactivate(&self, physical: PhysicalInterrupt) {
        self.deactivated.lock().unwrap().push(physical);
    }
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
    fn enabled(&self, _vcpu: Option<VcpuId>, _intid: IntId, on: bool) {
        // No order beyond that of the library: a device's register may be written in this way.
        self.enabled.store(on, Relaxed);
    }
    fn resample(&self, _vcpu: VcpuId, _intid: IntId) {
        self.resamples.fetch_add(1, Relaxed);
    }
    fn event_mapped(
        &self,
        _its: ItsId,
        _device: DeviceId,
        event: EventId,
        _lpi: IntId,
        _target: Option<VcpuId>,
    ) {
        if let Some(hardware) = &self.gicv4 {
            hardware.map_to_lpi(event);
        }
    }
    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.gicv4.as_ref().map(|hardware| hardware as _)
    }
}

/// A VM and the epoch of its hypervisor.
pub struct Machine {
    /// The epoch.
    pub domain: Domain,
    /// The VM.
    pub vm: Vgic<Quiet>,
    /// Commands placed in each ITS's queue so far.
    placed: [AtomicUsize; 2],
}

impl Machine {
    /// Returns a VM with `vcpus` vCPUs, all powered on. The models' SPI, PPIs and SGI are enabled
    /// in Group 1. The SPI is routed to vCPU 0.
    #[must_use]
    pub fn new(vcpus: u8) -> Self {
        Self::from_config(Config::new(affinities(vcpus)))
    }

    /// Returns a VM with vCPU 0 and room for another, set up as [`Machine::new`] does.
    #[must_use]
    pub fn with_room() -> Self {
        let mut config = Config::new(affinities(1));
        config.max_vcpus = 2;
        config.redistributors = vec![RedistributorRegion {
            base: 0x080a_0000,
            count: 2,
        }];
        Self::from_config(config)
    }

    /// Returns a VM of the given configuration, with the interrupts of [`Machine::new`] set up.
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        Self::on_host(config, Quiet::default())
    }

    /// Returns a VM with a GICv2 and `vcpus` vCPUs, all powered on. Both groups are enabled, and
    /// nothing is masked on vCPU 0. The SGIs are in Group 0.
    #[must_use]
    pub fn with_gicv2(vcpus: u8) -> Self {
        let mut config = Config::new(affinities(vcpus)).with_gicv2();
        config.spis = 32;
        if let Some(gicv2) = &mut config.gicv2 {
            gicv2.v2m.clear();
        }

        let domain = Domain::new();
        let machine = Self {
            vm: Vgic::new(&domain, config, Quiet::default()).unwrap(),
            domain,
            placed: [const { AtomicUsize::new(0) }; 2],
        };
        machine.on(99, |pin| machine.gicd(pin, 0x000, 3)); // CTLR
        for vcpu in (0..usize::from(vcpus)).filter_map(VcpuId::new) {
            machine.vm.power_on(vcpu);
        }
        machine
    }

    /// Returns a VM of the given configuration on a host, with the interrupts of [`Machine::new`]
    /// set up.
    fn on_host(mut config: Config, host: Quiet) -> Self {
        // The smallest number of SPIs, for speed.
        config.spis = 32;

        let vcpus = config.vcpus.len();
        let domain = Domain::new();
        let machine = Self {
            vm: Vgic::new(&domain, config, host).unwrap(),
            domain,
            placed: [const { AtomicUsize::new(0) }; 2],
        };

        machine.on(99, |pin| {
            let spi = 1 << (SPI - 32);
            machine.gicd(pin, 0x000, 0x12); // CTLR
            machine.gicd(pin, 0x084, spi); // IGROUPR1
            machine.gicd(pin, 0xc08, 2 << (2 * (SPI - 32))); // ICFGR2
            machine.gicd(pin, 0x104, spi); // ISENABLER1
            let private = 1 << PPI | 1 << LEVEL | 1 << SGI;
            for vcpu in (0..vcpus).filter_map(VcpuId::new) {
                machine.gicr(pin, vcpu, 0x14, 0); // WAKER
                machine.gicr(pin, vcpu, 0x1_0080, private); // IGROUPR0
                machine.gicr(pin, vcpu, 0x1_0c04, 2 << (2 * (PPI - 16))); // ICFGR1
                machine.gicr(pin, vcpu, 0x1_0100, private); // ISENABLER0
                machine.vm.power_on(vcpu);
            }
        });
        machine
    }

    /// Returns a VM with `vcpus` vCPUs, LPIs enabled, and `itses` ITSes. Collection n of each ITS
    /// targets vCPU n. Device 0 has two events. Event 0 is LPI 8192 in collection 0.
    #[must_use]
    pub fn with_lpi(vcpus: u8, itses: usize) -> Self {
        Self::with_lpi_on_host(vcpus, itses, Quiet::default())
    }

    /// Returns a VM as [`Machine::with_lpi`] does, with one vCPU and one ITS, on a machine with a
    /// GICv4.
    #[must_use]
    pub fn with_gicv4() -> Self {
        let host = Quiet {
            gicv4: Some(Hardware::default()),
            ..Quiet::default()
        };
        Self::with_lpi_on_host(1, 1, host)
    }

    /// Returns a VM as [`Machine::direct`] does, on a machine with a GICv4.1. The guest has asked
    /// for SGIs without an active state.
    #[must_use]
    pub fn direct_on_v4_1() -> Self {
        let host = Quiet {
            gicv4: Some(Hardware::v4_1()),
            ..Quiet::default()
        };
        let machine = Self::with_lpi_on_host(1, 1, host);
        machine.on(97, |pin| {
            machine.gicd(pin, 0x000, 0x10);
            machine.gicd(pin, 0x000, 0x112); // CTLR.nASSGIreq
            machine.set_direct(pin, true);
        });
        machine
    }

    /// Returns a VM as [`Machine::with_gicv4`] does, with vCPU 0 direct.
    #[must_use]
    pub fn direct() -> Self {
        let machine = Self::with_gicv4();
        machine.on(97, |pin| machine.set_direct(pin, true));
        machine
    }

    fn with_lpi_on_host(vcpus: u8, itses: usize, host: Quiet) -> Self {
        let mut config = Config::new(affinities(vcpus));

        config.lpis = 32;
        config.nassgi_cap = true;
        for its in 0..itses {
            let mut its = ItsConfig::at(GITS + its as u64 * GITS_STRIDE);
            its.device_bits = 1;
            its.collections = u32::from(vcpus);
            config.its.push(its);
        }

        let machine = Self::on_host(config, host);
        // Each configuration byte gives "enabled, priority 0xa0". Each table entry is valid.
        let mut ram = vec![0xa1; QUEUE + itses * QUEUE_STRIDE];
        // The pending table of all vCPUs, and the one that no vCPU has, have nothing pending.
        ram[8192 / 8..8192 / 8 + 32 / 8].fill(0);
        ram.resize(ram.len() + QUEUE_STRIDE, 0);
        *machine.vm.host().ram.lock().unwrap() = ram;

        machine.on(98, |pin| {
            for vcpu in (0..usize::from(vcpus)).filter_map(VcpuId::new) {
                if vcpu == V0 {
                    machine.gicr_double(pin, vcpu, 0x70, PROPERTIES | 13); // PROPBASER
                }
                machine.gicr_double(pin, vcpu, 0x78, 1 << 62); // PENDBASER with PTZ: all zero
                machine.gicr(pin, vcpu, 0, 1); // CTLR.EnableLPIs
            }

            for its in 0..itses {
                machine.gits(pin, its, 0x100, Width::Double, 1 << 63 | 0x1000);
                machine.gits(pin, its, 0x108, Width::Double, 1 << 63 | 0x2000);
                let queue = (QUEUE + its * QUEUE_STRIDE) as u64;
                machine.gits(pin, its, 0x80, Width::Double, 1 << 63 | queue);
                machine.gits(pin, its, 0, Width::Word, 1);
                machine.command(pin, its, mapd(true));
                for vcpu in 0..u64::from(vcpus) {
                    machine.command(pin, its, [0x09, 0, 1 << 63 | vcpu << 16 | vcpu, 0]); // MAPC
                }
                machine.command(pin, its, mapti(0));
            }
        });
        machine
    }

    /// Runs `work` pinned on a CPU registered for the call.
    pub fn on<R>(&self, cpu: u16, work: impl FnOnce(&CpuPin<'_>) -> R) -> R {
        let local = self.domain.register(CpuId(cpu)).unwrap();
        let pin = local.pin();
        work(&pin)
    }

    /// Returns CPU `n` with a software CPU interface.
    #[must_use]
    pub fn cpu(&self, n: u16) -> Cpu<SoftwareInterface> {
        self.cpu_with(n, SoftwareInterface::default())
    }

    /// Returns CPU `n` with a software CPU interface of a single list register.
    #[must_use]
    pub fn small_cpu(&self, n: u16) -> Cpu<SoftwareInterface> {
        let mut vtr = NEOVERSE;
        vtr.list_registers = 1;
        self.cpu_with(n, SoftwareInterface::new(vtr))
    }

    fn cpu_with(&self, n: u16, interface: SoftwareInterface) -> Cpu<SoftwareInterface> {
        Cpu::new(self.domain.register(CpuId(n)).unwrap(), interface)
    }

    // --- register writes of a guest --------------------------------------------------------------

    /// Writes a word of the distributor's frame.
    pub fn gicd(&self, pin: &CpuPin<'_>, offset: u64, value: u64) {
        let gpa = self.vm.config().distributor + offset;
        let _ = self.vm.mmio_write(pin, gpa, Width::Word, value);
    }

    fn redistributor(&self, vcpu: VcpuId, offset: u64) -> u64 {
        let base = self.vm.config().redistributor_base(vcpu);
        base.expect("the vCPU has a redistributor") + offset
    }

    /// Writes a word of a vCPU's redistributor frames.
    pub fn gicr(&self, pin: &CpuPin<'_>, vcpu: VcpuId, offset: u64, value: u64) {
        let gpa = self.redistributor(vcpu, offset);
        let _ = self.vm.mmio_write(pin, gpa, Width::Word, value);
    }

    /// Writes a double word of a vCPU's redistributor frames.
    pub fn gicr_double(&self, pin: &CpuPin<'_>, vcpu: VcpuId, offset: u64, value: u64) {
        let gpa = self.redistributor(vcpu, offset);
        let _ = self.vm.mmio_write(pin, gpa, Width::Double, value);
    }

    /// Reads a word of the distributor's frame, as `vcpu`, on `cpu`.
    pub fn read_gicd(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, offset: u64) -> u64 {
        self.read(cpu, vcpu, self.vm.config().distributor + offset)
    }

    /// Reads a word of the frame of ITS 0, on `cpu`.
    pub fn read_gits(&self, cpu: &Cpu<SoftwareInterface>, offset: u64) -> u64 {
        self.read(cpu, V0, GITS + offset)
    }

    /// Reads a word of a vCPU's redistributor frames on `cpu`.
    pub fn read_gicr(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, offset: u64) -> u64 {
        self.read(cpu, vcpu, self.redistributor(vcpu, offset))
    }

    /// Reads a word of vCPU 0's redistributor frames, as `vcpu`, on `cpu`. Returns `None` for a
    /// read that has to be tried again.
    pub fn try_read_gicr(
        &self,
        cpu: &Cpu<SoftwareInterface>,
        vcpu: VcpuId,
        offset: u64,
    ) -> Option<u64> {
        self.try_read(cpu, vcpu, self.redistributor(V0, offset))
    }

    fn read(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, gpa: u64) -> u64 {
        let value = self.try_read(cpu, vcpu, gpa);
        value.expect("the read has to be tried again")
    }

    fn try_read(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, gpa: u64) -> Option<u64> {
        match self.vm.mmio_read(&cpu.pin(), vcpu, gpa, Width::Word) {
            Ok(MmioOutcome::Done(value)) => Some(value),
            Ok(MmioOutcome::Retry) => None,
            other => panic!("{gpa:#x} reads as {other:?}"),
        }
    }

    /// Writes `GICD_IROUTER` of the SPI.
    pub fn route(&self, pin: &CpuPin<'_>, vcpu: VcpuId) {
        let router = self.vm.config().distributor + 0x6000 + 8 * u64::from(SPI);
        let affinity = vcpu.index() as u64;
        let _ = self.vm.mmio_write(pin, router, Width::Double, affinity);
    }

    /// Writes `ICC_SGI1R_EL1` by `vcpu` on `cpu`: the SGI for all other vCPUs.
    pub fn broadcast(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) {
        let value = 1 << 40 | u64::from(SGI) << 24;
        self.vm
            .sysreg_write(&cpu.pin(), vcpu, SysReg::Sgi1r, value)
            .unwrap();
    }

    /// Writes a word of the distributor's frame of a GICv2 as `vcpu`, on `cpu`.
    pub fn gicd_of(
        &self,
        cpu: &Cpu<SoftwareInterface>,
        vcpu: VcpuId,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        let gpa = self.vm.config().distributor + offset;
        let _ = (self.vm).mmio_write_of(&cpu.pin(), vcpu, gpa, width, value);
    }

    /// Writes a word of the CPU interface of a GICv2 as `vcpu`, which `cpu` has.
    pub fn gicc(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, offset: u64, value: u64) {
        let gpa = self.gicc_address(offset);
        let _ = (self.vm).mmio_write_of(&cpu.pin(), vcpu, gpa, Width::Word, value);
    }

    /// Reads a word of the CPU interface of a GICv2 as `vcpu`, which `cpu` has.
    pub fn read_gicc(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, offset: u64) -> u64 {
        self.read(cpu, vcpu, self.gicc_address(offset))
    }

    fn gicc_address(&self, offset: u64) -> u64 {
        let gicv2 = self.vm.config().gicv2.as_ref();
        gicv2.expect("the VM has a GICv2").cpu_interface + offset
    }

    /// Writes `GITS_CTLR.Enabled` of ITS 0.
    pub fn enable_its(&self, pin: &CpuPin<'_>, on: bool) {
        self.gits(pin, 0, 0, Width::Word, on.into());
    }

    /// Writes `GITS_CBASER` of ITS 0: a new queue, at the place of the old one.
    pub fn renew_queue(&self, pin: &CpuPin<'_>) {
        self.gits_double(pin, 0x80, 1 << 63 | QUEUE as u64);
        self.placed[0].store(0, Relaxed);
    }

    /// Writes a double word of the frame of ITS 0.
    pub fn gits_double(&self, pin: &CpuPin<'_>, offset: u64, value: u64) {
        self.gits(pin, 0, offset, Width::Double, value);
    }

    fn gits(&self, pin: &CpuPin<'_>, its: usize, offset: u64, width: Width, value: u64) {
        let gpa = GITS + its as u64 * GITS_STRIDE + offset;
        let _ = self.vm.mmio_write(pin, gpa, width, value);
    }

    /// Places a command in an ITS's queue, and executes it unless another CPU is executing the
    /// queue.
    pub fn command(&self, pin: &CpuPin<'_>, its: usize, command: [u64; 4]) {
        self.place(its, command);
        self.execute(pin, its);
    }

    /// Places a command in an ITS's queue.
    pub fn place(&self, its: usize, command: [u64; 4]) {
        let place = self.placed[its].fetch_add(1, Relaxed);
        let bytes: Vec<u8> = command.into_iter().flat_map(u64::to_le_bytes).collect();
        let first = command_address(its, place);
        self.vm.host().write_memory(first, &bytes).unwrap();
    }

    /// Returns the address of the first byte, the number, of the command that is placed next in an
    /// ITS's queue.
    #[must_use]
    pub fn next_command(&self, its: usize) -> u64 {
        command_address(its, self.placed[its].load(Relaxed))
    }

    /// Returns the offset of `GITS_CREADR` once an ITS has executed the placed commands but the
    /// last `left`.
    #[must_use]
    pub fn creadr_before(&self, its: usize, left: usize) -> u64 {
        (self.placed[its].load(Relaxed) - left) as u64 * 32
    }

    // --- guest memory ----------------------------------------------------------------------------

    /// Lets CPUs race for bytes of guest memory: a CPU may read an old value, unless something
    /// orders the read after the write. Called once.
    pub fn race_for(&self, gpas: &[u64]) {
        let host = self.vm.host();
        let bytes = gpas.iter().map(|gpa| (*gpa, self.read_byte(*gpa).into()));
        assert!(host.racing.set(bytes.collect()).is_ok(), "called twice");
    }

    /// Reads a byte of guest memory.
    #[must_use]
    pub fn read_byte(&self, gpa: u64) -> u8 {
        let mut byte = [0];
        self.vm.host().read_memory(gpa, &mut byte).unwrap();
        byte[0]
    }

    /// Writes a byte of guest memory.
    pub fn write_byte(&self, gpa: u64, byte: u8) {
        self.vm.host().write_memory(gpa, &[byte]).unwrap();
    }

    /// Returns true if the LPI's bit is set in the pending table of all vCPUs.
    #[must_use]
    pub fn is_in_table(&self) -> bool {
        self.read_byte(pending_byte(0, 8192)) & 1 != 0
    }

    /// Changes the LPI's byte in the configuration table.
    pub fn configure_lpi(&self, byte: u8) {
        self.write_byte(config_byte(8192), byte);
    }

    /// Writes `GITS_CWRITER`: executes the placed commands, unless another CPU is executing the
    /// queue.
    pub fn execute(&self, pin: &CpuPin<'_>, its: usize) {
        let end = self.placed[its].load(Relaxed) as u64 * 32;
        self.gits(pin, its, 0x88, Width::Double, end);
    }

    // --- devices ---------------------------------------------------------------------------------

    /// Injects an edge on the PPI of vCPU 0.
    pub fn inject(&self, pin: &CpuPin<'_>) -> Injected {
        let ppi = IntId::ppi(PPI).unwrap();
        self.vm.inject_ppi(pin, V0, ppi).unwrap()
    }

    /// Injects an edge on the SPI.
    pub fn inject_spi(&self, pin: &CpuPin<'_>) -> Injected {
        self.vm.inject_spi(pin, IntId::spi(SPI).unwrap()).unwrap()
    }

    /// Connects the SPI to the physical SPI of the same number.
    pub fn connect_spi(&self, pin: &CpuPin<'_>) {
        let spi = IntId::spi(SPI).unwrap();
        self.vm.connect_spi(pin, spi, spi).unwrap();
    }

    /// Forwards the physical SPI. Returns false if the SPI is not connected.
    pub fn forward_spi(&self, pin: &CpuPin<'_>) -> bool {
        match self.vm.forward_spi(pin, IntId::spi(SPI).unwrap()) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, InjectError::NotConnected);
                false
            }
        }
    }

    /// Connects the level-sensitive PPI of vCPU 0 to the physical PPI of the same number.
    pub fn connect_ppi(&self, pin: &CpuPin<'_>) {
        let ppi = IntId::ppi(LEVEL).unwrap();
        self.vm.connect_ppi(pin, V0, ppi, ppi).unwrap();
    }

    /// Forwards the physical PPI of the calling CPU, which has vCPU 0.
    pub fn forward_ppi(&self, pin: &CpuPin<'_>) {
        let ppi = IntId::ppi(LEVEL).unwrap();
        let _ = self.vm.forward_ppi(pin, V0, ppi).unwrap();
    }

    /// Returns the physical interrupts deactivated by the library so far.
    #[must_use]
    pub fn deactivated(&self) -> Vec<PhysicalInterrupt> {
        self.vm.host().deactivated.lock().unwrap().clone()
    }

    /// Sets the line of vCPU 0's level-sensitive PPI.
    pub fn set_line(&self, pin: &CpuPin<'_>, high: bool) {
        let ppi = IntId::ppi(LEVEL).unwrap();
        self.vm.set_ppi_line(pin, V0, ppi, high).unwrap();
    }

    /// Injects an MSI of device 0. Returns `None` for an unmapped event.
    pub fn msi(&self, pin: &CpuPin<'_>, its: u8, event: u32) -> Option<Injected> {
        let (its, event) = (ItsId(its), EventId(event));
        self.vm.inject_msi(pin, its, DeviceId(0), event).ok()
    }

    // --- direct injection ------------------------------------------------------------------------

    fn hardware(&self) -> &Hardware {
        let hardware = self.vm.host().gicv4.as_ref();
        hardware.expect("the machine has a GICv4")
    }

    /// Makes the events of vCPU 0 direct, or ends that.
    pub fn set_direct(&self, pin: &CpuPin<'_>, on: bool) {
        self.vm.set_direct_vcpu(pin, V0, on).unwrap();
        self.advance(pin);
    }

    /// Sends an MSI of device 0, by the way that the hardware knows.
    pub fn send(&self, event: usize) {
        self.hardware().send(event);
    }

    /// Sends an SGI to vCPU 0.
    pub fn send_sgi(&self, pin: &CpuPin<'_>) {
        self.gicr(pin, V0, 0x1_0200, 1 << SGI); // ISPENDR0
    }

    /// Enables the SGI of vCPU 0, or disables it.
    pub fn enable_sgi(&self, pin: &CpuPin<'_>, on: bool) {
        let register = if on { 0x1_0100 } else { 0x1_0180 };
        self.gicr(pin, V0, register, 1 << SGI);
    }

    /// Takes, as the hypervisor, the doorbells and physical LPIs that are pending, and handles them
    /// on the calling CPU.
    pub fn handle(&self, pin: &CpuPin<'_>) {
        let taken = self.hardware().take_physical();
        for vcpu in taken.doorbells {
            self.vm.doorbell(pin, vcpu).unwrap();
        }
        for event in taken.events {
            let injected = self.msi(pin, 0, event);
            assert!(injected.is_some(), "the event is mapped");
        }
    }

    /// Takes every signalled interrupt, as the guest. Returns the number taken.
    pub fn take(&self, cpu: &Cpu<SoftwareInterface>) -> usize {
        let hardware = self.vm.host().gicv4.as_ref();
        let direct = hardware.map_or(0, |hardware| hardware.take_virtual(cpu.local().id()));
        take(cpu) + direct
    }

    // --- a CPU and its vCPU ----------------------------------------------------------------------

    /// Enters the guest.
    pub fn enter(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) {
        self.vm.enter(&cpu.pin(), vcpu).unwrap();
    }

    /// Exits the guest.
    pub fn exit(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) {
        self.vm.exit(&cpu.pin(), vcpu).unwrap();
    }

    /// Puts the vCPU off the CPU.
    pub fn put(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) {
        self.vm.vcpu_put(&cpu.pin(), vcpu).unwrap();
    }

    /// Exits the guest if the vCPU is in the guest. Powers the vCPU on otherwise.
    pub fn exit_or_power_on(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) {
        if self.vm.exit(&cpu.pin(), vcpu).is_err() {
            self.vm.power_on(vcpu);
        }
    }

    /// Blocks the vCPU, as on WFI.
    pub fn block(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) -> Blocked {
        self.vm.block(&cpu.pin(), vcpu).unwrap()
    }

    /// Enters, lets the guest set up its interface and take every interrupt, exits and puts.
    /// Returns the number of interrupts taken.
    pub fn serve(&self, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) -> usize {
        let mut taken = 0;
        loop {
            self.enter(cpu, vcpu);
            let before = taken;
            taken += self.take(cpu);
            self.exit(cpu, vcpu);
            if taken == before {
                break;
            }
        }
        self.put(cpu, vcpu);
        taken
    }

    /// Does all deferred work.
    pub fn advance(&self, pin: &CpuPin<'_>) {
        while self.vm.has_deferred() {
            self.vm.advance(pin).unwrap();
        }
    }

    // --- counters --------------------------------------------------------------------------------

    /// Returns the number of references held by the lists.
    #[must_use]
    pub fn listed(&self) -> u64 {
        let totals = self.domain.totals();
        totals.list_gets - totals.list_puts
    }

    /// Returns the number of kicks so far.
    #[must_use]
    pub fn kicks(&self) -> usize {
        self.vm.host().kicks.load(Relaxed)
    }

    /// Returns the number of wakes so far.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.vm.host().wakes.load(Relaxed)
    }

    /// Returns the number of resamples so far.
    #[must_use]
    pub fn resamples(&self) -> usize {
        self.vm.host().resamples.load(Relaxed)
    }

    /// Does the deferred work, tears the VM down and checks what is left: no LPI on the free list,
    /// no reference, and every injection was delivered, coalesced, withdrawn or is still pending.
    pub fn finish(self, cpu: &Cpu<SoftwareInterface>) {
        self.advance(&cpu.pin());
        let left = vgic::internals::waiting_frees(&self.vm);
        assert_eq!(left, 0, "LPIs wait to be freed, and nobody knows");

        // Teardown withdraws pending interrupts: read the totals before.
        let totals = self.domain.totals();
        let report = self.vm.teardown(&cpu.pin()).unwrap();
        assert_eq!(report.references, 0, "references are left");

        let end = self.domain.totals();
        assert_eq!(end.list_gets, end.list_puts, "references of lists");
        assert_eq!(end.mapping_gets, end.mapping_puts, "mappings");
        assert_eq!(end.migration_gets, end.migration_puts, "migrations");

        for kind in Kind::ALL.map(|kind| kind as usize) {
            assert_eq!(
                totals.injections[kind],
                totals.coalesced[kind]
                    + totals.deliveries[kind]
                    + totals.withdrawn[kind]
                    + report.pending[kind],
                "the counters of injections"
            );
        }
    }
}

/// Returns the address of an LPI's byte in the configuration table.
#[must_use]
pub const fn config_byte(lpi: u64) -> u64 {
    PROPERTIES + lpi - 8192
}

/// Returns the address of the byte with an LPI's bit in the pending table at `table`.
#[must_use]
pub const fn pending_byte(table: u64, lpi: u64) -> u64 {
    table + lpi / 8
}

/// Returns the address of the command at `place` in an ITS's queue.
const fn command_address(its: usize, place: usize) -> u64 {
    (QUEUE + its * QUEUE_STRIDE + place * 32) as u64
}

fn affinities(vcpus: u8) -> Vec<Affinity> {
    (0..vcpus).map(|n| Affinity::new(0, 0, 0, n)).collect()
}

/// Returns `MAPD` of device 0 with one bit of EventID, or the unmapping of device 0.
#[must_use]
pub fn mapd(valid: bool) -> [u64; 4] {
    [0x08, 0, u64::from(valid) << 63, 0]
}

/// Returns `MAPTI` of an event of device 0 as LPI 8192 in collection 0.
#[must_use]
pub fn mapti(event: u64) -> [u64; 4] {
    mapti_as(event, 8192)
}

/// Returns `MAPTI` of an event of device 0 as an LPI in collection 0.
#[must_use]
pub fn mapti_as(event: u64, lpi: u64) -> [u64; 4] {
    [0x0a, event | lpi << 32, 0, 0]
}

/// Returns `MAPTI` of event 1 of device 0 as LPI 8208 in a collection. The LPI's pending state is
/// in the second slice of a pending table.
#[must_use]
pub fn mapti_second(collection: u64) -> [u64; 4] {
    [0x0a, 1 | 8208 << 32, collection, 0]
}

/// Returns `INT` of an event of device 0.
#[must_use]
pub fn int(event: u64) -> [u64; 4] {
    [0x03, event, 0, 0]
}

/// Returns `DISCARD` of an event of device 0.
#[must_use]
pub fn discard(event: u64) -> [u64; 4] {
    [0x0f, event, 0, 0]
}

/// Returns `INV` of an event of device 0.
#[must_use]
pub fn inv(event: u64) -> [u64; 4] {
    [0x0c, event, 0, 0]
}

/// Returns `CLEAR` of an event of device 0.
#[must_use]
pub fn clear(event: u64) -> [u64; 4] {
    [0x04, event, 0, 0]
}

/// Returns `MOVI` of event 0 of device 0 to a collection.
#[must_use]
pub fn movi(collection: u64) -> [u64; 4] {
    [0x01, 0, collection, 0]
}

/// Returns `MOVALL` from vCPU 0 to vCPU 1.
#[must_use]
pub fn movall() -> [u64; 4] {
    [0x0e, 0, 0, 1 << 16]
}

/// Frees what the CPU has left to the epoch, unless another CPU is in the epoch.
pub fn reclaim(cpu: &Cpu<SoftwareInterface>) {
    // Each pin lets the epoch advance once, and memory is freed when it is two epochs old.
    for _ in 0..2 {
        cpu.pin().collect_garbage();
    }
}

/// Sets up the guest's interface and acknowledges an interrupt. Returns the INTID, 1023 for none.
pub fn acknowledge(cpu: &Cpu<SoftwareInterface>) -> u32 {
    let guest = cpu.interface();
    guest.write_igrpen1(true);
    guest.write_pmr(0xf8).unwrap();
    guest.read_iar1()
}

/// Sets up the guest's interface and takes every signalled interrupt. Returns the number taken.
pub fn take(cpu: &Cpu<SoftwareInterface>) -> usize {
    let mut taken = 0;
    loop {
        let intid = acknowledge(cpu);
        if intid == 1023 {
            return taken;
        }
        taken += 1;
        cpu.interface().write_eoir1(intid);
    }
}

//! A VM on the software CPU interface. vCPU n runs on CPU n, and the test acts as the guest.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module shared by several test programs, each using a part"
)]

pub mod attributes;
pub mod gicv4;
pub mod its;
pub mod kvm;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::{CpuPin, Domain};
use vgic::gicv4::Gicv4;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::state::VmState;
use vgic::sysreg::SysReg;
use vgic::{
    BadAddress, Blocked, Config, Cpu, Host, PhysicalInterrupt, PinnedCpu, RestoreError, Vgic,
};

pub const GICD: u64 = 0x0800_0000;
pub const GICR: u64 = 0x080a_0000;
pub const GITS: u64 = 0x0808_0000;
/// Guest RAM of the test host: 16 MiB.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_SIZE: u64 = 0x0100_0000;

/// A callback of the vGIC to its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Kick(u16, usize),
    Wake(usize),
    Deactivate(PhysicalInterrupt),
    Resample(usize, u32),
    Enabled(Option<usize>, u32, bool),
    Configured(Option<usize>, u32, bool),
    Routed(u32, Option<usize>),
    /// A device, an event, an LPI and its target.
    Mapped(u32, u32, u32, Option<usize>),
}

type Interruption = Box<dyn FnOnce() + Send>;

/// A host with sparse RAM, recording the calls.
#[derive(Default)]
pub struct TestHost {
    pub calls: Mutex<Vec<Call>>,
    /// Connected physical interrupts with high lines.
    pub high: Mutex<Vec<PhysicalInterrupt>>,
    pages: Mutex<BTreeMap<u64, Box<[u8; 4096]>>>,
    /// Accesses of RAM by the library so far.
    pub reads: AtomicU64,
    /// The machine's GICv4, if it has one.
    gicv4: Option<Arc<dyn Gicv4>>,
    /// Runs once, in the middle of a callback of this name.
    meanwhile: Mutex<Option<(&'static str, Interruption)>>,
}

/// Cuts `length` bytes from `gpa` on by pages: the page's number, the offset there, and the part of
/// the bytes.
fn by_page(gpa: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = gpa + done as u64;
        let offset = at as usize & 0xfff;
        let part = done..length.min(done + 4096 - offset);
        done = part.end;
        (!part.is_empty()).then_some((at >> 12, offset, part))
    })
}

impl TestHost {
    /// Returns the host of a machine with a GICv4.
    pub fn with_gicv4(gicv4: Arc<dyn Gicv4>) -> Self {
        Self {
            gicv4: Some(gicv4),
            ..Self::default()
        }
    }

    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    pub fn write_ram(&self, gpa: u64, bytes: &[u8]) {
        assert!(gpa >= RAM && gpa + bytes.len() as u64 <= RAM + RAM_SIZE);
        let mut pages = self.pages.lock().unwrap();
        for (page, at, part) in by_page(gpa, bytes.len()) {
            let page = pages.entry(page).or_insert_with(|| Box::new([0; 4096]));
            page[at..][..part.len()].copy_from_slice(&bytes[part]);
        }
    }

    /// Gives the RAM the contents of another host's.
    pub fn copy_ram(&self, from: &Self) {
        let pages = from.pages.lock().unwrap().clone();
        *self.pages.lock().unwrap() = pages;
    }

    /// Runs what is to be run in the middle of `callback`.
    fn interrupt(&self, callback: &str) {
        let due = (self.meanwhile.lock().unwrap()).take_if(|(name, _)| *name == callback);
        if let Some((_, run)) = due {
            run();
        }
    }

    fn call(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Host for TestHost {
    fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
        self.call(Call::Kick(cpu.0, vcpu.index()));
    }
    fn wake(&self, vcpu: VcpuId) {
        self.call(Call::Wake(vcpu.index()));
    }
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let end = gpa.checked_add(buffer.len() as u64).ok_or(BadAddress)?;
        if gpa < RAM || end > RAM + RAM_SIZE {
            return Err(BadAddress);
        }
        let pages = self.pages.lock().unwrap();
        for (page, at, part) in by_page(gpa, buffer.len()) {
            match pages.get(&page) {
                Some(page) => buffer[part.clone()].copy_from_slice(&page[at..][..part.len()]),
                None => buffer[part].fill(0),
            }
        }
        Ok(())
    }
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let end = gpa.checked_add(bytes.len() as u64).ok_or(BadAddress)?;
        if gpa < RAM || end > RAM + RAM_SIZE {
            return Err(BadAddress);
        }
        self.write_ram(gpa, bytes);
        self.interrupt("write_memory");
        Ok(())
    }
    fn deactivate(&self, physical: PhysicalInterrupt) {
        self.call(Call::Deactivate(physical));
    }
    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        let high = self.high.lock().unwrap().contains(&physical);
        self.interrupt("is_pending");
        high
    }
    fn resample(&self, vcpu: VcpuId, intid: IntId) {
        self.call(Call::Resample(vcpu.index(), intid.raw()));
    }
    fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
        self.call(Call::Enabled(vcpu.map(VcpuId::index), intid.raw(), on));
        self.interrupt("enabled");
    }
    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        self.call(Call::Configured(vcpu.map(VcpuId::index), intid.raw(), edge));
    }
    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        self.call(Call::Routed(intid.raw(), target.map(VcpuId::index)));
    }
    fn event_mapped(
        &self,
        _its: ItsId,
        device: DeviceId,
        event: EventId,
        lpi: IntId,
        target: Option<VcpuId>,
    ) {
        let target = target.map(VcpuId::index);
        self.call(Call::Mapped(device.0, event.0, lpi.raw(), target));
    }
    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.gicv4.as_deref()
    }
}

pub struct Machine {
    pub domain: Arc<Domain>,
    pub vm: Vgic<TestHost>,
    pub cpus: Vec<Cpu<SoftwareInterface>>,
}

pub fn vcpu(n: usize) -> VcpuId {
    VcpuId::new(n).unwrap()
}

/// Returns the default affinity of vCPU n: 16 vCPUs in a cluster, as on QEMU's `virt`.
pub fn affinity(n: usize) -> Affinity {
    Affinity::new(0, 0, (n / 16) as u8, (n % 16) as u8)
}

impl Machine {
    /// Returns a VM with `count` vCPUs and one ITS, without any guest set-up.
    pub fn bare(count: usize) -> Self {
        Self::from_config(Config::new((0..count).map(affinity).collect()).with_its(GITS))
    }

    pub fn from_config(config: Config) -> Self {
        Self::on(Arc::default(), 0, config)
    }

    /// Returns a VM of a domain that other VMs may be of, on CPUs from `first_cpu` on.
    pub fn on(domain: Arc<Domain>, first_cpu: u16, config: Config) -> Self {
        let vtr = Vtr {
            id_bits: if config.intid_bits() > 16 { 24 } else { 16 },
            extended_range: config.has_extended_range(),
            ..NEOVERSE
        };
        Self::with_vtr(domain, first_cpu, config, vtr)
    }

    /// Returns a VM of a domain, on CPUs from `first_cpu` on with the properties `vtr`.
    pub fn with_vtr(domain: Arc<Domain>, first_cpu: u16, config: Config, vtr: Vtr) -> Self {
        Self::with_host(domain, first_cpu, config, vtr, TestHost::default())
    }

    /// Returns a VM of a domain with this host.
    pub fn with_host(
        domain: Arc<Domain>,
        first_cpu: u16,
        config: Config,
        vtr: Vtr,
        host: TestHost,
    ) -> Self {
        let count = config.max_vcpus;
        let vm = Vgic::new(&domain, config, host).unwrap();
        let cpus = (0..count)
            .map(|n| {
                vm.power_on(vcpu(n));
                Cpu::new(
                    domain.register(CpuId(first_cpu + n as u16)).unwrap(),
                    SoftwareInterface::new(vtr),
                )
            })
            .collect();
        Self { domain, vm, cpus }
    }

    /// Returns a VM with `count` vCPUs after the guest's set-up: all groups enabled, all interrupts
    /// in Group 1, nothing masked.
    pub fn new(count: usize) -> Self {
        let machine = Self::bare(count);
        machine.set_up();
        machine
    }

    pub fn set_up(&self) {
        self.write(0, GICD, 0x13);
        for register in 1..32 {
            self.write(0, GICD + 0x80 + 4 * register, u32::MAX);
        }
        for n in 0..self.vm.vcpu_count() {
            self.write(n, self.gicr(n) + 0x14, 0);
            self.write(n, self.gicr(n) + 0x1_0080, u32::MAX);
            self.enter(n);
            self.guest(n).write_igrpen1(true);
            let masked = self.guest(n).write_pmr(0xf8);
            self.exit(n);
            if masked.is_err() {
                self.sysreg(n, SysReg::Pmr, 0xf8);
            }
        }
        self.advance();
        self.vm.host().take_calls();
    }

    /// Does all deferred work. Returns the number of slices.
    pub fn advance(&self) -> usize {
        let mut slices = 0;
        while self.vm.has_deferred() {
            self.vm.advance(&self.pin()).unwrap();
            slices += 1;
        }
        slices
    }

    /// Runs `run`. In the middle of the first `callback`, another CPU does `other`.
    pub fn meanwhile<R>(
        &self,
        callback: &'static str,
        other: impl FnOnce(&Vgic<TestHost>, &CpuPin<'_>) + Send,
        run: impl FnOnce() -> R,
    ) -> R {
        let (ask, asked) = channel();
        let (answer, answered) = channel::<()>();
        let (vm, domain) = (&self.vm, &self.domain);
        let hand_over = move || {
            ask.send(()).unwrap();
            answered.recv().unwrap();
        };
        *vm.host().meanwhile.lock().unwrap() = Some((callback, Box::new(hand_over)));

        std::thread::scope(|scope| {
            scope.spawn(move || {
                if asked.recv().is_ok() {
                    let local = domain.register(CpuId(77)).unwrap();
                    other(vm, &local.pin());
                    answer.send(()).unwrap();
                }
            });
            let result = run();
            let left = vm.host().meanwhile.lock().unwrap().take();
            assert!(left.is_none(), "no {callback}");
            result
        })
    }

    pub fn pin(&self) -> PinnedCpu<'_, SoftwareInterface> {
        self.cpus[0].pin()
    }

    /// Returns the base of a vCPU's redistributor.
    pub fn gicr(&self, n: usize) -> u64 {
        let base = self.vm.config().redistributor_base(vcpu(n));
        base.expect("the vCPU has a redistributor")
    }

    pub fn enter(&self, n: usize) {
        let cpu = &self.cpus[n];
        self.vm.enter(&cpu.pin(), vcpu(n)).unwrap();
    }

    pub fn exit(&self, n: usize) {
        let cpu = &self.cpus[n];
        self.vm.exit(&cpu.pin(), vcpu(n)).unwrap();
        assert!(!self.guest(n).maintenance(), "still asserted after an exit");
    }

    /// Exits and enters the guest, as any trap does.
    pub fn bounce(&self, n: usize) {
        self.exit(n);
        self.enter(n);
    }

    pub fn block(&self, n: usize) -> Blocked {
        let cpu = &self.cpus[n];
        let blocked = self.vm.block(&cpu.pin(), vcpu(n)).unwrap();
        assert!(!self.guest(n).maintenance(), "asserted outside the guest");
        blocked
    }

    pub fn guest(&self, n: usize) -> &SoftwareInterface {
        self.cpus[n].interface()
    }

    pub fn access(&self, n: usize, gpa: u64, width: Width, value: Option<u64>) -> MmioOutcome {
        let cpu = &self.cpus[n];
        match value {
            None => self.vm.mmio_read(&cpu.pin(), vcpu(n), gpa, width),
            Some(value) if self.vm.config().gicv2.is_some() => {
                (self.vm).mmio_write_of(&cpu.pin(), vcpu(n), gpa, width, value)
            }
            Some(value) => self.vm.mmio_write(&cpu.pin(), gpa, width, value),
        }
        .unwrap()
    }

    pub fn read_as(&self, n: usize, gpa: u64, width: Width) -> u64 {
        match self.access(n, gpa, width, None) {
            MmioOutcome::Done(value) => value,
            other => panic!("read of {gpa:#x}: {other:?}"),
        }
    }

    pub fn write_as(&self, n: usize, gpa: u64, width: Width, value: u64) {
        assert_eq!(
            self.access(n, gpa, width, Some(value)),
            MmioOutcome::Done(0),
            "write of {gpa:#x}"
        );
    }

    pub fn read(&self, n: usize, gpa: u64) -> u32 {
        self.read_as(n, gpa, Width::Word) as u32
    }

    pub fn write(&self, n: usize, gpa: u64, value: u32) {
        self.write_as(n, gpa, Width::Word, value.into());
    }

    pub fn read64(&self, n: usize, gpa: u64) -> u64 {
        self.read_as(n, gpa, Width::Double)
    }

    pub fn write64(&self, n: usize, gpa: u64, value: u64) {
        self.write_as(n, gpa, Width::Double, value);
    }

    pub fn sysreg(&self, n: usize, register: SysReg, value: u64) {
        let cpu = &self.cpus[n];
        self.vm
            .sysreg_write(&cpu.pin(), vcpu(n), register, value)
            .unwrap();
    }

    pub fn inject_spi(&self, intid: u32) {
        let _ = self
            .vm
            .inject_spi(&self.pin(), IntId::spi(intid).unwrap())
            .unwrap();
    }

    pub fn inject_msi(&self, device: u32, event: u32) -> Result<(), vgic::InjectError> {
        self.vm
            .inject_msi(&self.pin(), ItsId(0), DeviceId(device), EventId(event))
            .map(|_| ())
    }

    /// Sets an SPI's bit in a register block, for example `ISENABLER`.
    pub fn set_spi(&self, n: usize, block: u64, intid: u32) {
        self.write(
            n,
            GICD + block + u64::from(intid / 32) * 4,
            1 << (intid % 32),
        );
    }

    pub fn spi_bit(&self, n: usize, block: u64, intid: u32) -> bool {
        self.read(n, GICD + block + u64::from(intid / 32) * 4) >> (intid % 32) & 1 != 0
    }

    /// Configures an SPI as edge-triggered, routes it to vCPU `target`, and enables it.
    pub fn edge_spi(&self, intid: u32, target: usize) {
        let configuration = GICD + 0xc00 + u64::from(intid / 16) * 4;
        let old = self.read(0, configuration);
        self.write(0, configuration, old | 2 << (intid % 16 * 2));
        let affinity = self.vm.affinity(&self.pin(), vcpu(target)).unwrap();
        self.write64(0, GICD + 0x6000 + u64::from(intid) * 8, affinity.mpidr());
        self.set_spi(0, 0x100, intid);
    }

    /// Enters, lets the guest take and end every signalled interrupt, exits and blocks. Returns the
    /// INTIDs in order.
    pub fn serve(&self, n: usize) -> Vec<u32> {
        let mut seen = Vec::new();
        self.enter(n);
        loop {
            let intid = self.guest(n).read_iar1();
            if intid == 1023 {
                self.exit(n);
                if self.block(n) == Blocked::Yes {
                    return seen;
                }
                self.enter(n);
                continue;
            }
            seen.push(intid);
            self.guest(n).write_eoir1(intid);
        }
    }

    /// Saves the VM, once it is put on no CPU.
    pub fn save(&self) -> VmState {
        self.put_all();
        self.vm.save(&self.pin()).unwrap()
    }

    /// Restores the VM, once it is put on no CPU.
    pub fn restore(&self, state: &VmState) -> Result<(), RestoreError> {
        self.put_all();
        self.vm.restore(&self.pin(), state)
    }

    /// Powers a vCPU off on its CPU, after a visit to the guest.
    pub fn power_off(&self, n: usize) {
        self.enter(n);
        self.exit(n);
        self.vm.power_off(&self.cpus[n].pin(), vcpu(n)).unwrap();
    }

    /// Takes every vCPU off its CPU, out of the guest before if necessary.
    pub fn put_all(&self) {
        for (n, cpu) in self.cpus.iter().enumerate() {
            // A vCPU never entered has nothing to put.
            let _ = self.vm.exit(&cpu.pin(), vcpu(n));
            let _ = self.vm.vcpu_put(&cpu.pin(), vcpu(n));
        }
    }

    /// Tears the VM down and checks the counters.
    pub fn finish(self) {
        self.put_all();
        let Self { domain, vm, cpus } = self;
        let before = domain.totals();
        let pin = cpus[0].pin();
        let report = vm.teardown(&pin).unwrap();
        assert_eq!(report.references, 0);

        for kind in Kind::ALL {
            let index = kind as usize;
            assert_eq!(
                before.injections[index],
                before.coalesced[index]
                    + before.deliveries[index]
                    + before.withdrawn[index]
                    + report.pending[index],
                "{}: {before:?} {report:?}",
                kind.name()
            );
        }

        let after = domain.totals();
        assert_eq!(after.mapping_gets, after.mapping_puts);
        assert_eq!(after.migration_gets, after.migration_puts);
        assert_eq!(after.list_gets, after.list_puts);
        assert_eq!(after.lookup_locks_taken, 0);
    }
}

//! The VM under attack.

use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::state::VmState;
use vgic::sysreg::SysReg;
use vgic::{Blocked, Cpu, PinnedCpu, Vgic};

use crate::bounds::{self, Bound, within};
use crate::gicv4::Version;
use crate::guest::Guest;
use crate::heap;
use crate::host::HostileHost;
use crate::memory::BASE;
use crate::operation::{Command, Operation};
use crate::shape::{DEVICE_TABLE, INDIRECT, Shape, VALID, allowed};
use crate::{as_given, check_injections};

const CPUS: usize = 2;
/// The CPUs: the largest shape has LPIs of 17 bits, and extended interrupts.
const VTR: Vtr = Vtr {
    id_bits: 24,
    extended_range: true,
    ..NEOVERSE
};
const COLLECTION_TABLE: u64 = BASE + 0x9000;
/// The second-level page of an indirect device table.
const DEVICE_PAGE: u64 = BASE + 0xa000;
/// Queues, 64 KiB apart.
const QUEUES: u64 = BASE + 0x1_0000;
const PENDING_TABLES: u64 = BASE + 0x3_0000;
/// Registers of an ITS.
const GITS_CTLR: u64 = 0x0000;
const GITS_CBASER: u64 = 0x0080;
const GITS_CWRITER: u64 = 0x0088;
const GITS_CREADR: u64 = 0x0090;
const GITS_BASER: u64 = 0x0100;
const COMMAND: u64 = 32;
/// Slices after which deferred work must be done without a new request.
const SLICES: u64 = 200_000;

/// The VM, and the fuzzer's knowledge of the VM.
pub struct Machine {
    domain: Domain,
    vm: Vgic<HostileHost>,
    /// CPUs running vCPUs, and a last CPU for devices and traps.
    cpus: Vec<Cpu<SoftwareInterface>>,
    /// `GITS_BASER0` as written by the driver.
    device_table: u64,
    /// The CPU loaded with each vCPU's registers.
    places: Vec<Option<usize>>,
    on: Vec<bool>,
    acknowledged: Vec<u32>,
    /// Heap before the first operation, and the bound on its growth.
    heap: (isize, isize),
}

impl Machine {
    /// Returns a VM of the given shape with all its vCPUs on, on a machine with a GICv4 or without.
    #[must_use]
    pub fn new(Shape(config, device_table): Shape, gicv4: Option<Version>) -> Self {
        let allowed = allowed(&config);
        let host = HostileHost::new(config.its.clone(), gicv4);
        let domain = Domain::new();
        let (present, most) = (config.vcpus.len(), config.max_vcpus);
        let vm = Vgic::new(&domain, config, host).unwrap();
        let cpus = (0..=CPUS).map(|n| {
            let local = domain.register(CpuId(n as u16)).unwrap();
            Cpu::new(local, SoftwareInterface::new(VTR))
        });

        let mut machine = Self {
            cpus: cpus.collect(),
            domain,
            vm,
            device_table,
            places: vec![None; most],
            on: (0..most).map(|n| n == 0).collect(),
            acknowledged: Vec::new(),
            heap: (0, allowed),
        };

        (1..present).for_each(|n| machine.power(n, true));
        machine.set_up_direct();
        machine.heap.0 = heap::live();
        machine
    }

    /// Makes every vCPU and the first two devices of each ITS direct.
    fn set_up_direct(&self) {
        if let Some(part) = &self.vm.host().gicv4 {
            for n in 0..self.vm.vcpu_count() {
                let set = self.vm.set_direct_vcpu(&self.pin(), id(n), true);
                assert_eq!(set, Ok(()));
            }
            for (its, device) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                part.set_device(ItsId(its), DeviceId(device), true);
            }
        }
    }

    /// Sets the VM up as a guest's driver does: every interrupt enabled and in Group 1, some SPIs
    /// edge-triggered, and LPIs with tables.
    pub fn set_up(&mut self) {
        let config = self.vm.config().clone();
        let gicd = config.distributor;
        self.write(gicd, 0x13);
        for register in 1..u64::from(config.spis / 32 + 1) {
            self.write(gicd + 0x80 + 4 * register, 0xffff_ffff);
            self.write(gicd + 0x100 + 4 * register, 0xffff_ffff);
        }
        self.write(gicd + 0xc08, 0xaaaa_aaaa);
        for register in 0..u64::from(config.extended_spis / 32) {
            self.write(gicd + 0x1000 + 4 * register, 0xffff_ffff);
            self.write(gicd + 0x1200 + 4 * register, 0xffff_ffff);
        }
        self.write(gicd + 0x3000, 0xaaaa_aaaa);

        let vcpus = self.vm.vcpu_count().min(3);
        for n in 0..vcpus {
            let gicr = self.gicr(n);
            self.write(gicr + 0x14, 0);
            self.write(gicr + 0x1_0080, 0xffff_ffff);
            self.write(gicr + 0x1_0100, 0xffff_ffff);
            // The extended PPIs, if there are any.
            self.write(gicr + 0x1_0084, 0xffff_ffff);
            self.write(gicr + 0x1_0104, 0xffff_ffff);
            self.write_double(gicr + 0x70, BASE | 15);
            self.write_double(gicr + 0x78, PENDING_TABLES);
            self.write(gicr, 1);
        }

        let memory = &self.vm.host().memory;
        memory.write(BASE, &[0xa1; 0x100]);
        // Half of the LPIs are pending from the start.
        memory.write(PENDING_TABLES + 8192 / 8, &[0x55; 0x20]);
        if self.device_table & INDIRECT != 0 {
            memory.write(DEVICE_TABLE, &(VALID | DEVICE_PAGE).to_le_bytes());
        }

        for (n, its) in (0..).zip(&config.its) {
            self.write_double(its.base + GITS_BASER, self.device_table);
            self.write_double(its.base + GITS_BASER + 8, VALID | COLLECTION_TABLE);
            self.write_double(its.base + GITS_CBASER, VALID | (QUEUES + n * 0x1_0000));
            self.write(its.base, 1);
            let collections = (0..3).map(|icid| [0x09, 0, VALID | icid << 16 | icid, 0]);
            self.commands(n as usize, &collections.collect::<Vec<_>>(), true);
            for device in 0..2 {
                let mut commands = vec![[0x08 | device << 32, 3, VALID | BASE, 0]];
                commands.extend((0..4).map(|event| {
                    let lpi = 8192 + device * 4 + event;
                    [0x0a | device << 32, event | lpi << 32, event % 3, 0]
                }));
                self.commands(n as usize, &commands, true);
            }
        }

        for n in 0..vcpus {
            let enable = [
                Guest::Mask(0xf8),
                Guest::Group(true, true),
                Guest::Group(false, true),
            ];
            self.run(0, n, &enable, false);
            self.put(n);
        }

        // The first two vCPUs stay in the guest, with interrupts pending.
        for n in 0..vcpus.min(2) {
            self.inject(&Operation::Spi(n as u16, false));
            self.inject(&Operation::SpiLine(16 + n as u16, true));
            self.inject(&Operation::PpiLine(n as u8, 11, true));
            self.inject(&Operation::Spi(2 + n as u16, true));
            self.inject(&Operation::Ppi(n as u8, 14, true));
            self.inject(&Operation::Msi(0, 0, n as u32));
            self.run(n, n, &[Guest::Acknowledge(true)], true);
        }
    }

    /// Applies one operation, and checks its bound and the heap.
    pub fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Access {
                vcpu,
                frame,
                offset,
                width,
                write,
            } => self.access(vcpu, frame, offset, width, write),
            Operation::SysReg(n, register, value) => self.sysreg(self.vcpu(n), register, value),
            Operation::Commands(its, ref commands, ring) => {
                self.commands(its.into(), commands, ring)
            }
            Operation::FillQueue(its, ref commands) => self.fill_queue(its.into(), commands),
            Operation::Table(its, which, value) => self.table(its.into(), which, value),
            Operation::ToggleLpis(n, tables) => self.toggle_lpis(self.vcpu(n), tables),
            Operation::Poke(at, value) => {
                let at = BASE + u64::from(at);
                self.vm.host().memory.write(at, &value.to_le_bytes());
            }
            Operation::Disturb(seed) => self.vm.host().memory.disturb(seed.into()),
            Operation::FlipPage(page) => self.vm.host().memory.flip_page(page),
            Operation::Advance => self.advance(),
            Operation::Run(cpu, n, ref guest, stay) => {
                self.run(cpu.into(), self.vcpu(n), guest, stay);
            }
            Operation::Put(n) => self.put(self.vcpu(n)),
            Operation::Power(n, on) => self.power(self.vcpu(n), on),
            Operation::AddVcpu(n) => self.add_vcpu(n),
            Operation::Msi(kind, device, number)
                if self.vm.host().gicv4.is_some() && kind >> 1 & 7 >= 5 =>
            {
                self.direct(kind, device, number);
            }
            _ => {
                within(bounds::CONNECTION, || self.connect(operation));
                within(bounds::INJECTION, || self.inject(operation));
            }
        }

        let grown = heap::live() - self.heap.0;
        assert!(
            grown <= self.heap.1,
            "{grown} bytes, at most {}",
            self.heap.1
        );
    }

    /// Puts every vCPU, and restores the VM from anybody's state: the VM is as before, or has the
    /// state.
    pub fn restore(&mut self, state: &VmState) {
        (0..self.places.len()).for_each(|n| self.put(n));
        let save = |vm: &Vgic<_>| vm.save(&self.pin()).expect("no vCPU is on a CPU");
        let before = save(&self.vm);
        let verdict = self.vm.restore(&self.pin(), state);
        let after = save(&self.vm);

        if verdict.is_err() {
            assert_eq!(after, before, "{verdict:?}");
            return;
        }
        assert_eq!(&as_given(after, state), state);
        for (on, vcpu) in self.on.iter_mut().zip(&state.vcpus) {
            *on = vcpu.is_on;
        }
    }

    /// Tears the VM down and checks the counters.
    pub fn finish(mut self) {
        (0..self.places.len()).for_each(|n| self.put(n));
        self.vm.host().memory.disturb(0);
        let mut slices = 0;
        while self.vm.has_deferred() {
            self.advance();
            slices += 1;
            assert!(slices < SLICES, "deferred work does not end");
        }

        self.check_queues();
        let Self {
            domain, vm, cpus, ..
        } = self;

        let before = domain.totals();
        let report = vm.teardown(&cpus[CPUS].pin()).expect("no vCPU is on a CPU");
        assert_eq!(report.references, 0);

        check_injections(&before, &report);

        let after = domain.totals();
        assert_eq!(after.mapping_gets, after.mapping_puts);
        assert_eq!(after.migration_gets, after.migration_puts);
        assert_eq!(after.list_gets, after.list_puts);
    }

    fn pin(&self) -> PinnedCpu<'_, SoftwareInterface> {
        self.cpus[CPUS].pin()
    }

    /// Returns the index of a present vCPU.
    fn vcpu(&self, n: u8) -> usize {
        usize::from(n) % self.vm.vcpu_count()
    }

    fn gicr(&self, n: usize) -> u64 {
        let base = self.vm.config().redistributor_base(id(n));
        base.expect("every vCPU has a frame")
    }

    // --- traps -----------------------------------------------------------------------------------

    fn write(&self, gpa: u64, value: u64) {
        let _ = self.trap(0, gpa, Width::Word, Some(value));
    }

    fn write_double(&self, gpa: u64, value: u64) {
        let _ = self.trap(0, gpa, Width::Double, Some(value));
    }

    fn read(&self, gpa: u64) -> u64 {
        match self.trap(0, gpa, Width::Double, None) {
            MmioOutcome::Done(value) => value,
            MmioOutcome::Retry | MmioOutcome::Unclaimed => 0,
        }
    }

    fn trap(&self, n: usize, gpa: u64, width: Width, write: Option<u64>) -> MmioOutcome {
        self.leave(n);
        within(self.bound(gpa), || match write {
            Some(value) => self.vm.mmio_write(&self.pin(), gpa, width, value),
            None => {
                let cpu = &self.cpus[self.places[n].unwrap_or(CPUS)];
                self.vm.mmio_read(&cpu.pin(), id(n), gpa, width)
            }
        })
        .expect("a vCPU and a CPU of the VM")
    }

    /// Returns the bound of an access at `gpa`.
    fn bound(&self, gpa: u64) -> Bound {
        let config = self.vm.config();
        let registers = |offset| match offset {
            0x080..0x400 | 0xc00..0xd00 | 0x1000..0x2000 | 0x3000..0x3100 => bounds::BITS,
            _ => bounds::REGISTER,
        };

        match gpa.wrapping_sub(config.distributor) {
            0..4 => return bounds::GROUPS,
            offset @ 4..0x1_0000 => return registers(offset),
            _ => {}
        }

        if config
            .its
            .iter()
            .any(|its| gpa.wrapping_sub(its.base) < 0x2_0000)
        {
            return bounds::ITS;
        }

        // Every region except the first is aligned as its frames are.
        let region = config
            .redistributors
            .iter()
            .rfind(|region| region.base <= gpa);
        match region.map_or(0, |region| (gpa - region.base) % 0x2_0000) {
            0..4 => bounds::PENDING_TABLE,
            0xb0..0xb8 | 0xc0..0xc4 => bounds::SWEEP,
            offset @ 0x1_0000.. => registers(offset - 0x1_0000),
            _ => bounds::REGISTER,
        }
    }

    fn access(&self, n: u8, frame: u8, offset: u64, width: Width, write: Option<u64>) {
        let config = self.vm.config();
        let (n, its) = (self.vcpu(n), config.its.len());
        let frame = usize::from(frame);
        let (base, size) = match frame.checked_sub(its) {
            None => (config.its[frame].base, 0x2_0000),
            Some(frame) if frame % 3 == 0 => (config.distributor, 0x1_0000),
            Some(frame) => (self.gicr(frame % config.max_vcpus), 0x2_0000),
        };
        let gpa = base + offset % size;
        assert!(self.vm.claims(gpa));
        let outcome = self.trap(n, gpa, width, write);
        if let MmioOutcome::Done(value) = outcome {
            let fits = width == Width::Double || value >> (8 * width.bytes()) == 0;
            assert!(fits, "{value:#x}");
        }
    }

    fn sysreg(&self, n: usize, register: SysReg, value: u64) {
        let cpu = &self.cpus[self.places[n].unwrap_or(CPUS)];
        self.leave(n);
        let _ = self.vm.sysreg_read(&cpu.pin(), id(n), register);
        within(bounds::SGI, || {
            (self.vm.sysreg_write(&cpu.pin(), id(n), register, value)).expect("a vCPU of the VM");
        });
    }

    fn advance(&self) {
        within(bounds::ADVANCE, || {
            (self.vm.advance(&self.pin())).expect("a CPU of the VM")
        });
    }

    // --- the ITS's driver ------------------------------------------------------------------------

    /// Returns the base of an ITS's frame, or `None` for a VM without an ITS.
    fn gits(&self, its: usize) -> Option<u64> {
        let all = &self.vm.config().its;
        Some(all.get(its % all.len().max(1))?.base)
    }

    /// Returns the address and size of an ITS's queue, as last set by the guest.
    fn queue(&self, gits: u64) -> (u64, u64) {
        let cbaser = self.read(gits + GITS_CBASER);
        (cbaser & 0x000f_ffff_ffff_0000, ((cbaser & 0xff) + 1) << 12)
    }

    /// Checks that every queue is empty: no command of a guest stops a queue.
    fn check_queues(&self) {
        for its in &self.vm.config().its {
            let enabled = self.trap(0, its.base, Width::Word, None);
            let valid = self.read(its.base + GITS_CBASER) & VALID != 0;
            let (_, bytes) = self.queue(its.base);
            let creadr = self.read(its.base + GITS_CREADR);
            let cwriter = self.read(its.base + GITS_CWRITER);
            if matches!(enabled, MmioOutcome::Done(ctlr) if ctlr & 1 != 0)
                && valid
                && cwriter < bytes
            {
                assert_eq!(creadr, cwriter, "a queue of {bytes} bytes is stuck");
            }
        }
    }

    fn put_command(&self, at: u64, command: &Command) {
        let bytes: Vec<u8> = command.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.vm.host().memory.write(at, &bytes);
    }

    fn commands(&self, its: usize, commands: &[Command], ring: bool) {
        let Some(gits) = self.gits(its) else {
            return;
        };
        let (queue, bytes) = self.queue(gits);
        let mut next = self.read(gits + GITS_CWRITER);

        for command in commands {
            self.put_command(queue + next, command);
            next = (next + COMMAND) % bytes;
        }

        if ring {
            self.write_double(gits + GITS_CWRITER, next);
            self.read(gits + GITS_CREADR);
        }
    }

    fn fill_queue(&self, its: usize, commands: &[Command; 2]) {
        let Some(gits) = self.gits(its) else {
            return;
        };
        let (queue, bytes) = self.queue(gits);
        for (at, command) in (0..bytes.min(0x4000))
            .step_by(32)
            .zip(commands.iter().cycle())
        {
            self.put_command(queue + at, command);
        }

        let end = (self.read(gits + GITS_CREADR) + bytes - COMMAND) % bytes;
        self.write_double(gits + GITS_CWRITER, end);
    }

    fn table(&self, its: usize, which: u8, value: u64) {
        let Some(gits) = self.gits(its) else {
            return;
        };
        self.write(gits + GITS_CTLR, 0);
        if which & 0x10 == 0 {
            for _ in 0..8 {
                self.advance();
            }
        }
        let register = [GITS_BASER, GITS_BASER + 8, GITS_CBASER][usize::from(which) % 3];
        self.write_double(gits + register, value);
        self.write(gits + GITS_CTLR, 1);
    }

    fn toggle_lpis(&self, n: usize, tables: Option<(u64, u64)>) {
        let gicr = self.gicr(n);
        self.write(gicr, 0);
        if let Some((configurations, pending)) = tables {
            self.write_double(gicr + 0x70, configurations);
            self.write_double(gicr + 0x78, pending);
        }
        self.write(gicr, 1);
    }

    // --- devices ---------------------------------------------------------------------------------

    /// Connects an interrupt that is to be forwarded.
    fn connect(&self, operation: &Operation) {
        let (vm, pin) = (&self.vm, &self.pin());
        match *operation {
            Operation::Spi(n, true) => {
                if let Some(intid) = spi(n) {
                    let _ = vm.connect_spi(pin, intid, intid);
                }
            }
            Operation::Ppi(n, which, true) => {
                if let Some(intid) = ppi(which) {
                    let _ = vm.connect_ppi(pin, id(self.vcpu(n)), intid, intid);
                }
            }
            _ => {}
        }
    }

    fn inject(&self, operation: &Operation) {
        let (vm, pin) = (&self.vm, &self.pin());
        let vcpu = |n| id(self.vcpu(n));
        match *operation {
            Operation::Msi(its, device, event) => {
                let (its, device) = (ItsId(its & 1), DeviceId(device));
                let event = EventId(event);
                let part = vm.host().gicv4.as_ref();
                if !part.is_some_and(|part| part.sends_directly(its, device, event)) {
                    let _ = vm.inject_msi(pin, its, device, event);
                }
            }
            Operation::Spi(n, forward) => {
                if let Some(intid) = spi(n) {
                    if forward {
                        let _ = vm.forward_spi(pin, intid);
                    } else {
                        let _ = vm.inject_spi(pin, intid);
                    }
                }
            }
            Operation::SpiLine(n, high) => {
                if let Some(intid) = spi(n) {
                    let _ = vm.set_spi_line(pin, intid, high);
                }
            }
            Operation::PpiLine(n, which, high) => {
                if let Some(intid) = ppi(which) {
                    let _ = vm.set_ppi_line(pin, vcpu(n), intid, high);
                }
            }
            Operation::Ppi(n, which, forward) => {
                if let Some(intid) = ppi(which) {
                    if forward {
                        // On the CPU that has the vCPU, if any.
                        let place = self.places[self.vcpu(n)];
                        let pinned = place.map(|cpu| self.cpus[cpu].pin());
                        let pin = pinned.as_deref().unwrap_or(pin);
                        let _ = vm.forward_ppi(pin, vcpu(n), intid);
                    } else {
                        let _ = vm.inject_ppi(pin, vcpu(n), intid);
                    }
                }
            }
            _ => {}
        }
    }

    /// Makes a vCPU or a device direct, or ends that, or handles doorbells, perhaps in vain.
    fn direct(&self, kind: u8, device: u32, number: u32) {
        let Some(part) = &self.vm.host().gicv4 else {
            return;
        };
        let (vm, pin) = (&self.vm, &self.pin());
        let (n, on) = (self.vcpu(device as u8), number & 3 != 0);
        match kind >> 1 & 7 {
            5 => {
                let set = vm.set_direct_vcpu(pin, id(n), on);
                assert_eq!(set, Ok(()));
            }
            6 => {
                let its = ItsId(kind & 1);
                part.set_device(its, DeviceId(device), on);
                let _ = vm.settle_direct(pin, its);
            }
            _ => {
                let rung = if on { part.model.ring_vcpus() } else { vec![n] };
                for n in rung {
                    within(bounds::INJECTION, || {
                        vm.doorbell(pin, id(n)).expect("a vCPU of the VM");
                    });
                }
            }
        }
    }

    // --- vCPUs -----------------------------------------------------------------------------------

    /// Exits the guest if the vCPU is in the guest.
    fn leave(&self, n: usize) {
        let Some(cpu) = self.places[n].filter(|cpu| self.vm.host().inside(*cpu) == Some(id(n)))
        else {
            return;
        };
        self.vm.host().set_inside(cpu, None);
        let cpu = &self.cpus[cpu];
        within(bounds::EXIT, || {
            self.vm.exit(&cpu.pin(), id(n)).unwrap();
        });
    }

    /// Enters the guest unless the vCPU is in the guest already. Returns false for a vCPU that is
    /// off.
    fn enter(&mut self, n: usize) -> bool {
        let cpu = self.places[n].unwrap_or(0);
        if self.vm.host().inside(cpu) == Some(id(n)) {
            return true;
        }
        // An entry may kick its own CPU.
        self.vm.host().set_inside(cpu, Some(id(n)));
        let this = &self.cpus[cpu];
        let entered = within(bounds::ENTRY, || self.vm.enter(&this.pin(), id(n)));
        assert_eq!(entered.is_ok(), self.on[n]);
        if !self.on[n] {
            self.vm.host().set_inside(cpu, None);
        }
        self.on[n]
    }

    fn run(&mut self, cpu: usize, n: usize, guest: &[Guest], stay: bool) {
        let cpu = *self.places[n].get_or_insert(cpu % CPUS);

        // The CPU may have another vCPU's registers.
        for other in 0..self.places.len() {
            if other != n && self.places[other] == Some(cpu) {
                self.put(other);
            }
        }

        if !self.enter(n) {
            self.places[n] = None;
            return;
        }

        for access in guest {
            let interface = self.cpus[cpu].interface();
            let done = access.access(interface, &mut self.acknowledged);
            if let (false, &Guest::Deactivate(intid)) = (done, access) {
                self.sysreg(n, SysReg::Dir, intid.into());
                self.enter(n);
            }
        }

        if let Some(part) = &self.vm.host().gicv4 {
            let _ = part.model.take(cpu);
        }
        if stay {
            return;
        }

        self.leave(n);
        let (this, vm) = (&self.cpus[cpu], &self.vm);
        within(bounds::ENTRY, || {
            let pending = vm.has_pending(&this.pin(), id(n)).unwrap();
            if vm.block(&this.pin(), id(n)).unwrap() == Blocked::Yes {
                assert!(!pending, "asleep with an interrupt");
            }
        });
    }

    fn put(&mut self, n: usize) {
        self.leave(n);
        if let Some(cpu) = self.places[n].take() {
            let cpu = &self.cpus[cpu];
            within(bounds::LEAVE, || {
                self.vm.vcpu_put(&cpu.pin(), id(n)).unwrap();
            });
        }
    }

    fn power(&mut self, n: usize, on: bool) {
        self.leave(n);
        if on {
            let changed = within(bounds::ENTRY, || self.vm.power_on(id(n)));
            assert_eq!(changed, !self.on[n]);
            self.on[n] = true;
        } else if let Some(cpu) = self.places[n].take() {
            let cpu = &self.cpus[cpu];
            within(bounds::LEAVE, || {
                self.vm.power_off(&cpu.pin(), id(n)).unwrap();
            });
            self.on[n] = false;
        }
    }

    fn add_vcpu(&mut self, n: u8) {
        let affinity = Affinity::new(0, 0, n >> 5, n & 0x1f);
        let added = within(bounds::ADDED, || self.vm.add_vcpu(&self.pin(), affinity));
        if let Ok(added) = added {
            self.power(added.index(), true);
        }
    }
}

fn spi(n: u16) -> Option<IntId> {
    IntId::spi(32 + u32::from(n))
}

fn ppi(n: u8) -> Option<IntId> {
    match n & 0xc0 {
        0xc0 => IntId::ppi(1056 + u32::from(n % 64)),
        _ => IntId::ppi(16 + u32::from(n % 16)),
    }
}

fn id(n: usize) -> VcpuId {
    VcpuId::new(n).unwrap()
}

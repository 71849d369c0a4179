//! Embedders that call anything at any time: the whole public API, with any CPU, pin, vCPU, VM and
//! domain, in an order that numbers decide. A test and a fuzz target share this file.
//!
//! An [`Actor`] is a thread. It has CPUs of two domains, which it registers and drops, and holds
//! pins of them across other calls, renews them and leaves them. The VMs are shared by all actors,
//! are made, torn down and dropped, also while a vCPU of theirs is on a CPU or in the guest.
//!
//! Every call has to return. At the end, a fresh VM has to work on the CPUs as they were left.

#[path = "direct.rs"]
mod direct;

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vgic::config::{GITS_TRANSLATER, ItsConfig};
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::epoch::{CpuLocal, CpuPin, Domain};
use vgic::gicv4::Gicv4;
use vgic::intid::{Affinity, CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::mmio::Width;
use vgic::state::{LateInterrupt, VmState};
use vgic::sysreg::SysReg;
use vgic::{
    BadAddress, Config, Cpu, EntryError, Host, Injected, PhysicalInterrupt, PinnedCpu, Vgic,
};

use crate::gicv4::beside::Part;
use crate::gicv4::{Model, Version};

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
/// The CPU interface and the GICv2m frame of a GICv2.
const GICC: u64 = 0x0801_0000;
const V2M: u64 = 0x0802_0000;
const GITS: u64 = 0x0808_0000;
/// The frame of the second ITS.
const GITS2: u64 = 0x0900_0000;
/// Tables in guest memory, each 64 KiB at most; see [`Guest::read_memory`].
const RAM: u64 = 0x4000_0000;
const QUEUE: u64 = RAM + 0x1_0000;
const PROPERTIES: u64 = RAM + 0x2_0000;
const PENDING: u64 = RAM + 0x3_0000;
const QUEUE_BYTES: usize = 4096;
const VALID: u64 = 1 << 63;

/// Identifiers of CPUs that actors register: fewer than CPUs, so that some are taken.
const CPU_IDS: usize = 6;
/// Deepest nesting of held pins.
const DEPTH: usize = 3;

/// Source of the numbers that decide.
pub trait Choices {
    /// Returns a number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize;

    /// Returns any number, and mostly a small one.
    fn number(&mut self) -> u64;

    /// Returns true if no decisions are left.
    fn is_over(&self) -> bool;
}

/// Embedder and memory of one VM.
pub struct Guest {
    queue: Mutex<Vec<u8>>,
    /// The VM's part of the machine's GICv4, if it has one.
    gicv4: Option<Part>,
}

/// Number of commands that map devices, collections and events, at the start of a guest's queue.
const MAPPINGS: usize = 3 + 3 + 12;

impl Default for Guest {
    /// Returns a guest whose queue begins with mappings.
    fn default() -> Self {
        let devices = (0..3).map(|device| [0x08 | device << 32, 2, VALID | RAM, 0]);
        let collections = (0..3).map(|icid| [0x09, 0, VALID | icid << 16 | icid, 0]);
        let events = (0..12).map(|n| [0x0a | (n % 3) << 32, (n / 3) | (8192 + n) << 32, n % 3, 0]);
        let mut queue = bytes_of(devices.chain(collections).chain(events));
        assert_eq!(queue.len(), MAPPINGS * 32);
        queue.resize(QUEUE_BYTES, 0);
        Self {
            queue: Mutex::new(queue),
            gicv4: None,
        }
    }
}

/// Returns commands as in guest memory.
fn bytes_of(commands: impl IntoIterator<Item = [u64; 4]>) -> Vec<u8> {
    let words = commands.into_iter().flatten();
    words.flat_map(u64::to_le_bytes).collect()
}

impl Host for Guest {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}

    /// Reads a page of commands, LPIs that are all enabled, every third LPI pending, and zeros.
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        match gpa & !0xffff {
            QUEUE => {
                let queue = self.queue.lock().unwrap();
                let at = (gpa - QUEUE) as usize;
                let bytes = queue.get(at..at + buffer.len()).ok_or(BadAddress)?;
                buffer.copy_from_slice(bytes);
            }
            PROPERTIES => buffer.fill(0xa1),
            PENDING => buffer.fill(0b0100_1001),
            RAM => buffer.fill(0),
            _ => return Err(BadAddress),
        }
        Ok(())
    }

    /// Accepts a pending table, and keeps none.
    fn write_memory(&self, gpa: u64, _bytes: &[u8]) -> Result<(), BadAddress> {
        (gpa & !0xffff == PENDING).then_some(()).ok_or(BadAddress)
    }

    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.gicv4.as_ref().map(|part| part as &dyn Gicv4)
    }

    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
        physical.intid().raw() & 1 != 0
    }
}

type Vm = Vgic<Guest>;

/// A VM of a domain.
struct Placed {
    /// Index of the domain.
    domain: usize,
    vm: Vm,
}

impl Placed {
    /// Checks the result of a call with a pin of a CPU of `domain`: a pin of another domain is
    /// refused.
    fn check<T, E>(&self, domain: usize, result: Result<T, E>) {
        assert!(domain == self.domain || result.is_err(), "a foreign pin");
    }
}

impl Deref for Placed {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

/// A CPU: the VMs have extended interrupts.
const CPU: Vtr = Vtr {
    extended_range: true,
    ..NEOVERSE
};

type Pinned<'c> = PinnedCpu<'c, SoftwareInterface>;
/// Pins that an actor holds, the latest last.
type Pins<'p, 'c> = [(&'p Registered, &'p Pinned<'c>)];

/// A CPU of an actor.
struct Registered {
    /// Index of the CPU's domain.
    domain: usize,
    cpu: Cpu<SoftwareInterface>,
    /// Place of the VM, and the vCPU, entered last.
    last: Cell<(usize, VcpuId)>,
}

/// The domains and VMs that all actors share.
pub struct Shared {
    domains: [Domain; 2],
    /// The GICv4 of each domain's machine: a GICv4.0, and a GICv4.1.
    gicv4s: [Arc<Model>; 2],
    /// Number of VMs made so far.
    made: AtomicU32,
    vms: [Mutex<Option<Arc<Placed>>>; 3],
    /// The state of a VM that was saved last.
    state: Mutex<Option<VmState>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            domains: Default::default(),
            gicv4s: [Version::V4_0, Version::V4_1].map(|of| Arc::new(Model::new(of))),
            made: AtomicU32::default(),
            vms: Default::default(),
            state: Mutex::default(),
        }
    }
}

impl Shared {
    /// Returns the VM in a place.
    fn vm(&self, place: usize) -> Option<Arc<Placed>> {
        self.vms[place].lock().unwrap().clone()
    }

    /// Puts a VM into a place, and drops the VM that was there.
    fn put(&self, place: usize, vm: Option<Arc<Placed>>) {
        let old = std::mem::replace(&mut *self.vms[place].lock().unwrap(), vm);
        drop(old);
    }
}

/// A thread that calls anything.
pub struct Actor<'s, C> {
    shared: &'s Shared,
    choices: C,
    cpus: [Option<Rc<Registered>>; 4],
    /// CPUs that run no vCPUs.
    locals: [Option<Rc<(usize, CpuLocal)>>; 2],
}

impl<'s, C: Choices> Actor<'s, C> {
    /// Returns an actor without CPUs.
    pub fn new(shared: &'s Shared, choices: C) -> Self {
        Self {
            shared,
            choices,
            cpus: Default::default(),
            locals: Default::default(),
        }
    }

    /// Makes at most `steps` calls.
    pub fn act(&mut self, steps: usize) {
        for _ in 0..4 {
            self.register();
        }
        for _ in 0..2 {
            self.make_vm();
        }
        for _ in 0..steps {
            if self.choices.is_over() {
                break;
            }
            self.step(&[]);
        }
    }

    /// Makes one call.
    fn step(&mut self, pins: &Pins<'_, '_>) {
        match self.choices.below(100) {
            0..3 => self.register(),
            3 => self.drop_cpu(),
            4 => self.register_local(),
            5..7 => self.make_vm(),
            7 => {
                let place = self.choices.below(3);
                self.shared.put(place, None);
            }
            8 => self.tear_down(pins),
            9 => self.read_all(pins),
            10 => self.set_up(pins),
            11..14 => self.direct(pins),
            14..19 => self.hold(pins),
            19..34 => self.enter(pins),
            34..58 => self.run_call(pins),
            58..74 => self.inject(pins),
            74..80 => self.access(pins),
            80..83 => self.system_register(pins),
            83..92 => self.command(pins),
            92..94 => self.save_or_restore(pins),
            94..96 => self.move_away(pins),
            96..98 => self.direct(pins),
            _ => self.advance(pins),
        }
    }

    // --- choices ---------------------------------------------------------------------------------

    fn vm(&mut self) -> Option<Arc<Placed>> {
        let first = self.choices.below(3);
        (first..first + 3).find_map(|place| self.shared.vm(place % 3))
    }

    /// Chooses a CPU of those that there are.
    fn cpu(&mut self) -> Option<Rc<Registered>> {
        let first = self.choices.below(self.cpus.len());
        let mut places = self.cpus.iter().cycle().skip(first).take(self.cpus.len());
        places.find_map(Clone::clone)
    }

    /// Chooses a vCPU, perhaps one that the VM does not have.
    fn vcpu(&mut self) -> VcpuId {
        VcpuId::new(self.choices.below(4)).unwrap()
    }

    /// Chooses an interrupt, mostly a PPI or mostly an SPI.
    fn intid(&mut self, ppi: bool) -> IntId {
        let raw = match (self.choices.below(12), ppi) {
            (0, _) => self.choices.below(32),
            (1, _) => 32 + self.choices.below(40),
            (2, _) => 8192 + self.choices.below(40),
            // Extended ones, some of them beyond the last.
            (3, true) => 1056 + self.choices.below(40),
            (3, false) => 4096 + self.choices.below(40),
            (_, true) => 16 + self.choices.below(16),
            (_, false) => 32 + self.choices.below(8),
        };
        IntId::new(raw as u32).unwrap()
    }

    /// Calls `f` with a pin that is held, or with a new one of a CPU.
    fn with_cpu(
        &mut self,
        pins: &Pins<'_, '_>,
        f: impl FnOnce(&mut Self, &Registered, &Pinned<'_>),
    ) {
        let chosen = self.choices.below(pins.len() + self.cpus.len());
        if let Some((registered, pin)) = pins.get(chosen) {
            f(self, registered, pin);
        } else if let Some(registered) = self.cpu() {
            f(self, &registered, &registered.cpu.pin());
        }
    }

    /// Calls `f` with a pin that need not be of a CPU that runs vCPUs, and its domain.
    fn with_pin(&mut self, pins: &Pins<'_, '_>, f: impl FnOnce(&mut Self, usize, &CpuPin<'_>)) {
        if self.choices.below(4) == 0 {
            let chosen = self.choices.below(self.locals.len());
            if let Some(local) = self.locals[chosen].clone() {
                f(self, local.0, &local.1.pin());
            }
        } else {
            self.with_cpu(pins, |actor, registered, pin| {
                f(actor, registered.domain, pin)
            });
        }
    }

    // --- CPUs and pins ---------------------------------------------------------------------------

    fn register(&mut self) {
        let (place, domain) = (self.choices.below(4), self.choices.below(6) / 5);
        let id = CpuId(self.choices.below(CPU_IDS) as u16);
        if let Ok(local) = self.shared.domains[domain].register(id) {
            let cpu = Cpu::try_new(local, SoftwareInterface::new(CPU)).unwrap();
            let last = Cell::new((0, VcpuId::new(0).unwrap()));
            self.cpus[place] = Some(Rc::new(Registered { domain, cpu, last }));
        }
    }

    fn register_local(&mut self) {
        let (place, domain) = (self.choices.below(2), self.choices.below(2));
        let id = match self.choices.below(CPU_IDS + 2) {
            reserved if reserved == CPU_IDS => u16::MAX,
            reserved if reserved > CPU_IDS => u16::MAX - 1,
            id => id as u16,
        };
        if let Ok(local) = self.shared.domains[domain].register(CpuId(id)) {
            self.locals[place] = Some(Rc::new((domain, local)));
        }
    }

    /// Drops a CPU, or leaves the drop to the pins that are held.
    fn drop_cpu(&mut self) {
        let chosen = self.choices.below(self.cpus.len());
        self.cpus[chosen] = None;
    }

    /// Holds pins of one or two CPUs across other calls. The older one may end first.
    fn hold(&mut self, pins: &Pins<'_, '_>) {
        let (Some(first), Some(second)) = (self.cpu(), self.cpu()) else {
            return;
        };
        if pins.len() >= DEPTH {
            return;
        }

        let mut older = first.cpu.pin();
        self.steps_under(pins, &[(&first, &older)]);
        let mut younger = second.cpu.pin();
        if self.choices.below(2) == 0 {
            let _ = vgic::internals::guard(&older);
        }
        self.steps_under(pins, &[(&first, &older), (&second, &younger)]);

        match self.choices.below(4) {
            0 => older.renew(),
            1 => younger.renew(),
            2 => older.unpinned(|| self.steps_under(pins, &[(&second, &younger)])),
            _ => {
                drop(older);
                self.steps_under(pins, &[(&second, &younger)]);
                return;
            }
        }
        self.steps_under(pins, &[(&first, &older), (&second, &younger)]);
    }

    /// Makes a few calls with more pins to choose from.
    fn steps_under(&mut self, pins: &Pins<'_, '_>, more: &Pins<'_, '_>) {
        let pins: Vec<_> = pins.iter().chain(more).copied().collect();
        for _ in 0..self.choices.below(6) {
            self.step(&pins);
        }
    }

    // --- VMs -------------------------------------------------------------------------------------

    fn make_vm(&mut self) {
        let (place, domain) = (self.choices.below(3), self.choices.below(6) / 5);
        let vcpus = 1 + self.choices.below(3);
        let config = match self.choices.below(6) {
            0 => gicv2(config(vcpus, vcpus)),
            more => config(vcpus, vcpus + more % 2),
        };
        // Miri would look through pending tables for long.
        let direct = !cfg!(miri) && self.choices.below(2) == 0;
        let number = self.shared.made.fetch_add(1, Ordering::Relaxed);
        let gicv4 = &self.shared.gicv4s[domain];
        let guest = Guest {
            gicv4: direct.then(|| Part::new(gicv4.clone(), number, |_, _, _| ())),
            ..Guest::default()
        };
        let vm = Vgic::new(&self.shared.domains[domain], config, guest).unwrap();
        if self.choices.below(4) != 0 {
            for vcpu in 1..vcpus {
                vm.power_on(VcpuId::new(vcpu).unwrap());
            }
            self.with_cpu(&[], |_, _, pin| {
                for n in 0..3 {
                    ignore(vm.set_direct_vcpu(pin, VcpuId::new(n).unwrap(), true));
                    if let Some(part) = &vm.host().gicv4 {
                        part.set_device(ItsId(0), DeviceId(n as u32), true);
                    }
                }
                set_up(&vm, pin);
            });
        }
        self.shared
            .put(place, Some(Arc::new(Placed { domain, vm })));
    }

    fn tear_down(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        self.with_pin(pins, |_, domain, pin| {
            vm.check(domain, vm.teardown(pin));
        });
    }

    /// Saves a VM, or restores the last state, perhaps a spoiled one, to any VM.
    fn save_or_restore(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let known = self.shared.state.lock().unwrap().clone();
        let known = known.filter(|_| self.choices.below(2) == 0);
        let Some(mut state) = known else {
            return self.with_pin(pins, |actor, domain, pin| {
                let saved = vm.save(pin);
                if let Ok(state) = &saved {
                    *actor.shared.state.lock().unwrap() = Some(state.clone());
                }
                vm.check(domain, saved);
            });
        };
        for _ in 0..self.choices.below(3) {
            self.spoil(&mut state);
        }
        self.with_pin(pins, |_, domain, pin| {
            vm.check(domain, vm.restore(pin, &state));
        });
    }

    /// Freezes a VM or thaws it, or takes what came late and gives it to any VM, by the last state
    /// of any VM.
    fn move_away(&mut self, pins: &Pins<'_, '_>) {
        let (Some(vm), Some(other)) = (self.vm(), self.vm()) else {
            return;
        };
        let known = self.shared.state.lock().unwrap().clone();
        let call = self.choices.below(6);
        let (intid, vcpu) = (self.intid(call & 1 != 0), self.choices.below(5));
        let late = LateInterrupt {
            intid: intid.raw(),
            vcpu: Some(vcpu as u16).filter(|_| intid.is_private()),
            flags: self.choices.number() as u8,
        };

        self.with_pin(pins, |actor, domain, pin| match (call, known) {
            (0, _) | (_, None) => {
                let frozen = vm.freeze(pin);
                if let Ok(state) = &frozen {
                    *actor.shared.state.lock().unwrap() = Some(state.clone());
                }
                vm.check(domain, frozen);
            }
            (1 | 2, Some(state)) => vm.check(domain, vm.thaw(pin, &state)),
            (3 | 4, Some(state)) => {
                let taken = vm.take_late(pin, &state);
                for late in taken.iter().flatten() {
                    other.check(domain, other.inject_late(pin, *late));
                }
                vm.check(domain, taken);
            }
            _ => vm.check(domain, vm.inject_late(pin, late)),
        });
    }

    /// Changes a number of a state.
    fn spoil(&mut self, state: &mut VmState) {
        let number = self.choices.number();
        let vcpu = Some(self.choices.below(5) as u16);
        let spi = self.choices.below(state.spis.len());
        let chosen = self.choices.below(state.vcpus.len().max(1));
        if let Some(vcpu) = state.vcpus.get_mut(chosen) {
            match self.choices.below(8) {
                0 => vcpu.is_on ^= true,
                1 => vcpu.enable_lpis ^= true,
                2 => vcpu.pendbaser = number,
                3 => vcpu.vmcr = number,
                4 => vcpu.active_priorities[1][0] = number as u32,
                5 => vcpu.private[number as usize % 32].flags = number as u8,
                _ => {}
            }
        }
        let extended = &mut state.extended;
        match self.choices.below(24) {
            0 => extended.spis.truncate(number as usize),
            1 => extended.ppis.truncate(number as usize),
            2 => state.version = number as u16,
            chosen @ 3.. => {
                if let Some(ppi) = extended.ppis.get_mut(chosen) {
                    ppi.flags ^= number as u8;
                }
                if let Some(spi) = extended.spis.get_mut(chosen) {
                    spi.active_on = vcpu.filter(|_| number & 1 != 0);
                }
            }
        }
        match self.choices.below(6) {
            0 => state.spis[spi].interrupt.flags = number as u8,
            1 => state.spis[spi].interrupt.priority = number as u8,
            2 => state.spis[spi].router = number,
            3 => state.spis[spi].active_on = vcpu,
            _ => {}
        }
        let chosen = self.choices.below(state.lpis.len().max(1));
        if let Some(lpi) = state.lpis.get_mut(chosen) {
            match self.choices.below(8) {
                0 => lpi.intid = number as u32,
                1 => lpi.interrupt.flags = number as u8,
                2 => lpi.icid = number as u16,
                3 => lpi.target = vcpu,
                _ => {}
            }
        }
        let chosen = self.choices.below(state.its.len().max(1));
        let Some(its) = state.its.get_mut(chosen) else {
            return;
        };
        match self.choices.below(9) {
            0 => its.is_enabled ^= true,
            1 => its.cbaser = number,
            2 => its.cwriter = number,
            3 => its.creadr = number,
            4 => its.device_table = number,
            5 => its.collections.truncate(number as usize),
            6 => its.devices.truncate(number as usize),
            _ => {}
        }
        let chosen = self.choices.below(its.devices.len().max(1));
        if let Some(device) = its.devices.get_mut(chosen) {
            match self.choices.below(6) {
                0 => device.device = number as u32,
                1 => device.event_bits = number as u8,
                2 => device.events.truncate(number as usize),
                _ => {}
            }
        }
    }

    /// Makes the calls that change nothing, and removes and adds a vCPU.
    fn read_all(&mut self, pins: &Pins<'_, '_>) {
        let domain = self.choices.below(2);
        let _ = self.shared.domains[domain].totals();
        let Some(vm) = self.vm() else { return };
        let vcpu = self.vcpu();
        assert!(vm.claims(vm.config().distributor));
        assert!(vm.vcpu_count() <= vm.config().max_vcpus);
        let _ = (vm.host(), vm.has_deferred());

        self.with_pin(pins, |actor, domain, pin| {
            let affinity = vm.affinity(pin, vcpu);
            vm.check(domain, affinity.ok_or(()));
            if let Some(affinity) = affinity {
                // Another thread may remove the vCPU, and give its affinity another place.
                let found = vm.find_vcpu(pin, affinity);
                assert!(found.is_none_or(|found| found.index() < vm.vcpu_count()));
            }
            if actor.choices.below(4) == 0 {
                vm.check(domain, vm.remove_vcpu(pin, vcpu));
            }
            let added = Affinity::new(0, 0, 0, actor.choices.below(5) as u8);
            vm.check(domain, vm.add_vcpu(pin, added));
            let _ = (pin.cpu(), pin.counters(), format!("{pin:?}"));
            pin.collect_garbage();
        });
        self.with_cpu(pins, |_, on, pin| {
            let cpu = pin.cpu();
            assert_eq!(cpu.id(), on.cpu.id());
            ignore((cpu.vtr(), cpu.local().id(), cpu.release()));
        });
    }

    /// Does the set-up of a guest.
    fn set_up(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        self.with_pin(pins, |_, _, pin| set_up(&vm, pin));
    }

    // --- running vCPUs ---------------------------------------------------------------------------

    fn enter(&mut self, pins: &Pins<'_, '_>) {
        let (place, vcpu) = (self.choices.below(3), self.vcpu());
        let again = self.choices.below(2) == 0;
        self.with_cpu(pins, |actor, registered, pin| {
            let (place, vcpu) = if again {
                registered.last.get()
            } else {
                (place, vcpu)
            };
            let Some(vm) = actor.shared.vm(place) else {
                return;
            };
            let entered = vm.enter(pin, vcpu);
            ignore(vm.virtual_lines(pin, vcpu));
            vm.check(registered.domain, entered);
            if entered.is_ok() {
                registered.last.set((place, vcpu));
                actor.be_guest(pin.cpu().interface());
                let gicv4 = &actor.shared.gicv4s[registered.domain];
                ignore(gicv4.take(usize::from(registered.cpu.id().0)));
            }
        });
    }

    /// Does what a guest may do with the registers of the CPU that it is on.
    fn be_guest(&mut self, guest: &SoftwareInterface) {
        if self.choices.below(4) != 0 {
            guest.write_igrpen1(true);
            guest.write_pmr(0xf8).unwrap_or(());
        }
        for _ in 0..self.choices.below(6) {
            let intid = self.choices.number() as u32 & 0x3fff;
            match self.choices.below(8) {
                0 => guest.write_igrpen1(false),
                1 => guest.write_igrpen0(true),
                2 | 3 => guest.write_eoir1(intid),
                4 => guest.write_ctlr(self.choices.number()).unwrap_or(()),
                _ => {
                    let taken = guest.read_iar1();
                    if self.choices.below(4) != 0 {
                        guest.write_eoir1(taken);
                    }
                }
            }
        }
    }

    /// Makes a call on a vCPU, mostly the one that the CPU has.
    fn run_call(&mut self, pins: &Pins<'_, '_>) {
        let (place, vcpu) = (self.choices.below(3), self.vcpu());
        let (other, call) = (self.choices.below(8) == 0, self.choices.below(16));
        self.with_cpu(pins, |actor, registered, pin| {
            let (place, vcpu) = if other {
                (place, vcpu)
            } else {
                registered.last.get()
            };
            let Some(vm) = actor.shared.vm(place) else {
                return;
            };
            match call {
                0..8 => vm.check(registered.domain, vm.exit(pin, vcpu)),
                8..11 => vm.check(registered.domain, vm.vcpu_put(pin, vcpu)),
                11 | 12 => vm.check(registered.domain, vm.block(pin, vcpu)),
                13 => vm.check(registered.domain, vm.has_pending(pin, vcpu)),
                14 => vm.check(registered.domain, vm.power_off(pin, vcpu)),
                _ => ignore(vm.power_on(vcpu)),
            }
        });
    }

    // --- interrupts ------------------------------------------------------------------------------

    fn inject(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let device = DeviceId(self.choices.below(5) as u32);
        let event = self.choices.below(9) as u32;
        let (call, high) = (self.choices.below(12), self.choices.below(2) == 0);
        let (vcpu, intid) = (self.vcpu(), self.intid(call & 1 != 0));
        self.with_pin(pins, |_, domain, pin| match call {
            0 => vm.check(domain, vm.inject_spi(pin, intid)),
            1 => vm.check(domain, vm.inject_ppi(pin, vcpu, intid)),
            2 => vm.check(domain, vm.set_spi_line(pin, intid, high)),
            3 => vm.check(domain, vm.set_ppi_line(pin, vcpu, intid, high)),
            4 => {
                ignore(vm.connect_spi(pin, intid, intid));
                vm.check(domain, vm.forward_spi(pin, intid));
            }
            5 => {
                ignore(vm.connect_ppi(pin, vcpu, intid, intid));
                vm.check(domain, vm.forward_ppi(pin, vcpu, intid));
            }
            6 => vm.check(domain, vm.inject_spi(pin, intid)),
            7 => vm.check(domain, vm.set_ppi_line(pin, vcpu, intid, high)),
            8 => vm.check(
                domain,
                vm.signal_msi(pin, GITS + GITS_TRANSLATER, device, event),
            ),
            _ => vm.check(
                domain,
                vm.inject_msi(pin, ItsId(u8::from(high)), device, EventId(event)),
            ),
        });
    }

    /// Accesses a register that is there, or any.
    fn access(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let redistributors = [GICR, GICR + 0x1_0000, GICR + 0x2_0000];
        let frame = match self.choices.below(8) {
            0 => GICD,
            1 => GICC,
            2 => V2M,
            3 => GITS,
            4 => GITS2,
            more => redistributors[more - 5],
        };
        let offset = match self.choices.below(3) {
            0 => [0, 0x14, 0x70, 0x78, 0x80, 0x88, 0x90, 0xb0, 0xc0, 0x100][self.choices.below(10)],
            // The latter half in the blocks of extended SPIs.
            1 => match 0x80 + self.choices.below(0x700 / 4) as u64 * 4 {
                at @ ..0x400 => at,
                at => 0x1000 + (at - 0x400) * 4,
            },
            _ => self.choices.number() & 0xffff,
        };

        let width = [Width::Byte, Width::Half, Width::Word, Width::Double];
        let width = width[self.choices.below(4)];
        let (vcpu, value) = (self.vcpu(), self.choices.number());
        let gpa = frame + offset;
        match self.choices.below(4) {
            0 | 1 => self.with_cpu(pins, |_, on, pin| {
                vm.check(on.domain, vm.mmio_read(pin, vcpu, gpa, width));
            }),
            2 => self.with_cpu(pins, |_, on, pin| {
                vm.check(on.domain, vm.mmio_write_of(pin, vcpu, gpa, width, value));
                ignore(vm.virtual_lines(pin, vcpu));
            }),
            _ => self.with_pin(pins, |_, domain, pin| {
                vm.check(domain, vm.mmio_write(pin, gpa, width, value));
            }),
        }
    }

    fn system_register(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let registers = [
            SysReg::Sgi0r,
            SysReg::Sgi1r,
            SysReg::Asgi1r,
            SysReg::Dir,
            SysReg::Sre,
            SysReg::Pmr,
            SysReg::Ctlr,
            SysReg::Rpr,
        ];
        let (vcpu, register) = (self.vcpu(), registers[self.choices.below(8)]);
        let value = self.choices.number();
        self.with_cpu(pins, |_, on, pin| {
            // A register that cannot be read is refused everywhere.
            if let Some(read) = vm.sysreg_read(pin, vcpu, register) {
                vm.check::<_, ()>(on.domain, Ok(read));
            }
            vm.check(on.domain, vm.sysreg_write(pin, vcpu, register, value));
        });
    }

    /// Puts a few commands into the queue of an ITS, and rings.
    fn command(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let gits = [GITS, GITS2][self.choices.below(2)];
        // At the start, where the queue begins anew, or anywhere.
        let restart = self.choices.below(8) != 0;
        let mut at = if restart {
            0
        } else {
            self.choices.below(QUEUE_BYTES / 32) * 32
        };
        let commands: Vec<_> = (0..1 + self.choices.below(6))
            .map(|_| self.one_command())
            .collect();
        let mut queue = vm.host().queue.lock().unwrap();
        for byte in bytes_of(commands) {
            queue[at] = byte;
            at = (at + 1) % QUEUE_BYTES;
        }
        drop(queue);

        self.with_pin(pins, |_, domain, pin| {
            if restart {
                // The queue begins with the commands.
                vm.check(domain, vm.mmio_write(pin, gits, Width::Word, 0));
                let cbaser = VALID | QUEUE;
                vm.check(
                    domain,
                    vm.mmio_write(pin, gits + 0x80, Width::Double, cbaser),
                );
                vm.check(domain, vm.mmio_write(pin, gits, Width::Word, 1));
            }
            vm.check(
                domain,
                vm.mmio_write(pin, gits + 0x88, Width::Double, at as u64),
            );
        });
    }

    fn one_command(&mut self) -> [u64; 4] {
        let device = (self.choices.below(5) as u64) << 32;
        let event = self.choices.below(9) as u64;
        let intid = (8192 + self.choices.below(40) as u64) << 32;
        let (icid, vcpu) = (self.choices.below(4), self.choices.below(4) as u64);
        let (icid, to) = (icid as u64, vcpu << 16);
        let valid = if self.choices.below(4) == 0 { 0 } else { VALID };
        match self.choices.below(16) {
            0..2 => [0x08 | device, 2, valid | RAM, 0],
            2 => [0x09, 0, valid | to | icid, 0],
            3..8 => [0x0a | device, event | intid, icid, 0],
            8..10 => [0x0f | device, event, 0, 0],
            10 => [0x01 | device, event, icid, 0],
            11 => [0x03 | device, event, 0, 0],
            12 => [0x04 | device, event, 0, 0],
            13 => [0x0d, 0, icid, 0],
            14 => [0x0e, 0, icid << 16, to],
            _ => [self.choices.number(), event, valid | icid, to],
        }
    }

    fn advance(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let slices = 1 + self.choices.below(4);
        self.with_pin(pins, |_, domain, pin| {
            for _ in 0..slices {
                vm.check(domain, vm.advance(pin));
            }
        });
    }

    // --- the end ---------------------------------------------------------------------------------

    /// Checks that every CPU of the actor can be made free and runs a fresh VM.
    pub fn finish(self) {
        for registered in self.cpus.iter().flatten() {
            if registered.cpu.release() == Err(EntryError::CpuInUse) {
                self.free(&registered.cpu);
            }
            assert_eq!(registered.cpu.release(), Ok(()));
            work(&self.shared.domains[registered.domain], &registered.cpu);
        }
    }

    /// Takes the vCPU that is on `cpu` off.
    fn free(&self, cpu: &Cpu<SoftwareInterface>) {
        for vm in (0..3).filter_map(|place| self.shared.vm(place)) {
            for vcpu in (0..vm.vcpu_count()).filter_map(VcpuId::new) {
                let _ = vm.exit(&cpu.pin(), vcpu);
                let _ = vm.vcpu_put(&cpu.pin(), vcpu);
            }
        }
    }
}

/// Takes the result of a call that may fail with a typed error.
fn ignore<T>(_result: T) {}

/// Returns the configuration of a small VM with two ITSes.
fn config(vcpus: usize, max_vcpus: usize) -> Config {
    let its = |base| ItsConfig {
        device_bits: 9,
        event_bits: 9,
        collections: 4,
        ..ItsConfig::at(base)
    };

    let affinities = (0..max_vcpus).map(|n| Affinity::new(0, 0, 0, n as u8));
    let mut config = Config {
        max_vcpus,
        spis: 32,
        extended_spis: 32,
        extended_ppis: 32,
        lpis: 512,
        its: vec![its(GITS), its(GITS2)],
        ..Config::new(affinities.collect())
    };
    config.vcpus.truncate(vcpus);
    config
}

/// Returns a configuration with a GICv2 in place of the GICv3.
fn gicv2(config: Config) -> Config {
    let mut config = Config {
        its: Vec::new(),
        lpis: 0,
        extended_spis: 0,
        extended_ppis: 0,
        ..config
    }
    .with_gicv2();
    if let Some(gicv2) = &mut config.gicv2 {
        (gicv2.v2m[0].first_spi, gicv2.v2m[0].spis) = (40, 8);
    }
    config
}

/// Enables everything, as a guest does.
fn set_up(vm: &Vm, pin: &CpuPin<'_>) {
    let write = |gpa, value| ignore(vm.mmio_write(pin, gpa, Width::Word, value));
    let write_double = |gpa, value| ignore(vm.mmio_write(pin, gpa, Width::Double, value));
    write(GICD, 0x12);
    write(GICD + 0x84, u64::from(u32::MAX));
    write(GICD + 0x104, u64::from(u32::MAX));
    write(GICD + 0xc08, 0xaaaa_aaaa);
    for at in [0x1000, 0x1200] {
        write(GICD + at, u64::from(u32::MAX));
    }
    write(GICD + 0x3000, 0xaaaa_aaaa);

    for n in 0..vm.vcpu_count() as u64 {
        let gicr = GICR + n * 0x2_0000;
        write(gicr + 0x14, 0);
        write(gicr + 0x1_0080, u64::from(u32::MAX));
        write(gicr + 0x1_0100, u64::from(u32::MAX));
        write(gicr + 0x1_0084, u64::from(u32::MAX));
        write(gicr + 0x1_0104, u64::from(u32::MAX));
        write_double(gicr + 0x70, PROPERTIES | 15);
        write_double(gicr + 0x78, PENDING);
        write(gicr, 1);
    }

    for gits in [GITS, GITS2] {
        write_double(gits + 0x100, VALID | RAM);
        write_double(gits + 0x108, VALID | RAM);
        write_double(gits + 0x80, VALID | QUEUE);
        write(gits, 1);
        write_double(gits + 0x88, (MAPPINGS * 32) as u64);
    }
}

/// Checks that a fresh VM works on `cpu`, which has no vCPU: an SPI and an LPI arrive.
fn work(domain: &Domain, cpu: &Cpu<SoftwareInterface>) {
    let vm = Vgic::new(domain, config(1, 1), Guest::default()).unwrap();
    let vcpu = VcpuId::new(0).unwrap();
    set_up(&vm, &cpu.pin());
    while vm.has_deferred() {
        vm.advance(&cpu.pin()).unwrap();
    }

    vm.enter(&cpu.pin(), vcpu).unwrap();
    let guest = cpu.interface();
    guest.write_igrpen1(true);
    guest.write_pmr(0xf8).unwrap();
    vm.exit(&cpu.pin(), vcpu).unwrap();

    let spi = IntId::spi(40).unwrap();
    let injected = vm.inject_spi(&cpu.pin(), spi);
    assert!(matches!(injected, Ok(Injected::Pending)), "{injected:?}");
    let injected = vm.inject_msi(&cpu.pin(), ItsId(0), DeviceId(0), EventId(2));
    assert!(matches!(injected, Ok(Injected::Pending)), "{injected:?}");

    vm.enter(&cpu.pin(), vcpu).unwrap();
    let mut taken = [(); 2].map(|()| {
        let intid = guest.read_iar1();
        guest.write_eoir1(intid);
        intid
    });
    taken.sort_unstable();
    assert_eq!(taken, [40, 8198]);
    assert_eq!(guest.read_iar1(), 1023);

    vm.exit(&cpu.pin(), vcpu).unwrap();
    vm.vcpu_put(&cpu.pin(), vcpu).unwrap();
    let report = vm.teardown(&cpu.pin()).unwrap();
    assert_eq!(report.references, 0);
    assert_eq!(cpu.release(), Ok(()));
}

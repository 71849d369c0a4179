//! Random changes of the guest's settings, of vCPUs and of the path, with a look for lost wake-ups.
//!
//! A vCPU that sleeps, and that the host was not asked to wake, has nothing to take. A vCPU in the
//! guest that was not kicked has no more to take after an exit and an entry than before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proptest::prelude::*;
use vgic::sysreg::SysReg;
use vgic::{Blocked, Config};

use crate::common::gicv4::{Sent, Version};
use crate::common::its::{self, Driver};
use crate::common::{Call, GICD, GITS, affinity};
use crate::{DEVICE, Direct, EVENTS, LPI, vcpu};

const VCPUS: usize = 3;
/// A CPU with no vCPU of its own: vCPU 0 is never loaded.
const SPARE: usize = 0;
const NASSGI: u32 = 1 << 8;

/// A step of a random test.
#[derive(Clone, Copy, Debug)]
enum Step {
    Msi(u32),
    LateMsi(u32),
    Serve(usize),
    /// Into the guest, where the vCPU stays.
    Run(usize),
    /// The guest takes what is signalled.
    Take(usize),
    Put,
    /// To another CPU, where the vCPU blocks and is put.
    Hop(usize),
    Advance,
    /// The hypervisor does what a kick or a wake-up asks for.
    Respond(usize),
    HasPending(usize),
    /// Off and on.
    Cycle(usize),
    /// Out of the VM and in again.
    Remove(usize),
    Vcpu(usize, bool),
    Device(bool),
    Move(u32, usize),
    MoveAll(usize, usize),
    Int(u32),
    Clear(u32),
    /// `DISCARD` and `MAPTI`.
    Remap(u32, usize),
    Lpis(usize, bool),
    Its(bool),
    Groups(u32),
    /// Enables an event, or disables it, by one of the ways of an invalidation.
    Configure(u32, bool, u8),
    Sgi(usize, u32),
    EnableSgi(usize, u32, bool),
    SetSgi(usize, u32),
    ClearSgi(usize, u32),
    /// The guest asks for SGIs without an active state, or with one.
    Ask(bool),
    Save,
    Restore,
    Freeze,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = || 1..VCPUS;
    let event = || 0..EVENTS;
    let step = prop_oneof![
        8 => event().prop_map(Step::Msi),
        1 => event().prop_map(Step::LateMsi),
        4 => n().prop_map(Step::Serve),
        4 => n().prop_map(Step::Run),
        4 => n().prop_map(Step::Take),
        1 => Just(Step::Put),
        2 => n().prop_map(Step::Hop),
        2 => Just(Step::Advance),
        3 => n().prop_map(Step::Respond),
        2 => n().prop_map(Step::HasPending),
        1 => n().prop_map(Step::Cycle),
        1 => n().prop_map(Step::Remove),
        2 => (n(), any::<bool>()).prop_map(|(n, on)| Step::Vcpu(n, on)),
        2 => any::<bool>().prop_map(Step::Device),
        2 => (event(), n()).prop_map(|(event, n)| Step::Move(event, n)),
        1 => (n(), n()).prop_map(|(from, to)| Step::MoveAll(from, to)),
        1 => event().prop_map(Step::Int),
        1 => event().prop_map(Step::Clear),
        1 => (event(), n()).prop_map(|(event, n)| Step::Remap(event, n)),
        3 => (n(), any::<bool>()).prop_map(|(n, on)| Step::Lpis(n, on)),
        1 => any::<bool>().prop_map(Step::Its),
        3 => (0..4_u32).prop_map(Step::Groups),
        3 => (event(), any::<bool>(), 0..3_u8).prop_map(|(e, on, by)| Step::Configure(e, on, by)),
        5 => (n(), 1..3_u32).prop_map(|(n, sgi)| Step::Sgi(n, sgi)),
        2 => (n(), 1..3_u32, any::<bool>()).prop_map(|(n, sgi, on)| Step::EnableSgi(n, sgi, on)),
        1 => (n(), 1..3_u32).prop_map(|(n, sgi)| Step::SetSgi(n, sgi)),
        1 => (n(), 1..3_u32).prop_map(|(n, sgi)| Step::ClearSgi(n, sgi)),
        2 => any::<bool>().prop_map(Step::Ask),
        1 => Just(Step::Save),
        1 => Just(Step::Restore),
        1 => Just(Step::Freeze),
    ];
    prop::collection::vec(step, 1..80)
}

/// Returns the key of an SGI of a vCPU.
const fn key(n: usize, sgi: u32) -> u32 {
    100 * (n as u32 + 1) + sgi
}

/// The place of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Guest,
    /// Blocked, on its CPU or put since.
    Asleep,
    /// Out of the guest and not blocked, on its CPU or on none.
    Out,
}

/// A VM, and what its guest and its hypervisor know.
struct World<'a> {
    this: &'a Direct,
    its: &'a Driver<'a>,
    places: Cell<[Place; VCPUS]>,
    /// vCPUs that were kicked, or woken, since they are at their place.
    called: Cell<[bool; VCPUS]>,
    /// For each LPI, and each SGI of each vCPU, its MSIs less its deliveries, and whether an MSI is
    /// newer than the last delivery.
    open: RefCell<BTreeMap<u32, (u32, bool)>>,
    /// The groups that the guest enables, and its wish for SGIs: `GICD_CTLR`.
    groups: Cell<u32>,
    ask: Cell<u32>,
    its_on: Cell<bool>,
    /// vCPUs whose pending tables may still be written.
    storing: Cell<[bool; VCPUS]>,
}

impl World<'_> {
    /// Notes the kicks and wake-ups.
    fn note(&self) {
        let mut called = self.called.get();
        for call in self.this.machine.vm.host().take_calls() {
            match call {
                Call::Wake(n) | Call::Kick(_, n) => called[n] = true,
                _ => {}
            }
        }
        self.called.set(called);
    }

    /// Does all deferred work, and the doorbells.
    fn settle(&self) {
        self.this.machine.advance();
        self.this.handle_doorbells();
        self.this.machine.advance();
        self.note();
    }

    /// Notes that a vCPU has come to a place.
    fn set(&self, n: usize, place: Place) {
        let mut places = self.places.get();
        places[n] = place;
        self.places.set(places);

        let mut called = self.called.get();
        called[n] = false;
        self.called.set(called);
    }

    /// Notes that an interrupt was sent.
    fn sent(&self, key: u32) {
        let mut open = self.open.borrow_mut();
        let (left, newer) = open.entry(key).or_default();
        *left += 1;
        *newer = true;
    }

    /// Notes that the guest has dropped the pending state of an interrupt.
    fn dropped(&self, key: u32) {
        self.open.borrow_mut().entry(key).or_default().1 = false;
    }

    /// Checks the interrupts that a vCPU has taken.
    fn answer(&self, n: usize, seen: &[u32]) {
        for intid in seen {
            let key = if *intid < 16 { key(n, *intid) } else { *intid };
            let mut open = self.open.borrow_mut();
            let (left, newer) = open
                .get_mut(&key)
                .unwrap_or_else(|| panic!("{key} never sent"));
            *left = left
                .checked_sub(1)
                .unwrap_or_else(|| panic!("{key} comes twice"));
            *newer = false;
        }
    }

    fn leave_guest(&self, n: usize) {
        if self.places.get()[n] == Place::Guest {
            self.this.machine.exit(n);
            self.set(n, Place::Out);
        }
    }

    /// Lets the guest take every interrupt, until the vCPU blocks.
    fn serve(&self, n: usize) {
        self.settle();
        self.leave_guest(n);
        let slept = self.places.get()[n] == Place::Asleep && !self.called.get()[n];
        let seen = self.this.serve(n);
        assert!(
            !slept || seen.is_empty(),
            "vCPU {n} was not woken for {seen:?}"
        );
        self.answer(n, &seen);
        self.set(n, Place::Asleep);
    }

    /// Lets a vCPU in the guest take what is signalled.
    fn take(&self, n: usize) {
        if self.places.get()[n] != Place::Guest {
            return;
        }
        self.settle();
        let mut seen = Vec::new();
        self.this.take(n, &mut seen);
        // A maintenance interrupt is an exit too.
        let kicked = self.called.get()[n] || self.this.machine.guest(n).maintenance();
        self.this.machine.exit(n);
        self.this.machine.enter(n);
        let mut more = Vec::new();
        self.this.take(n, &mut more);
        assert!(
            kicked || more.is_empty(),
            "vCPU {n} was not kicked for {more:?}"
        );
        self.answer(n, &seen);
        self.answer(n, &more);
        self.set(n, Place::Guest);
    }

    /// Lets the guest set its CPU interface up.
    fn set_up(&self, n: usize) {
        let machine = &self.this.machine;
        machine.enter(n);
        machine.guest(n).write_igrpen1(true);
        let _ = machine.guest(n).write_pmr(0xf8);
        machine.exit(n);
        machine.sysreg(n, SysReg::Pmr, 0xf8);
        self.set(n, Place::Out);
    }

    /// Does what a hypervisor does with a kick or a wake-up.
    fn respond(&self, n: usize) {
        let machine = &self.this.machine;
        self.note();
        match self.places.get()[n] {
            Place::Guest => {
                machine.exit(n);
                machine.enter(n);
                self.set(n, Place::Guest);
            }
            Place::Asleep if self.called.get()[n] => {
                let again = machine.vm.block(&machine.cpus[n].pin(), vcpu(n));
                let blocked = again.unwrap_or_else(|_| {
                    machine.enter(n);
                    machine.exit(n);
                    machine.block(n)
                });
                let asleep = blocked == Blocked::Yes;
                self.set(n, if asleep { Place::Asleep } else { Place::Out });
            }
            Place::Out => {
                machine.enter(n);
                machine.exit(n);
            }
            Place::Asleep => {}
        }
        self.this.handle_doorbells();
        self.note();
    }

    fn put(&self) {
        for n in 1..VCPUS {
            let was = self.places.get()[n];
            if was == Place::Guest {
                self.leave_guest(n);
            }
        }
        self.this.machine.put_all();
    }

    /// Writes `GICD_CTLR`.
    fn group_write(&self) {
        self.this
            .machine
            .write(0, GICD, self.groups.get() | self.ask.get());
    }

    /// Waits for RWP of a redistributor that disables LPIs, as the guest does.
    fn stored(&self, n: usize) {
        if !self.storing.get()[n] {
            return;
        }
        for other in 1..VCPUS {
            self.respond(other);
        }
        let gicr = self.this.machine.gicr(n);
        for _ in 0..10_000 {
            self.this.machine.advance();
            if self.this.machine.read(0, gicr) & 1 << 3 == 0 {
                let mut storing = self.storing.get();
                storing[n] = false;
                self.storing.set(storing);
                return;
            }
        }
        panic!("RWP of vCPU {n} for ever");
    }

    /// Enables the LPIs of a vCPU, or disables them.
    fn lpis(&self, n: usize, on: bool) {
        let gicr = self.this.machine.gicr(n);
        let now = self.this.machine.read(0, gicr) & 1 != 0;
        if now == on {
            return;
        }
        if on {
            self.stored(n);
            self.this.machine.write(0, gicr, 1);
        } else {
            self.this.machine.write(0, gicr, 0);
            let mut storing = self.storing.get();
            storing[n] = true;
            self.storing.set(storing);
        }
    }

    /// Enables the ITS, or disables it.
    fn its(&self, on: bool) {
        self.its_on.set(on);
        self.this.machine.write(0, GITS, on.into());
        self.this.machine.advance();
    }

    /// Sends an MSI; `late` for one whose physical LPI no CPU takes for now.
    fn send(&self, event: u32, late: bool) {
        self.this.machine.advance();
        if !self.its_on.get() {
            return;
        }
        self.sent(LPI + event);
        if late {
            self.this.model.send_to_busy_cpu(DEVICE, event);
            return;
        }
        let sent = self.this.model.send(DEVICE, event);
        assert_ne!(sent, Sent::Held);
        if sent == Sent::Software {
            self.this.machine.inject_msi(DEVICE, event).unwrap();
        }
    }

    fn step(&self, step: Step) {
        let (this, machine, its) = (self.this, &self.this.machine, self.its);
        let device = u64::from(DEVICE);
        match step {
            Step::Msi(event) => self.send(event, false),
            Step::LateMsi(event) => self.send(event, true),
            Step::Serve(n) => self.serve(n),
            Step::Run(n) if self.places.get()[n] != Place::Guest => {
                machine.enter(n);
                self.set(n, Place::Guest);
            }
            Step::Take(n) => self.take(n),
            Step::Put => self.put(),
            Step::Hop(n) => {
                self.put();
                let cpu = &machine.cpus[SPARE];
                let pin = cpu.pin();
                machine.vm.enter(&pin, vcpu(n)).unwrap();
                machine.vm.exit(&pin, vcpu(n)).unwrap();
                let blocked = machine.vm.block(&pin, vcpu(n)).unwrap();
                self.note();
                let asleep = blocked == Blocked::Yes;
                self.set(n, if asleep { Place::Asleep } else { Place::Out });
                machine.vm.vcpu_put(&pin, vcpu(n)).unwrap();
            }
            Step::Advance => self.settle(),
            Step::Respond(n) => self.respond(n),
            Step::HasPending(n) if self.places.get()[n] != Place::Guest => {
                self.settle();
                let slept = self.places.get()[n] == Place::Asleep && !self.called.get()[n];
                let found = machine.vm.has_pending(&machine.cpus[n].pin(), vcpu(n));
                // A vCPU that was put is not asked.
                if found.is_ok_and(|found| found) {
                    assert!(!slept, "vCPU {n} was not woken");
                    self.set(n, Place::Out);
                }
            }
            Step::Cycle(n) => {
                self.leave_guest(n);
                machine.power_off(n);
                self.note();
                machine.vm.power_on(vcpu(n));
                self.set_up(n);
            }
            Step::Remove(n) => {
                self.stored(n);
                self.settle();
                self.leave_guest(n);
                machine.power_off(n);
                {
                    let pin = machine.pin();
                    machine.vm.remove_vcpu(&pin, vcpu(n)).unwrap();
                    machine.advance();
                    machine.vm.add_vcpu(&pin, affinity(n)).unwrap();
                }
                for sgi in 1..3 {
                    self.dropped(key(n, sgi));
                }
                for event in 0..EVENTS {
                    // LPIs that are pending stay so, but perhaps in a table that is not read.
                    self.dropped(LPI + event);
                }
                machine.vm.power_on(vcpu(n));
                machine.write(0, machine.gicr(n) + 0x1_0080, u32::MAX);
                machine.write(0, machine.gicr(n) + 0x14, 0);
                machine.write64(0, machine.gicr(n) + 0x78, 1 << 62 | its::pending_table(n));
                machine.write(0, machine.gicr(n), 1);
                machine.write(0, machine.gicr(n) + 0x1_0100, 0xffff);
                let on = self.its_on.get();
                self.its(true);
                its.mapc(n as u64, Some(n as u64));
                self.its(on);
                self.set_up(n);
            }
            Step::Vcpu(n, on) => {
                let pin = machine.pin();
                machine.vm.set_direct_vcpu(&pin, vcpu(n), on).unwrap();
            }
            Step::Device(on) => {
                this.model.set_device(DEVICE, on);
                let pin = machine.pin();
                machine
                    .vm
                    .settle_direct(&pin, vgic::intid::ItsId(0))
                    .unwrap();
            }
            Step::Move(event, n) if self.its_on.get() => its.movi(device, event.into(), n as u64),
            Step::MoveAll(from, to) if self.its_on.get() => its.movall(from as u64, to as u64),
            Step::Int(event) if self.its_on.get() => {
                self.sent(LPI + event);
                its.int(device, event.into());
            }
            Step::Clear(event) if self.its_on.get() => {
                self.dropped(LPI + event);
                its.clear(device, event.into());
            }
            Step::Remap(event, n) if self.its_on.get() => {
                self.dropped(LPI + event);
                its.discard(device, event.into());
                its.mapti(device, event.into(), (LPI + event).into(), n as u64);
            }
            Step::Lpis(n, on) => self.lpis(n, on),
            Step::Its(on) => self.its(on),
            Step::Groups(groups) => {
                self.groups.set(groups);
                self.group_write();
            }
            Step::Configure(event, on, by) => {
                let lpi = LPI + event;
                its.configure(lpi.into(), 0xa0, on);
                match by {
                    0 if self.its_on.get() => its.inv(device, event.into()),
                    1 if self.its_on.get() => (1..VCPUS).for_each(|n| its.invall(n as u64)),
                    _ => machine.write64(0, machine.gicr(0) + 0xa0, lpi.into()),
                }
            }
            Step::Sgi(n, sgi) => {
                self.sent(key(n, sgi));
                machine.sysreg(0, SysReg::Sgi1r, u64::from(sgi) << 24 | 1 << n);
            }
            Step::EnableSgi(n, sgi, on) => {
                let register = if on { 0x1_0100 } else { 0x1_0180 };
                machine.write(0, machine.gicr(n) + register, 1 << sgi);
            }
            Step::SetSgi(n, sgi) => {
                self.sent(key(n, sgi));
                machine.write(0, machine.gicr(n) + 0x1_0200, 1 << sgi);
            }
            Step::ClearSgi(n, sgi) => {
                self.dropped(key(n, sgi));
                machine.write(0, machine.gicr(n) + 0x1_0280, 1 << sgi);
            }
            Step::Ask(on) => {
                self.ask.set(if on { NASSGI } else { 0 });
                machine.write(0, GICD, 0);
                self.group_write();
            }
            Step::Save => {
                self.put();
                let _ = machine.vm.save(&machine.pin()).unwrap();
            }
            Step::Restore => {
                self.settle();
                (1..VCPUS).for_each(|n| self.stored(n));
                self.put();
                let pin = machine.pin();
                let state = machine.vm.save(&pin).unwrap();
                machine.vm.restore(&pin, &state).unwrap();
                // The embedder enters every vCPU anew.
                self.places.set([Place::Out; VCPUS]);
            }
            Step::Freeze => {
                self.put();
                let pin = machine.pin();
                let state = machine.vm.freeze(&pin).unwrap();
                machine.vm.thaw(&pin, &state).unwrap();
            }
            _ => {}
        }
        this.handle_doorbells();
        self.note();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Changes everything at random. No interrupt is lost, none comes twice, and each wakes or
    /// kicks its vCPU.
    #[test]
    fn every_interrupt_reaches_its_vcpu(v4_1 in any::<bool>(), steps in steps()) {
        let version = if v4_1 { Version::V4_1 } else { Version::V4_0 };
        let config = Config::new((0..VCPUS).map(affinity).collect()).with_its(GITS);
        let this = Direct::with_config(version, config);
        for n in 0..VCPUS {
            this.set_vcpu(n, true).unwrap();
        }
        this.set_device(true).unwrap();
        let driver = Driver::new(&this.machine);
        driver.mapd(DEVICE.into(), 2);
        for event in 0..EVENTS {
            driver.map(DEVICE.into(), event.into(), (LPI + event).into(), u64::from(1 + event % 2));
        }
        for n in 0..VCPUS {
            this.machine.write(0, this.machine.gicr(n) + 0x1_0100, 0xffff);
            this.serve(n);
        }
        this.machine.vm.vcpu_put(&this.machine.pin(), vcpu(0)).unwrap();

        let world = World {
            this: &this,
            its: &driver,
            places: Cell::new([Place::Asleep; VCPUS]),
            called: Cell::new([false; VCPUS]),
            open: RefCell::default(),
            groups: Cell::new(3),
            ask: Cell::new(0),
            its_on: Cell::new(true),
            storing: Cell::new([false; VCPUS]),
        };
        world.note();
        for step in steps {
            world.step(step);
        }

        world.settle();
        world.groups.set(3);
        world.group_write();
        for n in 1..VCPUS {
            world.lpis(n, true);
            this.machine.write(0, this.machine.gicr(n) + 0x1_0100, 0xffff);
        }
        world.its(true);
        for event in 0..EVENTS {
            driver.configure((LPI + event).into(), 0xa0, true);
            driver.inv(DEVICE.into(), event.into());
        }
        this.handle_lpis();
        for n in [1, 2, 1, 2] {
            world.serve(n);
        }
        for (lpi, (_, newer)) in world.open.borrow().iter() {
            prop_assert!(!newer, "{lpi} is lost");
        }
        this.finish();
    }
}

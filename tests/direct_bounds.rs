//! Bounded waits for a physical ITS: the most of one trap or slice, for any preparation by the
//! guest, with every event direct. The bounds are those of SECURITY.md.
#![cfg(not(miri))]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use common::gicv4::Model;
use common::its::{COLLECTION_TABLE, DEVICE_TABLE, Driver};
use common::{GITS, Machine, RAM, TestHost, affinity, vcpu};
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::ItsId;
use vgic::{Blocked, Config};

/// Bounds of each kind of operation: waits for a physical ITS, and commands to it.
const BOUNDS: [(&str, u64, u64); 7] = [
    (ITS, 40, 250),
    (RELOAD, 33, 520),
    ("GICR_INVLPIR", 1, 2),
    ("GICR_CTLR", 33, 520),
    ("entry", 1, 2),
    ("exit, block, put, injection, doorbell", 0, 0),
    (ADVANCE, 73, 770),
];

const ITS: &str = "ITS register, or a slice of its commands";
const RELOAD: &str = "GICR_INVALLR, or a slice of it";
const ADVANCE: &str = "advance, with everything deferred";
const QUIET: &str = "exit, block, put, injection, doorbell";

const VCPUS: usize = 20;
/// Devices with 512 events each.
const DEVICES: u64 = 4;
const EVENTS: u64 = 512;
const LPIS: u64 = DEVICES * EVENTS;
const QUEUE: u64 = RAM + 0x40_0000;
const QUEUE_COMMANDS: u64 = 0x10_0000 / 32;
const VALID: u64 = 1 << 63;

/// A machine with the largest work measured of each kind of operation.
struct Meter {
    machine: Machine,
    model: Arc<Model>,
    worst: RefCell<BTreeMap<&'static str, (u64, u64)>>,
    /// Priority that the LPIs have in the table in memory.
    priority: Cell<u8>,
}

impl Meter {
    /// Returns a VM whose events are direct, and go to its vCPUs in turn.
    fn new() -> Self {
        let model = Arc::new(Model::default());
        let host = TestHost::with_gicv4(model.clone());
        let mut config = Config::new((0..VCPUS).map(affinity).collect()).with_its(GITS);
        config.lpis = LPIS as u32;
        let machine = Machine::with_host(Arc::default(), 0, config, NEOVERSE, host);
        machine.set_up();
        for n in 0..VCPUS {
            let set = machine.vm.set_direct_vcpu(&machine.pin(), vcpu(n), true);
            set.unwrap();
        }
        for device in 0..DEVICES {
            model.set_device(device as u32, true);
        }

        let this = Self {
            machine,
            model,
            worst: RefCell::default(),
            priority: Cell::new(0),
        };
        Driver::new(&this.machine);
        this.map_all();
        assert_eq!(this.direct_events(), LPIS as u32);
        this
    }

    fn direct_events(&self) -> u32 {
        let of = |n| self.machine.vm.direct_events(&self.machine.pin(), vcpu(n));
        (0..VCPUS).map(|n| of(n).unwrap()).sum()
    }

    fn measure<R>(&self, kind: &'static str, operation: impl FnOnce() -> R) -> R {
        self.model.take_work();
        let result = operation();
        let (waits, commands) = self.model.take_work();
        let (_, most, most_commands) = BOUNDS.into_iter().find(|(name, ..)| *name == kind).unwrap();
        assert!(waits <= most, "{kind}: {waits} waits, at most {most}");
        assert!(
            commands <= most_commands,
            "{kind}: {commands} commands, at most {most_commands}"
        );

        let mut worst = self.worst.borrow_mut();
        let worst = worst.entry(kind).or_default();
        *worst = (worst.0.max(waits), worst.1.max(commands));
        self.machine.vm.host().take_calls();
        result
    }

    /// Does all deferred work.
    fn advance(&self, kind: &'static str) {
        while self.machine.vm.has_deferred() {
            self.measure(kind, || {
                self.machine.vm.advance(&self.machine.pin()).unwrap()
            });
        }
    }

    /// Gives every LPI another priority in memory, for an invalidation to find.
    fn change_configurations(&self) {
        let priority = self.priority.get().wrapping_add(8);
        self.priority.set(priority);
        let bytes = vec![priority | 1; LPIS as usize];
        self.machine
            .vm
            .host()
            .write_ram(common::its::PROPERTIES, &bytes);
    }

    /// Executes a queue of these commands, of which none sees the configurations of the last slice.
    fn run(&self, commands: impl Iterator<Item = [u64; 4]>) {
        let machine = &self.machine;
        let commands: Vec<_> = commands.collect();
        assert!((commands.len() as u64) < QUEUE_COMMANDS);
        let end = common::its::write_commands(machine.vm.host(), QUEUE, &commands);
        let polled = |at| self.measure(ITS, || machine.read64(0, GITS + at));

        self.measure(ITS, || machine.write64(0, GITS + 0x88, end));
        while polled(0x90) != end {
            self.change_configurations();
        }
        // The next queue is from the start.
        self.enable(false);
        self.measure(ITS, || {
            machine.write64(0, GITS + 0x80, VALID | QUEUE | 0xff)
        });
        self.enable(true);
    }

    /// Writes `GITS_CTLR.Enabled`, and waits until the events have their paths.
    fn enable(&self, on: bool) {
        self.measure(ITS, || self.machine.write(0, GITS, on.into()));
        self.advance(ITS);
        let direct = if on { None } else { Some(0) };
        assert!(direct.is_none_or(|direct| self.direct_events() == direct));
    }

    fn map_all(&self) {
        let machine = &self.machine;
        machine.write(0, GITS, 0);
        machine.write64(0, GITS + 0x80, VALID | QUEUE | 0xff);
        machine.write(0, GITS, 1);
        let maps = (0..VCPUS as u64).map(|n| [0x09, 0, VALID | n << 16 | n, 0]);
        let devices = (0..DEVICES).map(|device| [0x08 | device << 32, 8, VALID, 0]);
        self.run(maps.chain(devices).chain(events().map(mapti)));
        self.advance(ITS);
    }

    fn report(&self) {
        for (kind, (waits, commands)) in &*self.worst.borrow() {
            println!("{kind}: at most {waits} waits, {commands} commands");
        }
    }
}

/// Returns every event: DeviceID, EventID.
fn events() -> impl Iterator<Item = (u64, u64)> {
    (0..DEVICES).flat_map(|device| (0..EVENTS).map(move |event| (device, event)))
}

/// Returns the collection of an event: neighbours have different ones.
fn icid((device, event): (u64, u64)) -> u64 {
    (device * EVENTS + event) % VCPUS as u64
}

fn mapti((device, event): (u64, u64)) -> [u64; 4] {
    let intid = 8192 + device * EVENTS + event;
    [
        0x0a | device << 32,
        event | intid << 32,
        icid((device, event)),
        0,
    ]
}

/// Returns a command on each event.
fn each(number: u64, icid: impl Fn((u64, u64)) -> u64) -> impl Iterator<Item = [u64; 4]> {
    events().map(move |at| [number | at.0 << 32, at.1, icid(at), 0])
}

#[test]
fn commands_on_direct_events() {
    let meter = Meter::new();
    for n in 0..VCPUS {
        meter.machine.enter(n);
    }

    // INT, CLEAR, INV of changed configurations, and moves to the next vCPU and back.
    for number in [0x03, 0x04, 0x0c] {
        meter.run(each(number, icid));
    }
    for step in [1, 0] {
        meter.run(each(0x01, |at| (icid(at) + step) % VCPUS as u64));
    }
    meter.run((0..40 * VCPUS as u64).map(|n| [0x0d, 0, n % VCPUS as u64, 0]));

    // All in one collection that moves, and has others' vCPUs in between.
    meter.run(each(0x01, |_| 0));
    let moves = (0..40).map(|n| [0x09, 0, VALID | (n % VCPUS as u64) << 16, 0]);
    meter.run(moves.chain([[0x09, 0, VALID, 0], [0x0d, 0, 0, 0]]));
    meter.run((0..10).map(|n| [0x0e, 0, (n & 1) << 16, (n & 1 ^ 1) << 16]));
    let again = meter
        .machine
        .vm
        .settle_direct(&meter.machine.pin(), ItsId(0));
    again.unwrap();
    meter.advance(ITS);

    // Unmapped one by one, by a new mapping, and with their devices.
    let others = |at: (u64, u64)| mapti((at.0, at.1 ^ 1));
    let swapped = events().map(|at| {
        let [code, word, icid, _] = others(at);
        [code, word & !0xffff_ffff | at.1, icid, 0]
    });
    meter.run(events().map(mapti));
    meter.run(swapped);
    meter.run(each(0x0f, icid));
    meter.run(events().map(mapti));
    meter.run((0..DEVICES).map(|device| [0x08 | device << 32, 8, VALID, 0]));
    meter.run(events().map(mapti));

    // The tables go while the events are direct.
    for (at, table) in [(0x108, COLLECTION_TABLE), (0x100, DEVICE_TABLE | 0xf)] {
        let machine = &meter.machine;
        meter.measure(ITS, || machine.write(0, GITS, 0));
        meter.measure(ITS, || machine.write64(0, GITS + at, 0));
        meter.advance(ITS);
        machine.write64(0, GITS + at, VALID | table);
        machine.write(0, GITS, 1);
        meter.map_all();
    }

    meter.report();
    meter.machine.finish();
    meter.model.check_empty();
}

#[test]
fn redistributors_and_vcpus_with_direct_events() {
    let meter = Meter::new();
    let machine = &meter.machine;
    for n in 0..VCPUS {
        machine.enter(n);
    }

    for _ in 0..3 {
        meter.change_configurations();
        meter.measure(RELOAD, || machine.write64(0, machine.gicr(0) + 0xb0, 0));
        meter.advance(RELOAD);
    }
    meter.change_configurations();
    for lpi in 0..LPIS {
        let at = machine.gicr(0) + 0xa0;
        meter.measure("GICR_INVLPIR", || machine.write64(0, at, 8192 + lpi));
    }

    // LPIs of all vCPUs off and on, with changed configurations.
    for on in [0, 1, 0, 1] {
        for n in 0..VCPUS {
            meter.change_configurations();
            meter.measure("GICR_CTLR", || machine.write(0, machine.gicr(n), on));
            for _ in 0..4 {
                meter.measure("GICR_CTLR", || machine.read(0, machine.gicr(n)));
            }
        }
        meter.advance(ADVANCE);
        (0..VCPUS).for_each(|n| machine.bounce(n));
        meter.advance(ADVANCE);
    }
    assert_eq!(meter.direct_events(), LPIS as u32);

    // Those of one vCPU, beside others that are direct.
    for on in [0, 1] {
        meter.change_configurations();
        meter.measure("GICR_CTLR", || machine.write(0, machine.gicr(2), on));
        meter.advance(ADVANCE);
        machine.bounce(2);
        meter.advance(ADVANCE);
    }

    // Everything at once.
    machine.write(0, machine.gicr(1), 0);
    machine.write(0, machine.gicr(1), 1);
    machine.write(0, GITS, 0);
    machine.write(0, GITS, 1);
    for _ in 0..200 {
        meter.change_configurations();
        machine.write64(0, machine.gicr(0) + 0xb0, 0);
        meter.measure(ADVANCE, || machine.vm.advance(&machine.pin()).unwrap());
    }
    meter.advance(ADVANCE);

    // To the next CPU and back, with MSIs pending.
    for step in [1, 0, 7] {
        for n in 0..VCPUS {
            meter.model.send(0, n as u32);
        }
        machine.put_all();
        for n in 0..VCPUS {
            let cpu = &machine.cpus[(n + step) % VCPUS];
            let (vm, id) = (&machine.vm, vcpu(n));
            meter.measure("entry", || vm.enter(&cpu.pin(), id).unwrap());
            meter.measure(QUIET, || {
                machine.inject_msi(0, n as u32).unwrap();
                vm.doorbell(&cpu.pin(), id).unwrap();
                vm.exit(&cpu.pin(), id).unwrap();
                assert_eq!(vm.block(&cpu.pin(), id), Ok(Blocked::No));
                vm.vcpu_put(&cpu.pin(), id).unwrap();
            });
        }
    }

    meter.report();
    meter.machine.finish();
    meter.model.check_empty();
}

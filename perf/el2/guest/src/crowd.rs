//! A bare-metal guest for EL1 of QEMU's `virt` machine whose vCPUs, two to 64, all take part in a
//! load.
//!
//! The guest is the same under `hyp` and under Linux KVM. A [`load`] is done once to warm up, and
//! once between the plugin's markers. The guest prints the number of events of the second time.
//! Interrupts stay masked, and each vCPU polls its CPU interface: all vCPUs run all the time.
//!
//! Each counter has one writer, and vCPUs wait for each other without an atomic operation: the
//! guest's part is at EL1, and costs the hypervisor nothing.
//!
//! MSIs come from devices of the machine if `x0` holds a device tree, otherwise from user space.
#![no_std]
#![no_main]

mod boot;
#[allow(dead_code, reason = "each guest uses its part")]
mod cpu;
mod fault;
#[allow(dead_code, reason = "each guest uses its part")]
mod gic;
#[allow(dead_code, reason = "each guest uses its part")]
mod host;
#[allow(dead_code, reason = "each guest uses its part")]
mod its;
#[path = "../../load.rs"]
mod load;
mod mmio;
#[allow(dead_code, reason = "each guest uses its part")]
mod pci;

use core::array;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cpu::{handle_interrupt, mark, relax};
use fault::fault;
use host::Console;
use its::{FIRST_LPI, Its};
use load::Load;
use pci::Edu;

/// The program is at EL1.
const IS_AT_EL2: bool = false;

/// Most vCPUs.
const MOST_VCPUS: usize = 64;
/// Devices with events: one for each vCPU, and that of the INT commands.
const MOST_DEVICES: usize = MOST_VCPUS + 1;

/// Rounds of a load that warm up, and those that are measured.
const WARM_UP: u32 = 3;
const ROUNDS: u32 = 20;
/// Moves of one round. Linux KVM hands an interrupt to its new vCPU after milliseconds, at the next
/// exit of the last one.
const MOVES: u32 = 2;

/// SGI of the ring, and of the broadcast.
const RING: u32 = 3;
const ALL: u32 = 4;

/// First of the SPIs of the vCPUs.
const FIRST_SPI: u32 = 128;

/// DeviceID of the INT commands.
const COMMAND_DEVICE: u32 = 300;
/// DeviceID of the first device of user space.
const USER_DEVICE: u32 = 400;

/// Register of the client of /dev/kvm: asks for the MSI with the DeviceID above and the EventID in
/// the lower half.
const DOORBELL: usize = 0x0b00_0000;

/// Events of each device: to a vCPU of its own, and to vCPU 0.
const DISTINCT: u32 = 0;
const ONE: u32 = 1;

/// Indices of LPIs: those of the devices' events, of the ring's and of the event that moves.
const fn device_lpi(device: u32, event: u32) -> u32 {
    event * MOST_VCPUS as u32 + device
}
const RING_LPIS: u32 = 2 * MOST_VCPUS as u32;
const MOVED_LPI: u32 = RING_LPIS + MOST_VCPUS as u32;

/// Counter in a line of its own.
#[repr(align(128))]
struct Counter(AtomicU32);

impl Counter {
    /// Returns a zero.
    const fn zero() -> Self {
        Self(AtomicU32::new(0))
    }

    fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn set(&self, value: u32) {
        self.0.store(value, Relaxed);
    }

    /// Adds one. The counter has one writer at a time.
    fn count(&self) {
        self.set(self.get() + 1);
    }
}

/// Number of SGIs that each vCPU has handled, of its SPI, and of LPIs by their index.
static SGIS: [Counter; MOST_VCPUS] = [const { Counter::zero() }; MOST_VCPUS];
static SPIS: [Counter; MOST_VCPUS] = [const { Counter::zero() }; MOST_VCPUS];
static LPIS: [Counter; MOVED_LPI as usize + 1] =
    [const { Counter::zero() }; MOVED_LPI as usize + 1];

/// Number of vCPUs.
static VCPUS: Counter = Counter::zero();
/// 1 if devices of the machine send the MSIs.
static HAS_DEVICES: Counter = Counter::zero();

/// Number of the phase that all vCPUs work on, its load and rounds, and the last phase that each
/// vCPU has done.
static PHASE: Counter = Counter::zero();
static LOAD: Counter = Counter::zero();
static PHASE_ROUNDS: Counter = Counter::zero();
static DONE: [Counter; MOST_VCPUS] = [const { Counter::zero() }; MOST_VCPUS];

/// Number of times that the last vCPU has been asked to turn itself off, and that it has begun.
static UNPLUGS: Counter = Counter::zero();
static BEGINS: Counter = Counter::zero();
/// Last phase whose plugging is over.
static PLUGGED: Counter = Counter::zero();

/// Number of times that the ring's interrupt is still sent on.
static LEFT: Counter = Counter::zero();
/// Number of rings that have ended.
static RINGS: Counter = Counter::zero();

static ITS: Its = Its::new();

/// Sets everything up on vCPU 0, and does each load. `tree` is the address of the device tree, or
/// 0.
extern "C" fn first(tree: u64) -> ! {
    gic::open_distributor();
    let last = (0..MOST_VCPUS).find(|&vcpu| gic::is_last(vcpu));
    let vcpus = last.expect("too many vCPUs") as u32 + 1;
    VCPUS.set(vcpus);
    for vcpu in 0..vcpus {
        gic::open_redistributor(vcpu as usize, cpu::TIMER);
        gic::configure_spi(FIRST_SPI + vcpu, cpu::affinity(vcpu));
        gic::enable(FIRST_SPI + vcpu);
    }
    cpu::open_interface();
    let devices = map_events(tree != 0, vcpus);

    for vcpu in 1..vcpus {
        host::start_vcpu(vcpu);
    }
    // The first marker starts the directory.
    mark::<{ Load::end() }>();
    do_phase(Load::Nothing, 1);

    measure::<{ Load::Nothing.begin() }>(Load::Nothing, vcpus);
    measure::<{ Load::Ring.begin() }>(Load::Ring, vcpus);
    measure::<{ Load::Broadcast.begin() }>(Load::Broadcast, 1);
    measure::<{ Load::Distinct.begin() }>(Load::Distinct, vcpus);
    for device in devices.iter().flatten() {
        device.set_event(ONE);
    }
    measure::<{ Load::One.begin() }>(Load::One, vcpus);
    measure::<{ Load::Command.begin() }>(Load::Command, vcpus);
    measure::<{ Load::Spi.begin() }>(Load::Spi, vcpus);
    measure::<{ Load::Move.begin() }>(Load::Move, MOVES);
    measure::<{ Load::Plug.begin() }>(Load::Plug, 1);

    let _ = writeln!(Console, "guest: done");
    host::power_off()
}

/// Maps the events of all devices.
fn map_events(has_devices: bool, vcpus: u32) -> [Option<Edu>; MOST_VCPUS] {
    HAS_DEVICES.set(has_devices.into());
    ITS.open(vcpus as usize);
    let devices = array::from_fn(|number| {
        let is_used = has_devices && number < vcpus as usize;
        is_used.then(|| Edu::find(number as u32).expect("the machine has a device for each vCPU"))
    });

    for (number, device) in (0..vcpus).zip(&devices) {
        let user = USER_DEVICE + number;
        let device = device.as_ref().map_or(user, |device| device.device);
        ITS.map_device(device);
        let next = (number + 1) % vcpus;
        for (event, target) in [(DISTINCT, next), (ONE, 0)] {
            let lpi = FIRST_LPI + device_lpi(number, event);
            ITS.map_event(device, event, lpi, target.into());
        }
    }

    ITS.map_device(COMMAND_DEVICE);
    for vcpu in 0..vcpus {
        let lpi = FIRST_LPI + RING_LPIS + vcpu;
        ITS.map_event(COMMAND_DEVICE, vcpu, lpi, vcpu.into());
    }
    ITS.map_event(COMMAND_DEVICE, vcpus, FIRST_LPI + MOVED_LPI, 0);
    devices
}

/// Does a load with all vCPUs: to warm up, then between the markers. A round has `events` events.
#[inline(always)]
fn measure<const MARKER: u16>(load: Load, events: u32) {
    do_phase(load, WARM_UP);
    mark::<MARKER>();
    do_phase(load, ROUNDS);
    mark::<{ Load::end() }>();
    let _ = writeln!(Console, "guest: {} {}", load.keyword(), events * ROUNDS);
}

/// Does a load with all vCPUs, and waits for them.
#[inline(never)]
fn do_phase(load: Load, rounds: u32) {
    LOAD.set(load as u32);
    PHASE_ROUNDS.set(rounds);
    PHASE.count();
    work(0);
    let vcpus = VCPUS.get() as usize;
    for done in &DONE[1..vcpus] {
        wait_until(0, || done.get() == PHASE.get());
    }
}

/// Does the part of a vCPU in a phase.
fn work(vcpu: u32) {
    let (load, rounds, vcpus) = (LOAD.get(), PHASE_ROUNDS.get(), VCPUS.get());
    if load == Load::Nothing as u32 {
        for _ in 0..rounds {
            host::psci_version();
            relax();
        }
    } else if load == Load::Distinct as u32 {
        (0..rounds).for_each(|_| send_msi(vcpu, DISTINCT));
    } else if load == Load::One as u32 {
        (0..rounds).for_each(|_| send_msi(vcpu, ONE));
    } else if load == Load::Spi as u32 {
        (0..rounds).for_each(|_| send_spi(vcpu, (vcpu + 1) % vcpus));
    } else if load == Load::Plug as u32 {
        plug(vcpu, rounds);
    } else if vcpu != 0 {
        // The other loads begin on vCPU 0.
    } else if load == Load::Broadcast as u32 {
        (0..rounds).for_each(|_| broadcast(vcpus));
    } else if load == Load::Move as u32 {
        // To and fro between two vCPUs other than vCPU 0, which moves it, if there are two.
        let others = MOVES.min(vcpus - 1);
        (0..rounds * MOVES).for_each(|number| move_event(1 + number % others));
    } else {
        let rings = RINGS.get();
        LEFT.set(rounds * vcpus);
        pass_on(vcpu);
        wait_until(vcpu, || RINGS.get() != rings);
    }
}

/// Sends an MSI of a vCPU's device, and waits until it is handled.
fn send_msi(vcpu: u32, event: u32) {
    let answers = &LPIS[device_lpi(vcpu, event) as usize];
    let before = answers.get();
    if HAS_DEVICES.get() != 0 {
        Edu::raise_numbered(vcpu);
    } else {
        let device = u64::from(USER_DEVICE + vcpu);
        mmio::write_64(DOORBELL, device << 32 | u64::from(event));
    }
    wait_until(vcpu, || answers.get() != before);
}

/// Makes the SPI of the vCPU `target` pending, and waits until it is handled.
fn send_spi(vcpu: u32, target: u32) {
    let handled = &SPIS[target as usize];
    let before = handled.get();
    gic::set_pending(FIRST_SPI + target);
    wait_until(vcpu, || handled.get() != before);
}

/// Sends an SGI from vCPU 0 to all others, and waits until it is handled.
fn broadcast(vcpus: u32) {
    let expected = SGIS[1].get() + 1;
    cpu::send_sgi_to_others(ALL);
    for handled in &SGIS[1..vcpus as usize] {
        wait_until(0, || handled.get() == expected);
    }
}

/// Moves an event to a vCPU, raises it, and waits until its LPI is handled.
fn move_event(target: u32) {
    let event = VCPUS.get();
    let answers = &LPIS[MOVED_LPI as usize];
    let before = answers.get();
    ITS.move_event(COMMAND_DEVICE, event, target.into());
    ITS.raise(COMMAND_DEVICE, event);
    wait_until(0, || answers.get() != before);
}

/// Has the last vCPU turned off and on by vCPU 0, `rounds` times, while the others do hypercalls.
fn plug(vcpu: u32, rounds: u32) {
    let (last, phase) = (VCPUS.get() - 1, PHASE.get());
    if vcpu == 0 {
        for _ in 0..rounds {
            let begins = BEGINS.get();
            UNPLUGS.count();
            relax();
            while !host::try_start_vcpu(last) {
                relax();
            }
            wait_until(0, || BEGINS.get() != begins);
        }
        PLUGGED.set(phase);
    } else if vcpu != last {
        while PLUGGED.get() != phase {
            host::psci_version();
            relax();
        }
    }
}

/// Sends the ring's interrupt to the vCPU after this one, or ends the ring.
fn pass_on(vcpu: u32) {
    let left = LEFT.get();
    if left == 0 {
        RINGS.count();
        return;
    }
    LEFT.set(left - 1);
    let next = (vcpu + 1) % VCPUS.get();
    if LOAD.get() == Load::Ring as u32 {
        cpu::send_sgi(RING, next);
    } else {
        ITS.raise(COMMAND_DEVICE, next);
    }
}

/// Handles interrupts of a vCPU until a condition is true.
fn wait_until(vcpu: u32, is_true: impl Fn() -> bool) {
    while !is_true() {
        serve(vcpu);
        relax();
    }
}

/// Handles the pending interrupt of a vCPU, if there is one.
fn serve(vcpu: u32) {
    let Some(intid) = handle_interrupt() else {
        return;
    };
    match intid.checked_sub(FIRST_LPI) {
        Some(lpi) => {
            LPIS[lpi as usize].count();
            if (RING_LPIS..MOVED_LPI).contains(&lpi) {
                pass_on(vcpu);
            }
        }
        None if intid == RING => pass_on(vcpu),
        None if intid >= FIRST_SPI => SPIS[vcpu as usize].count(),
        None => SGIS[vcpu as usize].count(),
    }
}

/// Does a vCPU's part in each phase, and handles interrupts in between.
extern "C" fn second(number: u64) -> ! {
    cpu::open_interface();
    let vcpu = number as u32;
    let done = &DONE[number as usize];
    let unplugs = UNPLUGS.get();
    if vcpu + 1 == VCPUS.get() {
        BEGINS.count();
    }
    loop {
        if vcpu + 1 == VCPUS.get() && UNPLUGS.get() != unplugs {
            host::turn_off();
        }
        if PHASE.get() != done.get() {
            let phase = PHASE.get();
            work(vcpu);
            done.set(phase);
        }
        serve(vcpu);
        relax();
    }
}

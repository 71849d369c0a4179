//! A bare-metal guest for EL1 of QEMU's `virt` machine that makes its hypervisor do the measured
//! work.
//!
//! The guest is the same under `hyp` and under Linux KVM. Of its two vCPUs, vCPU 0 does each
//! [`event`] many times between the plugin's markers, and vCPU 1 answers. Interrupts stay masked,
//! and each vCPU polls its CPU interface, so that the guest's part is the same few instructions
//! every time.
//!
//! A VM that has no more than these two vCPUs has one CPU for both. Only the switch between them is
//! measured there.
//!
//! MSIs come from a device of the machine if `x0` holds a device tree, otherwise from user space.
#![no_std]
#![no_main]

mod boot;
#[cfg(feature = "calls")]
#[path = "../../calls.rs"]
mod calls;
#[allow(dead_code, reason = "each guest uses its part")]
mod cpu;
#[path = "../../event.rs"]
mod event;
mod fault;
mod gic;
#[allow(dead_code, reason = "each guest uses its part")]
mod host;
#[allow(dead_code, reason = "each guest uses its part")]
mod its;
#[cfg(feature = "calls")]
mod measured;
mod mmio;
#[allow(dead_code, reason = "each guest uses its part")]
mod pci;
mod sender;

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cpu::{handle_interrupt, mark, relax};
use event::Event;
use fault::fault;
use host::Console;
use its::{FIRST_LPI, Its};
use sender::Sender;

/// The program is at EL1.
const IS_AT_EL2: bool = false;

/// vCPUs: two that run, and one that never does.
const MOST_VCPUS: usize = 3;
/// Devices with events: that of the INT commands, and the sender of MSIs.
const MOST_DEVICES: usize = 2;

/// Measured rounds of each event.
const ROUNDS: u32 = 2000;
/// Measured rounds of events that take milliseconds, and of the switch.
const FEW_ROUNDS: u32 = 300;
/// Rounds before the measured ones.
const WARM_UP: u32 = 20;

/// SPI that is enabled and disabled.
const SPARE_SPI: u32 = 64;
/// SPI of vCPU 1.
const SPI: u32 = 65;
const SGI: u32 = 3;
/// Device of the INT commands.
const COMMAND_DEVICE: u32 = 100;
/// vCPU that never runs.
const OFF: u64 = 2;

/// Behaviour of vCPU 1 between interrupts.
static MODE: AtomicU32 = AtomicU32::new(SPIN);
const SPIN: u32 = 0;
const SLEEP: u32 = 1;
/// vCPU 1 answers each interrupt by one, and sleeps.
const ANSWER: u32 = 2;

/// Time in microseconds that vCPU 1 spins before its answer.
static THINK: AtomicU32 = AtomicU32::new(0);

/// Number of interrupts that vCPU 1 has handled.
static HANDLED: AtomicU32 = AtomicU32::new(0);
/// Value of [`HANDLED`] when vCPU 1 was last about to sleep.
static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// Measures the events on vCPU 0.
extern "C" fn first(tree: u64) -> ! {
    gic::open_distributor();
    let vcpus = if gic::is_last(1) { 2 } else { MOST_VCPUS };
    for vcpu in 0..vcpus {
        gic::open_redistributor(vcpu, cpu::TIMER);
    }
    cpu::open_interface();
    #[cfg(feature = "calls")]
    let has_devices = measured::calibrate();
    #[cfg(not(feature = "calls"))]
    let has_devices = true;
    if vcpus == 2 {
        map_events();
        start_vcpu_1();
        measure_switch();
    } else {
        measure_others(tree, has_devices);
    }
    let _ = writeln!(Console, "guest: done");
    host::power_off()
}

/// Starts vCPU 1. Returns when vCPU 1 answers.
fn start_vcpu_1() {
    host::start_vcpu(1);
    interrupt_and_wait(|| cpu::send_sgi(SGI, 1));
}

/// Maps an event of the first device to each vCPU: with direct injection, a vCPU with such an event
/// takes its virtual PE along in each switch.
fn map_events() {
    const DEVICE: u32 = 1 << 3;
    let its = Its::new();
    its.open(2);
    its.map_device(DEVICE);
    for vcpu in 0..2 {
        its.map_event(DEVICE, vcpu, FIRST_LPI + vcpu, vcpu.into());
    }
}

/// Measures the switch from vCPU 0 to vCPU 1. vCPU 1 ends the event, and switches back.
fn measure_switch() {
    MODE.store(ANSWER, Relaxed);
    ask_vcpu_1();
    // A scheduler owes vCPU 1 time after a sleep, and would take the CPU from vCPU 0 before its
    // WFI. vCPU 1 uses the time up: 2 ms under hyp, and half a millisecond more or less is ignored.
    cpu::spin(10_000);
    THINK.store(1800, Relaxed);
    ask_vcpu_1();
    THINK.store(0, Relaxed);
    // Few rounds: the times that the vCPUs use must not drift apart.
    repeat_event(Event::Switch, FEW_ROUNDS, |round| {
        if round >= WARM_UP {
            mark::<{ Event::Switch.begin() }>();
        }
        ask_vcpu_1();
    });
}

/// Sends an SGI to vCPU 1, and sleeps until vCPU 1 has answered.
#[inline(always)]
fn ask_vcpu_1() {
    cpu::send_sgi(SGI, 1);
    cpu::wait_for_interrupt();
    while handle_interrupt() != Some(SGI) {
        cpu::wait_for_interrupt();
    }
}

/// Measures the events of vCPUs with a CPU each. `tree` is the address of the device tree, or 0. A
/// VM without devices has none that sends MSIs.
fn measure_others(tree: u64, has_devices: bool) {
    gic::configure_spi(SPARE_SPI, 0);
    gic::configure_spi(SPI, 1);
    gic::enable(SPI);

    let its = Its::new();
    its.open(MOST_VCPUS);
    let sender = has_devices.then(|| match tree {
        0 => Sender::UserSpace,
        _ => Sender::Device(pci::Edu::find(0).expect("the machine has a device that sends MSIs")),
    });

    its.map_device(COMMAND_DEVICE);
    its.map_event(COMMAND_DEVICE, 0, FIRST_LPI, 1);
    if let Some(sender) = &sender {
        its.map_device(sender.device());
        its.map_event(sender.device(), Event::Msi as u32, FIRST_LPI + 1, OFF);
        its.map_event(sender.device(), Event::MsiRunning as u32, FIRST_LPI + 2, 1);
        its.map_event(sender.device(), Event::MsiWaiting as u32, FIRST_LPI + 3, 1);
    }

    start_vcpu_1();
    measure_all(&its, sender.as_ref());
}

/// Measures all events but the switch.
fn measure_all(its: &Its, sender: Option<&Sender>) {
    measure::<{ Event::Hypercall.begin() }>(Event::Hypercall, || {
        host::psci_version();
    });
    measure::<{ Event::Read.begin() }>(Event::Read, || {
        mmio::read_32(gic::GICD_TYPER);
    });
    repeat_event(Event::Enable, ROUNDS, |round| {
        with_markers::<{ Event::Enable.begin() }>(round, || gic::enable(SPARE_SPI));
        gic::disable(SPARE_SPI);
    });
    measure::<{ Event::SgiSelf.begin() }>(Event::SgiSelf, || {
        cpu::send_sgi(SGI, 0);
        while handle_interrupt() != Some(SGI) {}
    });
    measure::<{ Event::SgiRunning.begin() }>(Event::SgiRunning, || {
        interrupt_and_wait(|| cpu::send_sgi(SGI, 1));
    });
    measure::<{ Event::Spi.begin() }>(Event::Spi, || interrupt_and_wait(|| gic::set_pending(SPI)));
    measure::<{ Event::Lpi.begin() }>(Event::Lpi, || {
        interrupt_and_wait(|| its.raise(COMMAND_DEVICE, 0))
    });

    measure::<{ Event::Timer.begin() }>(Event::Timer, || {
        cpu::set_timer(50);
        while handle_interrupt() != Some(cpu::TIMER) {}
    });
    if let Some(sender) = sender {
        measure_msis(its, sender);
    }

    MODE.store(SLEEP, Relaxed);
    interrupt_and_wait(|| cpu::send_sgi(SGI, 1));
    repeat_event(Event::SgiWaiting, ROUNDS, |round| {
        wait_until_asleep();
        cpu::spin(20);
        with_markers::<{ Event::SgiWaiting.begin() }>(round, || {
            interrupt_and_wait(|| cpu::send_sgi(SGI, 1))
        });
    });
    repeat_event(Event::SgiAsleep, FEW_ROUNDS, |round| {
        wait_until_asleep();
        sleep(3000);
        with_markers::<{ Event::SgiAsleep.begin() }>(round, || {
            interrupt_and_wait(|| cpu::send_sgi(SGI, 1))
        });
    });
    if let Some(sender) = sender {
        announce(Event::MsiWaiting);
        sender.prepare(Event::MsiWaiting);
        for _ in 0..FEW_ROUNDS {
            wait_until_asleep();
            sleep(3000);
            send_and_wait::<{ Event::MsiWaiting.begin() }>(sender, Event::MsiWaiting);
        }
    }
}

/// Measures the MSIs to vCPUs that do not sleep. There are no warm-up rounds: the sender's work is
/// the same in each round.
fn measure_msis(its: &Its, sender: &Sender) {
    announce(Event::Msi);
    sender.prepare(Event::Msi);
    for _ in 0..ROUNDS {
        sender.send::<{ Event::Msi.begin() }>(Event::Msi, 0, || true);
        its.clear(sender.device(), Event::Msi as u32);
    }
    announce(Event::MsiRunning);
    sender.prepare(Event::MsiRunning);
    for _ in 0..ROUNDS {
        send_and_wait::<{ Event::MsiRunning.begin() }>(sender, Event::MsiRunning);
    }
}

/// Has an MSI sent to vCPU 1, and waits until vCPU 1 has handled it.
#[inline(always)]
fn send_and_wait<const EVENT: u16>(sender: &Sender, event: Event) {
    let before = HANDLED.load(Relaxed);
    let counter = HANDLED.as_ptr().addr();
    sender.send::<EVENT>(event, counter, || HANDLED.load(Relaxed) != before);
}

/// Measures an event in [`ROUNDS`] rounds.
#[inline(always)]
fn measure<const MARKER: u16>(event: Event, act: impl Fn()) {
    repeat_event(event, ROUNDS, |round| with_markers::<MARKER>(round, &act));
}

/// Prints the event that comes next.
fn announce(event: Event) {
    let _ = writeln!(Console, "guest: {event:?}");
}

/// Repeats an event in warm-up and measured rounds.
#[inline(always)]
fn repeat_event(event: Event, rounds: u32, act: impl Fn(u32)) {
    announce(event);
    (0..WARM_UP + rounds).for_each(act);
}

/// Executes an event between markers, or without them in a warm-up round.
#[inline(always)]
fn with_markers<const EVENT: u16>(round: u32, event: impl FnOnce()) {
    if round < WARM_UP {
        event();
    } else {
        mark::<EVENT>();
        event();
        mark::<{ Event::end() }>();
    }
}

/// Calls `interrupt`, which interrupts vCPU 1, and waits until vCPU 1 has handled the interrupt.
#[inline(always)]
fn interrupt_and_wait(interrupt: impl FnOnce()) {
    let before = HANDLED.load(Relaxed);
    interrupt();
    while HANDLED.load(Relaxed) == before {
        relax();
    }
}

/// Waits until vCPU 1 is about to sleep after the last interrupt that it handled.
fn wait_until_asleep() {
    while ASLEEP.load(Relaxed) != HANDLED.load(Relaxed) {
        relax();
    }
}

/// Sleeps for `microseconds`.
fn sleep(microseconds: u64) {
    cpu::set_timer(microseconds);
    while handle_interrupt() != Some(cpu::TIMER) {
        cpu::wait_for_interrupt();
    }
}

/// Handles interrupts on vCPU 1, and counts them.
extern "C" fn second(_number: u64) -> ! {
    cpu::open_interface();
    loop {
        if handle_interrupt().is_some() {
            if MODE.load(Relaxed) == ANSWER {
                mark::<{ Event::end() }>();
                cpu::spin(THINK.load(Relaxed).into());
                cpu::send_sgi(SGI, 0);
            }
            HANDLED.store(HANDLED.load(Relaxed) + 1, Relaxed);
        } else if MODE.load(Relaxed) != SPIN {
            #[cfg(feature = "calls")]
            measured::wait_for_end();
            ASLEEP.store(HANDLED.load(Relaxed), Relaxed);
            cpu::wait_for_interrupt();
        } else {
            relax();
        }
    }
}

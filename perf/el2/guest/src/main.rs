//! A bare-metal guest for EL1 of QEMU's `virt` machine that makes its hypervisor do what is measured.
//!
//! It runs the same under `hyp` and under Linux KVM, on two vCPUs: vCPU 0 does each [`event`] many times
//! between the plugin's markers, vCPU 1 answers. Interrupts stay masked, and each vCPU looks for them
//! at its CPU interface, so that the guest's part is the same few instructions every time.
//!
//! With a device tree in `x0` MSIs come from a device of the machine; without, from user space.
#![no_std]
#![no_main]

mod boot;
mod cpu;
#[path = "../../event.rs"]
mod event;
mod gic;
mod host;
mod its;
mod mmio;
mod pci;

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cpu::{handle_interrupt, mark, relax};
use event::Event;
use host::{Console, Sender};
use its::{FIRST_LPI, Its};

/// How often each event is done; a few times more at first, which are not measured.
const ROUNDS: u32 = 2000;
/// Of the events that take milliseconds.
const FEW_ROUNDS: u32 = 300;
const WARM_UP: u32 = 20;

/// The SPIs: one that is enabled and disabled, one for vCPU 1.
const SPARE_SPI: u32 = 64;
const SPI: u32 = 65;
const SGI: u32 = 3;
/// The device that the INT commands name.
const COMMAND_DEVICE: u32 = 100;
/// The vCPU that never runs.
const OFF: u64 = 2;

/// What vCPU 1 is to do between interrupts.
static MODE: AtomicU32 = AtomicU32::new(SPIN);
const SPIN: u32 = 0;
const SLEEP: u32 = 1;

/// Interrupts that vCPU 1 has handled.
static HANDLED: AtomicU32 = AtomicU32::new(0);
/// Times that vCPU 1 was about to sleep.
static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// vCPU 0.
extern "C" fn first(tree: u64) -> ! {
    gic::open_distributor();
    for vcpu in 0..its::TARGETS {
        gic::open_redistributor(vcpu, cpu::TIMER);
    }
    cpu::open_interface();
    gic::configure_spi(SPARE_SPI, 0);
    gic::configure_spi(SPI, 1);
    gic::enable(SPI);
    let its = Its::open();
    let sender = if tree == 0 {
        Sender::UserSpace
    } else {
        Sender::Device(pci::Edu::find().expect("the machine has a device that sends MSIs"))
    };
    its.map_device(COMMAND_DEVICE);
    its.map_event(COMMAND_DEVICE, 0, FIRST_LPI, 1);
    its.map_device(sender.device());
    its.map_event(sender.device(), Event::Msi as u32, FIRST_LPI + 1, OFF);
    its.map_event(sender.device(), Event::MsiRunning as u32, FIRST_LPI + 2, 1);
    host::start_vcpu_1();
    // It has come up once it answers.
    interrupt_and_wait(|| cpu::send_sgi(SGI, 1));
    measure_all(&its, &sender);
    let _ = writeln!(Console, "guest: done");
    host::power_off()
}

fn measure_all(its: &Its, sender: &Sender) {
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
    measure_msis(its, sender);

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
}

/// Every round is measured: what the sender does is the same each time.
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
        let before = HANDLED.load(Relaxed);
        let counter = HANDLED.as_ptr().addr();
        sender.send::<{ Event::MsiRunning.begin() }>(Event::MsiRunning, counter, || {
            HANDLED.load(Relaxed) != before
        });
    }
}

/// Does the event again and again between markers.
#[inline(always)]
fn measure<const MARKER: u16>(event: Event, act: impl Fn()) {
    repeat_event(event, ROUNDS, |round| with_markers::<MARKER>(round, &act));
}

/// Says how far we are.
fn announce(event: Event) {
    let _ = writeln!(Console, "guest: {event:?}");
}

#[inline(always)]
fn repeat_event(event: Event, rounds: u32, act: impl Fn(u32)) {
    announce(event);
    (0..WARM_UP + rounds).for_each(act);
}

/// Does the event between markers, unless the round is one to warm up.
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

/// Has vCPU 1 interrupted, and waits until it has handled that.
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

/// Sleeps.
fn sleep(microseconds: u64) {
    cpu::set_timer(microseconds);
    while handle_interrupt() != Some(cpu::TIMER) {
        cpu::wait_for_interrupt();
    }
}

/// vCPU 1: handles interrupts and counts them.
extern "C" fn second() -> ! {
    cpu::open_interface();
    loop {
        if handle_interrupt().is_some() {
            HANDLED.store(HANDLED.load(Relaxed) + 1, Relaxed);
        } else if MODE.load(Relaxed) == SLEEP {
            ASLEEP.store(HANDLED.load(Relaxed), Relaxed);
            cpu::wait_for_interrupt();
        } else {
            relax();
        }
    }
}

/// Any exception; entered by the vectors.
extern "C" fn fault(syndrome: u64, pc: u64, address: u64) -> ! {
    let _ = writeln!(
        Console,
        "guest: failed: ESR_EL1 {syndrome:#x}, ELR_EL1 {pc:#x}, FAR_EL1 {address:#x}"
    );
    host::power_off()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "guest: failed: {info}");
    host::power_off()
}

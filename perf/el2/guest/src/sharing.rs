//! A program for EL2 of QEMU's `virt` machine whose CPUs share memory in ways whose cost is known:
//! a counter of all CPUs, a counter of each CPU, and a ticket lock.
//!
//! The CPUs take turns, so that each change of the CPU is a handover, and nobody waits for a lock.
//! The program prints the addresses of the lines that it is about. The line that tells the turn is
//! none of them.
#![no_std]
#![no_main]

mod boot;
#[allow(dead_code, reason = "each guest uses its part")]
mod cpu;
#[allow(dead_code, reason = "each guest uses its part")]
mod host;
#[path = "../../load.rs"]
mod load;
#[allow(dead_code, reason = "each guest uses its part")]
mod mmio;

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cpu::{mark, relax};
use host::Console;
use load::Load;

/// The program is a hypervisor, without a guest.
const IS_AT_EL2: bool = true;

/// CPUs.
const MOST_VCPUS: usize = 4;

/// Turns of each CPU that warm up, and those that are measured.
const WARM_UP: u32 = 2;
const ROUNDS: u32 = 50;

/// Turns of all CPUs.
const fn turns(rounds: u32) -> u32 {
    rounds * MOST_VCPUS as u32
}

/// The loads, in their order.
const LOADS: [Load; 3] = [Load::SharedCounter, Load::OwnCounters, Load::TicketLock];

/// Number in a line of its own.
#[repr(align(128))]
struct Number(AtomicU32);

impl Number {
    /// Returns a zero.
    const fn zero() -> Self {
        Self(AtomicU32::new(0))
    }

    fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Adds one in one instruction, and returns the number before.
    fn count(&self) -> u32 {
        self.0.fetch_add(1, Relaxed)
    }

    /// Prints where the number is.
    fn tell(&self, load: Load) {
        let address = (&raw const *self).addr();
        let _ = writeln!(Console, "place {} {address:x}", load.keyword());
    }
}

/// Number of turns taken.
static TURN: Number = Number::zero();

static SHARED: Number = Number::zero();
static OWN: [Number; MOST_VCPUS] = [const { Number::zero() }; MOST_VCPUS];

/// The ticket lock: the next ticket, the ticket that is served, and what the lock is for.
static NEXT: Number = Number::zero();
static SERVED: Number = Number::zero();
static GUARDED: Number = Number::zero();

/// Does each load on CPU 0.
extern "C" fn first(_tree: u64) -> ! {
    cpu::set_number(1);
    SHARED.tell(Load::SharedCounter);
    OWN.iter().for_each(|own| own.tell(Load::OwnCounters));
    for number in [&NEXT, &SERVED, &GUARDED] {
        number.tell(Load::TicketLock);
    }
    for number in 1..MOST_VCPUS as u32 {
        host::start_vcpu(number);
    }
    // The first marker starts the directory.
    mark::<{ Load::end() }>();

    for load in LOADS {
        take_turns(0, load, WARM_UP);
        await_turn(0);
        match load {
            Load::SharedCounter => mark::<{ Load::SharedCounter.begin() }>(),
            Load::OwnCounters => mark::<{ Load::OwnCounters.begin() }>(),
            _ => mark::<{ Load::TicketLock.begin() }>(),
        }
        take_turns(0, load, ROUNDS);
        await_turn(0);
        mark::<{ Load::end() }>();
        let _ = writeln!(Console, "guest: {} {}", load.keyword(), turns(ROUNDS));
    }
    let _ = writeln!(Console, "guest: done");
    host::power_off()
}

/// Does each load on another CPU.
extern "C" fn second(number: u64) -> ! {
    cpu::set_number(number + 1);
    for load in LOADS {
        take_turns(number as u32, load, WARM_UP);
        take_turns(number as u32, load, ROUNDS);
    }
    loop {
        relax();
    }
}

/// Takes a CPU's turns.
fn take_turns(cpu: u32, load: Load, rounds: u32) {
    for _ in 0..rounds {
        await_turn(cpu);
        match load {
            Load::SharedCounter => {
                SHARED.count();
            }
            Load::OwnCounters => {
                OWN[cpu as usize].count();
            }
            _ => {
                let ticket = NEXT.count();
                while SERVED.get() != ticket {
                    relax();
                }
                GUARDED.0.store(cpu, Relaxed);
                SERVED.0.store(ticket + 1, Relaxed);
            }
        }
        TURN.0.store(TURN.get() + 1, Relaxed);
    }
}

/// Waits for a CPU's turn.
fn await_turn(cpu: u32) {
    while TURN.get() % MOST_VCPUS as u32 != cpu {
        relax();
    }
}

/// Turns the machine off after an exception.
extern "C" fn fault(_syndrome: u64, _pc: u64, _address: u64) -> ! {
    let _ = writeln!(Console, "guest: failed: an exception");
    host::power_off()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "guest: failed: {info}");
    host::power_off()
}

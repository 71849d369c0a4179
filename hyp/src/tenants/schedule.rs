//! A CPU that several vCPUs share, one of each tenant's: who runs when.
//!
//! They take turns of [`SLICE`] each. One that waits for an interrupt gives up the rest of its turn, and
//! one that wakes up waits for its next: nobody cuts another's turn short, for that is what a tenant
//! would do to the others all day.

use alloc::vec::Vec;

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

use super::seat::{self, Seat};
use super::{Tenants, end};
use crate::cpu::percpu::PerCpu;
use crate::cpu::{alarm, stay};
use crate::guest::interrupts;

/// How long a turn is: in microseconds.
pub(super) const SLICE: u64 = 2000;

/// Shares the calling CPU, which `cpu` is, among the vCPUs that live on it.
pub(crate) fn run(cpu: &'static PerCpu, tenants: &'static Tenants) -> ! {
    let slice = CNTFRQ_EL0.get() * SLICE / 1_000_000;
    let seats = tenants.all.iter();
    let mut seats: Vec<Seat> = seats.map(|tenant| Seat::new(tenant, cpu.index)).collect();
    end::note_heap(cpu);
    loop {
        let mut someone = false;
        for index in 0..seats.len() {
            let now = stay::now();
            {
                let pin = cpu.local().pin();
                for seat in &mut seats {
                    seat.is_ready(&pin, now);
                }
            }
            if end::is_stopping() {
                end::stop(cpu, tenants);
            }
            if seats[index].is_ready(&cpu.local().pin(), now) {
                seats[index].take_turn(tenants, cpu, now + slice);
                end::note_heap(cpu);
                someone = true;
            }
        }
        if !someone {
            sleep(&seats);
        }
    }
}

/// Sleeps until there is something to look at.
fn sleep(seats: &[Seat]) {
    if let Some(first) = seats.iter().filter_map(Seat::deadline).min() {
        alarm::set(first);
    }
    interrupts::wait();
    alarm::stop();
    seat::take_interrupts(|_| ());
}

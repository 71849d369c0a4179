//! A guest that measures its own interrupts.
//!
//! Every interrupt of the machine is enabled, so that any arrival is seen. Each vCPU sends to all,
//! itself included, SGIs, SPIs (`ISPENDR`) and LPIs (`INT`) that no other vCPU sends, and none
//! again before it has arrived. Each vCPU's timer fires about a thousand times a second. An
//! interrupt is *foreign* if it arrives without having been sent, or at another vCPU. An interrupt
//! is *lost* if it does not arrive within ten seconds.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_VCPUS};
use crate::gic::{self, FIRST_LPI, FIRST_SPI, SPECIAL, TIMER};
use crate::its;
use crate::memory::{self, read64, write32, write64};
use crate::random::Random;
use crate::{features, println, psci, start, vectors};

/// Most interrupts of a vCPU in flight.
const BURST: usize = 6;

/// SGIs of each vCPU.
const SGIS: u64 = 16;
/// EventID bits of the one device.
const EVENT_BITS: u64 = 9;
const EVENTS: u64 = 1 << EVENT_BITS;
const DEVICE: u64 = 1;

/// Memory with a pattern that nobody writes between the beginning and the end.
const PATTERN: u64 = memory::SPARE + (8 << 20);
const PATTERN_SIZE: u64 = 1 << 20;

/// Kind of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sgi,
    Ppi,
    Spi,
    Lpi,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Sgi, "sgi"),
    (Kind::Ppi, "ppi"),
    (Kind::Spi, "spi"),
    (Kind::Lpi, "lpi"),
];

/// One vCPU's counts of one kind. Written by that vCPU only.
struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
    lost: AtomicU64,
    /// Most ticks from sending to the handler.
    worst: AtomicU64,
    /// Sum of the ticks from sending to the handler.
    total: AtomicU64,
}

/// One vCPU's counts, on cache lines of their own.
#[repr(align(128))]
struct Counts {
    kinds: [Tally; 4],
    foreign: AtomicU64,
    spurious: AtomicU64,
    /// Deadline of the timer. Used by the handler, and with interrupts masked.
    deadline: AtomicU64,
}

static COUNTS: [Counts; MAX_VCPUS] = [const {
    Counts {
        kinds: [const {
            Tally {
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
                lost: AtomicU64::new(0),
                worst: AtomicU64::new(0),
                total: AtomicU64::new(0),
            }
        }; 4],
        foreign: AtomicU64::new(0),
        spurious: AtomicU64::new(0),
        deadline: AtomicU64::new(0),
    }
}; MAX_VCPUS];

/// Time of sending and target of each interrupt in flight, by [`slot`]; 0 if it is not in flight.
static IN_FLIGHT: [AtomicU64; (MAX_VCPUS * SGIS as usize) + SPECIAL as usize + EVENTS as usize] =
    [const { AtomicU64::new(0) }; (MAX_VCPUS * SGIS as usize) + SPECIAL as usize + EVENTS as usize];

/// vCPUs that are ready to send.
static READY: AtomicUsize = AtomicUsize::new(0);
/// vCPUs that have sent everything.
static DONE: AtomicUsize = AtomicUsize::new(0);
/// vCPUs at their end.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Lock of the command queue.
static ITS_LOCK: AtomicBool = AtomicBool::new(false);

/// Duration of the measurement, in seconds.
static SECONDS: AtomicU64 = AtomicU64::new(0);
/// Seed of the random numbers.
static SEED: AtomicU64 = AtomicU64::new(0);
/// Bursts during which the vector registers changed.
static VECTORS_CHANGED: AtomicU64 = AtomicU64::new(0);
/// Number of vCPUs.
static VCPUS: AtomicUsize = AtomicUsize::new(0);

/// Measures on all vCPUs, prints the results, and switches the machine off.
pub(crate) fn run(seconds: u64, seed: u64) -> ! {
    vectors::enable();
    features::check();
    let vcpus = gic::count_redistributors();
    SECONDS.store(seconds, Ordering::Relaxed);
    SEED.store(seed, Ordering::Relaxed);
    VCPUS.store(vcpus, Ordering::Relaxed);
    for at in pattern_places() {
        write64(at, pattern(at));
    }

    let mut random = Random::new(seed, MAX_VCPUS as u64);
    // Every other interrupt of a word, at random, is level-sensitive. A write of ISPENDR makes both
    // kinds pending once.
    gic::start_distributor(|_| random.next() as u32 & 0xaaaa_aaaa);
    for word in 8..255 {
        let priorities = random.next() as u32 & 0x7070_7070 | 0x8080_8080;
        write32(gic::GICD + gic::IPRIORITYR + word * 4, priorities);
    }

    its::start();
    its::execute(&[its::mapd(DEVICE, EVENT_BITS, true)]);
    for vcpu in 0..vcpus as u64 {
        its::execute(&[its::mapc(vcpu, vcpu, true), its::sync(vcpu)]);
    }
    for event in 0..EVENTS {
        its::execute(&[its::mapti(DEVICE, event, FIRST_LPI + event, 0)]);
    }

    for index in 1..vcpus {
        assert_eq!(start::power_on(index, measure), 0, "vCPU {index} starts");
    }
    measure()
}

/// Returns true if the vCPU ends its interrupts in two steps.
fn eoi_mode() -> bool {
    cpu::index() % 2 == 1
}

/// Measures on the calling vCPU.
fn measure() -> ! {
    let vcpus = VCPUS.load(Ordering::Relaxed);
    let mut random = Random::new(SEED.load(Ordering::Relaxed), cpu::index() as u64);
    gic::start_cpu(eoi_mode());
    READY.fetch_add(1, Ordering::AcqRel);
    while READY.load(Ordering::Acquire) < vcpus {
        core::hint::spin_loop();
    }

    arm_timer(cpu::now());
    cpu::unmask();

    vectors::enable();
    let end = cpu::now() + SECONDS.load(Ordering::Relaxed) * cpu::frequency();
    while cpu::now() < end {
        let seed = random.next();
        vectors::fill(seed);
        send_burst(vcpus as u64, &mut random);
        if !vectors::are_filled(seed) {
            VECTORS_CHANGED.fetch_add(1, Ordering::Relaxed);
        }
    }
    // Others may still send here. Late and repeated interrupts arrive in the tenth of a second
    // after that.
    DONE.fetch_add(1, Ordering::AcqRel);
    while DONE.load(Ordering::Acquire) < vcpus {
        sleep_until(|| DONE.load(Ordering::Acquire) == vcpus);
    }

    let end = cpu::now() + cpu::frequency() / 10;
    while cpu::now() < end {
        sleep_until(|| cpu::now() >= end);
    }
    cpu::mask();
    gic::stop_timer();
    ENDED.fetch_add(1, Ordering::AcqRel);

    while cpu::index() != 0 {
        psci::cpu_off();
    }
    while ENDED.load(Ordering::Acquire) < vcpus {
        core::hint::spin_loop();
    }
    report(vcpus);
    psci::system_off()
}

/// Sleeps until the next interrupt, unless `happened` returns true. The timer always ends the
/// sleep.
fn sleep_until(happened: impl Fn() -> bool) {
    cpu::mask();
    if !happened() {
        cpu::wait();
    }
    cpu::unmask();
}

/// Sends a few interrupts, and waits until they have arrived.
fn send_burst(vcpus: u64, random: &mut Random) {
    let me = cpu::index();
    let timeout = 10 * cpu::frequency();
    let mut sent = [None; BURST];
    let count = 1 + random.below(BURST as u64) as usize;
    sent[..count].fill_with(|| send(vcpus, random));

    let sleeps = random.one_in(2);
    for (kind, slot) in sent.into_iter().flatten() {
        let is_there = || IN_FLIGHT[slot].load(Ordering::Acquire) == 0;
        let began = cpu::now();
        while !is_there() {
            if sleeps {
                sleep_until(is_there);
            }
            if cpu::now() - began > timeout && IN_FLIGHT[slot].swap(0, Ordering::AcqRel) != 0 {
                add(&COUNTS[me].kinds[kind as usize].lost, 1);
                println!(
                    "@lost kind={} vcpu={me} slot={slot}",
                    KINDS[kind as usize].1
                );
            }
        }
    }
    // An overdue timer interrupt is lost.
    cpu::mask();
    let deadline = COUNTS[me].deadline.load(Ordering::Relaxed);
    let now = cpu::now();
    if now > deadline + timeout {
        add(&COUNTS[me].kinds[Kind::Ppi as usize].lost, 1);
        println!("@lost kind=ppi vcpu={me}");
        arm_timer(now);
    }
    cpu::unmask();
}

/// Sends one interrupt at random, unless it is in flight. Returns its kind and slot.
fn send(vcpus: u64, random: &mut Random) -> Option<(Kind, usize)> {
    let me = cpu::index() as u64;
    let target = random.below(vcpus);
    let mine =
        |end: u64, random: &mut Random| me + vcpus * random.below((end - me).div_ceil(vcpus));
    let kind = random.of(&[Kind::Sgi, Kind::Spi, Kind::Lpi]);
    let number = match kind {
        Kind::Sgi => mine(SGIS, random),
        Kind::Spi => FIRST_SPI + mine(SPECIAL - FIRST_SPI, random),
        _ => FIRST_LPI + mine(EVENTS, random),
    };

    let slot = slot(number, target)?;
    if IN_FLIGHT[slot].load(Ordering::Acquire) != 0 {
        return None;
    }

    let mark_sent = || IN_FLIGHT[slot].store(cpu::now() << 8 | target << 1 | 1, Ordering::Release);

    match kind {
        Kind::Sgi => {
            mark_sent();
            let affinity = cpu::affinity(target as usize);
            gic::send_sgi(number << 24 | affinity >> 8 << 16 | 1 << (affinity & 0xf));
        }
        Kind::Spi => {
            write64(
                gic::GICD + gic::IROUTER + number * 8,
                cpu::affinity(target as usize),
            );
            mark_sent();
            let bit = 1 << (number % 32);
            write32(gic::GICD + gic::ISPENDR + number / 32 * 4, bit);
        }
        _ => {
            let event = number - FIRST_LPI;
            while ITS_LOCK.swap(true, Ordering::Acquire) {
                core::hint::spin_loop();
            }
            its::execute(&[its::movi(DEVICE, event, target), its::sync(target)]);
            mark_sent();
            its::execute(&[its::int(DEVICE, event), its::sync(target)]);
            ITS_LOCK.store(false, Ordering::Release);
        }
    }

    add(&COUNTS[me as usize].kinds[kind as usize].sent, 1);
    Some((kind, slot))
}

/// Returns the slot of interrupt `intid` to vCPU `target` in [`IN_FLIGHT`].
fn slot(intid: u64, target: u64) -> Option<usize> {
    let sgis = MAX_VCPUS as u64 * SGIS;
    let slot = match intid {
        0..SGIS => target * SGIS + intid,
        FIRST_SPI..SPECIAL => sgis + intid,
        FIRST_LPI.. => sgis + SPECIAL + (intid - FIRST_LPI),
        _ => return None,
    };
    (slot < IN_FLIGHT.len() as u64).then_some(slot as usize)
}

/// Takes an interrupt on the calling vCPU.
pub(crate) fn interrupt() {
    let intid = gic::acknowledge();
    let now = cpu::now();
    let me = cpu::index();
    let counts = &COUNTS[me];

    if (SPECIAL..SPECIAL + 4).contains(&intid) {
        add(&counts.spurious, 1);
        return;
    }

    if intid == TIMER {
        let deadline = counts.deadline.load(Ordering::Relaxed);
        if now < deadline {
            count_foreign(intid, format_args!("early={}", deadline - now));
        } else {
            count_received(Kind::Ppi, now - deadline);
            arm_timer(now);
        }
    } else {
        let kind = match intid {
            0..SGIS => Kind::Sgi,
            FIRST_LPI.. => Kind::Lpi,
            _ => Kind::Spi,
        };
        let sent = slot(intid, me as u64).map_or(0, |slot| IN_FLIGHT[slot].load(Ordering::Acquire));
        if sent & 0xff == (me << 1 | 1) as u64 {
            count_received(kind, now.saturating_sub(sent >> 8));
        } else {
            count_foreign(intid, format_args!("sent={sent:#x}"));
        }
    }

    gic::end(intid, eoi_mode());
    // Only now may the interrupt be sent again: before its end, it would coalesce with itself.
    if let Some(slot) = slot(intid, me as u64) {
        IN_FLIGHT[slot].store(0, Ordering::Release);
    }
}

/// Counts a foreign interrupt, and prints the first ones.
fn count_foreign(intid: u64, why: core::fmt::Arguments<'_>) {
    let me = cpu::index();
    if COUNTS[me].foreign.fetch_add(1, Ordering::Relaxed) < 8 {
        println!("@foreign vcpu={me} intid={intid} {why}");
    }
}

/// Counts an interrupt that arrived, `latency` ticks after it was sent.
fn count_received(kind: Kind, latency: u64) {
    let tally = &COUNTS[cpu::index()].kinds[kind as usize];
    add(&tally.received, 1);
    add(&tally.total, latency);
    tally.worst.fetch_max(latency, Ordering::Relaxed);
}

/// Sets the calling vCPU's timer to about a millisecond after `now`.
fn arm_timer(now: u64) {
    let counts = &COUNTS[cpu::index()];
    let millisecond = cpu::frequency() / 1000;
    let deadline = now + millisecond / 2 + now % millisecond;
    counts.deadline.store(deadline, Ordering::Relaxed);
    add(&counts.kinds[Kind::Ppi as usize].sent, 1);
    gic::set_timer(deadline);
}

/// Adds to a count of the calling vCPU.
fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

/// Prints the counts of all vCPUs.
fn report(vcpus: usize) {
    let nanoseconds = |ticks: u64| ticks * 1_000_000_000 / cpu::frequency();
    for (kind, name) in KINDS {
        let of = |field: fn(&Tally) -> &AtomicU64| {
            (COUNTS[..vcpus].iter()).map(move |counts| field(&counts.kinds[kind as usize]))
        };
        let sum = |field| {
            of(field)
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let worst = of(|tally| &tally.worst).map(|count| count.load(Ordering::Relaxed));
        let (sent, received) = (sum(|tally| &tally.sent), sum(|tally| &tally.received));
        // Timers that were stopped at the end did not fire.
        let cancelled = if kind == Kind::Ppi { vcpus as u64 } else { 0 };

        println!(
            "@victim {name} sent={} received={received} lost={} mean_ns={} worst_ns={}",
            sent - cancelled,
            sum(|tally| &tally.lost),
            nanoseconds(sum(|tally| &tally.total) / received.max(1)),
            nanoseconds(worst.max().unwrap_or(0))
        );
    }

    let sum = |field: fn(&Counts) -> &AtomicU64| {
        let counts = COUNTS[..vcpus].iter();
        counts
            .map(|counts| field(counts).load(Ordering::Relaxed))
            .sum::<u64>()
    };
    let changed = pattern_places()
        .filter(|&at| read64(at) != pattern(at))
        .count();
    println!(
        "@victim total vcpus={vcpus} foreign={} spurious={} memory_changed={changed} \
         vectors_changed={}",
        sum(|counts| &counts.foreign),
        sum(|counts| &counts.spurious),
        VECTORS_CHANGED.load(Ordering::Relaxed)
    );
}

fn pattern_places() -> impl Iterator<Item = u64> {
    (PATTERN..PATTERN + PATTERN_SIZE).step_by(8)
}

fn pattern(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

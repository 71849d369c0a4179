//! Hops: the guest asks to be saved and restored, and holds all of its interrupt controller against
//! before.
//!
//! Each round sets interrupts up in every state that one can be saved in, takes a picture of all
//! registers, hops, and compares. Then each CPU takes what is pending, in order of priority, and
//! every event is raised. The device that asks for the hop also drives lines of SPIs; the guest's
//! command line has the number of hops, `hops=N`.
//!
//! At the hop:
//! * CPU 0 has two active priorities, one nested in the other, and the inner interrupt is pending
//!   again. A line is high. SPIs, an SGI and LPIs are pending below the mask, others disabled.
//! * CPU 1 has `EOImode` 1. An SPI whose line is high and an SGI are dropped and not deactivated.
//!   An SGI, a PPI, SPIs and an LPI that came by `MOVI` are pending behind a closed mask.
//! * CPU 2 has both groups pending behind a closed interface, a timer that is due, a PPI that is
//!   active, and another binary point.
//! * CPU 3 is off, with an SGI, an SPI and LPIs that came by `MOVALL` pending.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::console::println;
use crate::cpu::{self, Timer, synchronize};
use crate::gic::interface::{
    self, Control, EOI_MODE, NONE, OPEN, deactivate, end, end_0, set_bpr_1, set_ctlr, set_igrpen_0,
    set_igrpen_1, set_pmr,
};
use crate::gic::its::{ENABLED, FIRST_LPI, Its, gits};
use crate::gic::reset::reset;
use crate::gic::{FREE_SPI, GROUP_0, GROUP_1, bank, gicd, gicr};
use crate::harness::{Failure, NotPassed, Outcome, equal, expect, expect_none, holds, skip_unless};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_32};
use crate::{cpus, exception};

/// The device: a write of the first register asks for a hop, writes of the others raise and lower
/// the line of the SPI whose INTID is written.
const HOP: usize = 0x0b00_0000;
const RAISE: usize = HOP + 0x8;
const LOWER: usize = HOP + 0x10;

/// CPUs of a round.
const CPUS: usize = 4;

/// CPU that is off at the hop.
const ASLEEP: usize = 3;

/// Device of the ITS, and its events: each is mapped to the LPI of its number.
const DEVICE: u32 = 3;
const EVENTS: u32 = 12;

/// Another device, with few events far apart: each with the LPI's distance from the first one and
/// the collection.
const FAR: u32 = 6;
const FAR_EVENTS: [(u32, u32, u64); 2] = [(9, EVENTS, 0), (31, EVENTS + 1, 1)];

/// PPIs that no device drives: one is pending, the other active.
const PPI: u32 = 20;
const ACTIVE_PPI: u32 = 21;

/// SPIs of a round; each round has others.
const SPIS: u32 = 16;

/// Attributes of memory in `GICR_PROPBASER` and `GICR_PENDBASER`, and in the registers of an ITS:
/// cacheability and shareability. KVM keeps its own, the library those that are written.
const LPI_ATTRIBUTES: u64 = 7 << 56 | 3 << 10 | 7 << 7;
const ITS_ATTRIBUTES: u64 = 7 << 59 | 7 << 53 | 3 << 10;

/// Values of a picture, at most.
const VALUES: usize = 4096;

static PICTURE: [AtomicU64; VALUES] = [const { AtomicU64::new(0) }; VALUES];

/// Pending states of the SPIs, by words. Some controllers show them only to the CPU that they are
/// routed to.
static PENDING: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];

/// Hops `count` times, and turns the machine off.
pub(crate) fn run(machine: &Machine, count: u32) {
    for hop in 1..=count {
        if let Err(not_passed) = round(machine, hop) {
            match not_passed {
                NotPassed::Skipped(reason) => println!("hop {hop}: FAILED: {reason}"),
                NotPassed::Failed(failure) => tell(hop, &failure),
            }
            return;
        }
    }
    println!("hops: done");
}

/// Prints a failure.
fn tell(hop: u32, failure: &Failure) {
    let Failure {
        what,
        found,
        expected,
        cpu,
        place,
    } = failure;
    println!("hop {hop}: FAILED: {what}: {found:#x}, not {expected:#x}, on CPU {cpu}");
    println!("  {}:{}", place.file(), place.line());
}

/// Sets up, hops, compares, and takes what is pending.
fn round(m: &Machine, hop: u32) -> Outcome {
    skip_unless("needs four CPUs", m.cpus >= CPUS)?;
    cpus::keep_on(m, CPUS);
    reset(m)?;
    m.enable_groups(GROUP_0 | GROUP_1);
    let its = Its::open(m)?;
    let spis = FREE_SPI + (hop - 1) % 8 * SPIS;
    set_up(m, &its, spis)?;

    let values = look(m, &its, |place, _, _, value| {
        PICTURE[place].store(value, Relaxed);
    })?;
    let before = cpu::now();
    synchronize();
    write_32(HOP, hop);
    holds("time goes on", cpu::now() >= before)?;

    let mut wrong = 0;
    look(m, &its, |place, what, of, value| {
        let expected = PICTURE[place].load(Relaxed);
        if value != expected {
            println!("  {what} {of}: {value:#x}, not {expected:#x}");
            wrong += 1;
        }
    })?;
    equal("values that differ", wrong, 0)?;
    println!(
        "hop {hop}: {} INTIDs of {} CPUs as before, by {values} values",
        m.lines() - 32 + 32 * m.cpus as u32,
        m.cpus
    );
    let taken = take_all(m, &its, spis)?;
    let raised = raise_each(&its)?;
    let mut faults = 0;
    for fault in (0..m.cpus).filter_map(exception::take_fault) {
        let (syndrome, pc) = (fault.syndrome, fault.pc);
        println!("  ESR_EL1 {syndrome:#x} at {pc:#x}");
        faults += 1;
    }
    equal("unexpected exceptions", faults, 0)?;
    println!("hop {hop}: {taken} interrupts in order, {raised} events raised and taken");
    Ok(())
}

/// Collection that is mapped to CPU 2, then to CPU 3.
const MOVING: u64 = CPUS as u64;

/// Returns the collection of an event at the hop.
fn collection(event: u32) -> u64 {
    match event {
        0..4 => 0,
        4 => 1,
        6 | 7 => MOVING,
        _ => u64::from(event) % CPUS as u64,
    }
}

/// Returns the CPU that a collection is mapped to at the hop.
fn target(icid: u64) -> usize {
    match icid {
        MOVING => ASLEEP,
        _ => icid as usize,
    }
}

/// Brings interrupts into all states. `spi` is the first SPI of the round.
fn set_up(m: &Machine, its: &Its<'_>, spi: u32) -> Outcome {
    let edge = |place: u32, cpu: usize, priority: u8| {
        let irq = m.edge(spi - FREE_SPI + place).at(priority);
        irq.route(cpu);
        irq
    };
    its.map_device(DEVICE)?;
    let lpi = |event: u32, configuration: u8| {
        its.configure(FIRST_LPI + event, configuration);
        its.invalidate(DEVICE, event)
    };

    // CPU 3 has pending interrupts, and is off.
    set_pmr(0);
    cpus::on(2, || set_pmr(0));
    its.map_collection(MOVING, 2)?;
    let moved = |event: &u32| collection(*event) == MOVING;
    for event in (0..EVENTS).filter(moved) {
        its.map_event(DEVICE, event, FIRST_LPI + event, MOVING)?;
    }
    lpi(6, 0xd0 | ENABLED)?;
    lpi(7, 0xc8 | ENABLED)?;
    its.raise(DEVICE, 6)?;
    its.raise(DEVICE, 7)?;
    its.map_collection(MOVING, ASLEEP)?;
    its.move_all(2, ASLEEP)?;
    // KVM's MOVALL moves the LPIs of all CPUs: the others are mapped behind it.
    for event in (0..EVENTS).filter(|event| !moved(event)) {
        // Event 4 moves while it is pending.
        let icid = if event == 4 { 0 } else { collection(event) };
        its.map_event(DEVICE, event, FIRST_LPI + event, icid)?;
    }
    its.map_device(FAR)?;
    for (event, lpi, icid) in FAR_EVENTS {
        its.map_event(FAR, event, FIRST_LPI + lpi, icid)?;
    }
    cpus::keep_on(m, ASLEEP);
    m.sgi(ASLEEP, 2).at(0x50);
    send(m, ASLEEP, 2);
    edge(15, ASLEEP, 0x90).set_pending();

    // CPU 2 has a closed interface.
    let group_0 = edge(12, 2, 0x20);
    group_0.set_group(0);
    m.private(2, Timer::Virtual.intid()).at(0xa8).enable();
    cpus::on(2, || {
        set_igrpen_0(0);
        set_igrpen_1(0);
        set_bpr_1(4);
        set_pmr(0xf0);
        Timer::Virtual.set(0);
    });
    m.private(2, ACTIVE_PPI).set_active();
    group_0.set_pending();
    edge(13, 2, 0x98).set_pending();

    // CPU 1 has dropped priorities without a deactivation.
    let dropped = m.level(spi - FREE_SPI + 8).at(0x40);
    dropped.route(1);
    m.sgi(1, 3).at(0x48);
    m.sgi(1, 5).at(0x58);
    let ppi = m.private(1, PPI).at(0x88).enabled();
    write_32(RAISE, dropped.intid);
    m.private(1, 3).set_pending();
    cpus::on(1, || {
        set_ctlr(EOI_MODE);
        expect(dropped.intid)?;
        end(dropped.intid);
        expect(3)?;
        end(3);
        set_pmr(0);
        Ok(())
    })?;
    edge(9, 1, 0xb0).set_pending();
    edge(10, 1, 0x30).set_pending();
    ppi.set_pending();
    lpi(4, 0x68 | ENABLED)?;
    its.raise(DEVICE, 4)?;
    its.move_event(DEVICE, 4, 1)?;

    // CPU 0 has two active priorities, and waits below a mask.
    let (outer, inner) = (edge(0, 0, 0xa0), edge(1, 0, 0x60));
    set_pmr(OPEN);
    outer.set_pending();
    expect(outer.intid)?;
    inner.set_pending();
    expect(inner.intid)?;
    set_pmr(0x40);
    inner.set_pending();
    edge(2, 0, 0x50).set_pending();
    edge(3, 0, 0x80).set_pending();
    edge(4, 0, 0xc0).set_pending();
    let disabled = edge(5, 0, 0x20);
    disabled.disable();
    disabled.set_pending();
    for (place, priority) in [(6, 0x90), (7, 0x98)] {
        let level = m.level(spi - FREE_SPI + place).at(priority);
        if place == 7 {
            level.disable();
        }
        write_32(RAISE, level.intid);
        holds("the line is high", level.becomes_pending(true))?;
    }
    m.sgi(0, 1).at(0x70).set_pending();
    lpi(0, 0x78 | ENABLED)?;
    lpi(1, 0x10)?;
    its.raise(DEVICE, 0)?;
    its.raise(DEVICE, 1)?;

    // The last step before the hop is an SGI between CPUs.
    send(m, 1, 5);
    holds(
        "the inner one is active and pending",
        inner.is_active() && inner.is_pending(),
    )?;
    let is_high = dropped.is_active() && dropped.is_pending();
    holds("the dropped one is active, and its line high", is_high)?;
    equal(
        "two priorities are active",
        interface::ap_1().count_ones(),
        2,
    )
}

/// Takes a look at all registers, each with a place in the picture, a name and a number. Returns
/// the number of values.
fn look(
    m: &Machine,
    its: &Its<'_>,
    mut see: impl FnMut(usize, &'static str, usize, u64),
) -> Result<usize, NotPassed> {
    let mut place = 0;
    let mut next = |what, of, value| {
        place += 1;
        see(place - 1, what, of, value)
    };
    let on = cpus::count();

    for cpu in 0..m.cpus {
        for bank in [bank::IGROUPR, bank::ISENABLER, bank::ISACTIVER, bank::ICFGR] {
            next(
                "a private register",
                cpu,
                read_32(m.sgi_base(cpu, bank)).into(),
            );
        }
        let pending = || u64::from(read_32(m.sgi_base(cpu, bank::ISPENDR)));
        next(
            "GICR_ISPENDR0",
            cpu,
            if cpu < on {
                cpus::on(cpu, pending)
            } else {
                pending()
            },
        );
        next(
            "GICR_ICFGR1",
            cpu,
            read_32(m.sgi_base(cpu, bank::ICFGR + 4)).into(),
        );
        for word in 0..8 {
            let register = m.sgi_base(cpu, bank::IPRIORITYR + 4 * word);
            next("GICR_IPRIORITYR<n>", cpu, read_32(register).into());
        }
        for register in [gicr::CTLR, gicr::WAKER] {
            next(
                "a redistributor",
                cpu,
                read_32(m.gicr(cpu, register)).into(),
            );
        }
        for register in [gicr::PROPBASER, gicr::PENDBASER] {
            let table = read_64(m.gicr(cpu, register)) & !LPI_ATTRIBUTES;
            next("a table of LPIs", cpu, table);
        }
    }

    for cpu in 0..on {
        let (control, others, timers) = cpus::on(cpu, || {
            let others = [
                ("ICC_PMR_EL1", interface::pmr()),
                ("ICC_IGRPEN0_EL1", interface::igrpen_0()),
                ("ICC_IGRPEN1_EL1", interface::igrpen_1()),
                ("ICC_SRE_EL1", interface::sre()),
                ("ICC_HPPIR1_EL1", interface::highest_pending().into()),
                ("ICC_HPPIR0_EL1", interface::highest_pending_0().into()),
            ];
            (Control::read(), others, Timer::virtual_registers())
        });
        let control = [
            ("ICC_CTLR_EL1", control.ctlr),
            ("ICC_BPR0_EL1", control.bpr_0),
            ("ICC_BPR1_EL1", control.bpr_1),
            ("ICC_AP0R0_EL1", control.ap_0),
            ("ICC_AP1R0_EL1", control.ap_1),
            ("ICC_RPR_EL1", control.running),
        ];
        let timers = timers.map(|value| ("the virtual timer", value));
        for (what, value) in control.into_iter().chain(others).chain(timers) {
            next(what, cpu, value);
        }
    }

    // KVM has one enable for both groups.
    let control = read_32(m.gicd(gicd::CTLR)) & !GROUP_0;
    next("GICD_CTLR", 0, control.into());
    let words = m.lines().div_ceil(32) as usize;
    PENDING.iter().for_each(|word| word.store(0, Relaxed));
    cpus::on_all(|_| {
        for (word, seen) in PENDING.iter().enumerate().take(words).skip(1) {
            let pending = read_32(m.gicd(bank::ISPENDR + 4 * word));
            seen.fetch_or(pending.into(), Relaxed);
        }
        Ok(())
    })?;
    for (word, pending) in PENDING.iter().enumerate().take(words).skip(1) {
        next("GICD_ISPENDR<n>", word, pending.load(Relaxed));
        for bank in [bank::IGROUPR, bank::ISENABLER, bank::ISACTIVER] {
            next(
                "a distributor's bit",
                word,
                read_32(m.gicd(bank + 4 * word)).into(),
            );
        }
    }
    for word in 2..2 * words {
        next(
            "GICD_ICFGR<n>",
            word,
            read_32(m.gicd(bank::ICFGR + 4 * word)).into(),
        );
    }
    for word in 8..8 * words {
        next(
            "GICD_IPRIORITYR<n>",
            word,
            read_32(m.gicd(bank::IPRIORITYR + 4 * word)).into(),
        );
    }
    for intid in 32..m.lines() as usize {
        next(
            "GICD_IROUTER<n>",
            intid,
            read_64(m.gicd(gicd::IROUTER + 8 * intid)),
        );
    }

    // Quiescent says what the ITS does, and not how it is.
    let control = read_32(its.register(gits::CTLR)) & !gits::QUIESCENT;
    next("GITS_CTLR", 0, control.into());
    for register in [gits::CBASER, gits::CWRITER, gits::CREADR] {
        let value = read_64(its.register(register)) & !ITS_ATTRIBUTES;
        next("the queue of the ITS", register, value);
    }
    for n in 0..8 {
        let table = read_64(its.register(gits::BASER + 8 * n)) & !ITS_ATTRIBUTES;
        next("GITS_BASER<n>", n, table);
    }
    Ok(place)
}

/// Takes all that is pending, in order. Returns the number of interrupts.
fn take_all(m: &Machine, its: &Its<'_>, spi: u32) -> Result<u32, NotPassed> {
    let lpi = |event: u32| FIRST_LPI + event;
    let mut taken = 0;
    let mut each = |intids: &[u32]| {
        for &intid in intids {
            expect(intid)?;
            if intid == spi + 6 || intid == spi + 7 {
                write_32(LOWER, intid);
            }
            end(intid);
            taken += 1;
        }
        Ok(())
    };

    set_pmr(OPEN);
    each(&[spi + 2])?;
    end(spi + 1);
    each(&[spi + 1, 1, lpi(0), spi + 3, spi + 6])?;
    equal(
        "the outer priority",
        interface::running_priority(),
        0xa0_u64,
    )?;
    end(spi);
    each(&[spi + 4])?;
    expect_none()?;
    m.shared(spi + 5).enable();
    each(&[spi + 5])?;
    m.shared(spi + 7).enable();
    each(&[spi + 7])?;
    its.configure(lpi(1), 0x10 | ENABLED);
    its.invalidate(DEVICE, 1)?;
    each(&[lpi(1)])?;
    expect_none()?;
    equal("no priority is active", interface::ap_1(), 0_u64)?;

    taken += cpus::on(1, || {
        set_pmr(OPEN);
        let order = [spi + 10, 5, lpi(4), PPI, spi + 9];
        for intid in order {
            expect(intid)?;
            end(intid);
            if intid < FIRST_LPI {
                deactivate(intid);
            }
        }
        holds("dropped, and active", m.shared(spi + 8).is_active())?;
        write_32(LOWER, spi + 8);
        deactivate(spi + 8);
        deactivate(3);
        equal("deactivated", m.shared(spi + 8).is_active(), false)?;
        equal("deactivated", m.private(1, 3).is_active(), false)?;
        expect_none()?;
        Ok(order.len() as u32)
    })?;

    taken += cpus::on(2, || {
        let active = m.private(2, ACTIVE_PPI);
        holds("the PPI is active", active.is_active())?;
        active.clear_active();
        equal("closed", interface::acknowledge(), NONE)?;
        set_igrpen_0(1);
        equal("Group 0", interface::take_0(), spi + 12)?;
        end_0(spi + 12);
        set_igrpen_1(1);
        expect(spi + 13)?;
        end(spi + 13);
        expect(Timer::Virtual.intid())?;
        Timer::Virtual.stop();
        end(Timer::Virtual.intid());
        expect_none()?;
        Ok(3)
    })?;

    cpus::keep_on(m, CPUS);
    taken += cpus::on(ASLEEP, || {
        interface::reset();
        let order = [2, spi + 15, lpi(7), lpi(6)];
        for intid in order {
            expect(intid)?;
            end(intid);
        }
        expect_none()?;
        Ok(order.len() as u32)
    })?;
    Ok(taken)
}

/// Raises each event, and takes it where it is mapped to. Returns the number of events.
fn raise_each(its: &Its<'_>) -> Result<u32, NotPassed> {
    cpus::on_all(|_| {
        interface::reset();
        Ok(())
    })?;
    let near = (0..EVENTS).map(|event| (DEVICE, event, event, collection(event)));
    let far = FAR_EVENTS.map(|(event, lpi, icid)| (FAR, event, lpi, icid));
    let mut raised = 0;
    for (device, event, lpi, icid) in near.chain(far) {
        its.raise(device, event)?;
        cpus::on(target(icid), || {
            expect(FIRST_LPI + lpi)?;
            end(FIRST_LPI + lpi);
            Ok(())
        })?;
        raised += 1;
    }
    Ok(raised)
}

/// Sends an SGI to a CPU by `ICC_SGI1R_EL1`.
fn send(m: &Machine, cpu: usize, intid: u32) {
    let affinity = m.affinity(cpu);
    interface::send(u64::from(intid) << 24 | (affinity >> 8 & 0xff) << 16 | 1 << (affinity & 0xf));
}

//! The most work that a guest can ask of an ITS and its LPIs. The work has to come to an end
//! without a lost interrupt, and the guest has to make progress meanwhile.

use super::its::take_and_end;
use super::kvm;
use crate::gic::gicr;
use crate::gic::interface::{OPEN, set_pmr};
use crate::gic::its::{COMMAND, FIRST_LPI, Its, LPI_END, gits};
use crate::gic::tables::LARGEST_QUEUE;
use crate::harness::{
    Case, NotPassed, Outcome, equal, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_64};

/// Device with as many events as the ITS supports.
const DEVICE: u32 = 2;
/// Number of LPIs in use: all that there are.
const COUNT: u32 = LPI_END - FIRST_LPI;
/// Distance of the mapped EventIDs, as large as possible.
const STEP: u32 = 8;

/// Number of commands that fill the queue.
const QUEUE_COMMANDS: u32 = (LARGEST_QUEUE / COMMAND) as u32 - 1;
/// Number of commands larger than one slice of an ITS that executes its queue in slices.
const SLICE_COMMANDS: u32 = 40;
/// Accesses that the guest makes while the ITS is busy.
const ACCESSES: u32 = 600;

const INVALLR: usize = 0xb0;
const SYNCR: usize = 0xc0;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "worst.queue_of_invall",
        "5.3 INVALL, GITS_CBASER.Size",
        |m| {
            let its = open_scattered(m)?;
            raise_all(&its)?;
            run_beside_busy_its(m, &its, |_| [0xd, 0, 0, 0])?;
            take_each(COUNT)
        },
    )
    .unlike_kvm(kvm::SLOW),
    Case::new(
        "worst.queue_of_movall",
        "5.3 MOVALL, GITS_CBASER.Size",
        |m| {
            let its = open_scattered(m)?;
            raise_all(&its)?;
            let [here, there] = target_pair(m, &its)?;
            run_beside_busy_its(m, &its, |place| match place % 2 {
                0 => [0xe, 0, here, there],
                _ => [0xe, 0, there, here],
            })?;
            // Each LPI is on one of the two CPUs now.
            its.use_largest_queue();
            its.move_all(0, 1)?;
            bring_back(&its)
        },
    )
    .unlike_kvm(kvm::SLOW),
    Case::new("worst.queue_of_mapc", "5.3 MAPC, GITS_CBASER.Size", |m| {
        let its = open_scattered(m)?;
        let targets = target_pair(m, &its)?;
        run_beside_busy_its(m, &its, |place| {
            [0x9, 0, 1 << 63 | targets[place as usize % 2], 0]
        })?;
        its.use_largest_queue();
        its.map_collection(0, 1)?;
        raise_all(&its)?;
        bring_back(&its)
    }),
    Case::new("worst.queue_of_int", "5.3 INT, GITS_CBASER.Size", |m| {
        let its = open_scattered(m)?;
        set_pmr(0);
        for place in 0..QUEUE_COMMANDS {
            its.queue_raise(DEVICE, place % COUNT * STEP);
        }
        its.submit();
        holds("the queue is read to its end", wait_for_long_queue(&its))?;
        take_each(COUNT)
    })
    .unlike_kvm(kvm::SLOW),
    Case::new("worst.queue_of_errors", "5.5, GITS_CBASER.Size", |m| {
        let its = open_scattered(m)?;
        for place in 0..QUEUE_COMMANDS - 1 {
            // Events that are not mapped, absent devices and collections.
            its.queue_command(match place % 3 {
                0 => [0x3 | u64::from(DEVICE) << 32, 1, 0, 0],
                1 => [0xf | 0x60 << 32, 0, 0, 0],
                _ => [0xd, 0, 0xffff, 0],
            });
        }
        its.queue_raise(DEVICE, 0);
        its.submit();
        expect_and_end(FIRST_LPI)?;
        holds("the queue is read to its end", wait_for_long_queue(&its))?;
        expect_none()
    }),
    Case::new("worst.largest_device", "5.3 MAPD, DISCARD", |m| {
        let its = open_scattered(m)?;
        for _ in 0..2 {
            raise_all(&its)?;
            // LPIs that are pending when they are unmapped are gone. Software has to discard them
            // one by one.
            for place in 0..COUNT {
                its.queue_command([0xf | u64::from(DEVICE) << 32, (place * STEP).into(), 0, 0]);
            }
            its.submit();
            holds("the queue is read to its end", wait_for_long_queue(&its))?;
            set_pmr(OPEN);
            expect_none()?;
            its.unmap_device(DEVICE)?;
            map_all(&its)?;
        }
        // Now with all its events mapped.
        its.unmap_device(DEVICE)?;
        its.raise(DEVICE, 0)?;
        expect_none()?;
        its.map_device(DEVICE)?;
        its.map_event(DEVICE, 0, FIRST_LPI, 0)?;
        its.raise(DEVICE, 0)?;
        expect_and_end(FIRST_LPI)
    })
    .unlike_kvm(kvm::SLOW),
    Case::new("worst.every_lpi_pending", "5.1, ICC_IAR1_EL1", |m| {
        let its = open_scattered(m)?;
        raise_all(&its)?;
        take_each(COUNT)
    })
    .unlike_kvm(kvm::SLOW),
    Case::new(
        "worst.lpis_off_and_on",
        "GICR_CTLR.EnableLPIs (12.11), 5.1",
        |m| {
            let its = open_scattered(m)?;
            raise_all(&its)?;
            for _ in 0..2 {
                its.disable_lpis(0);
                skip_unless(
                    "EnableLPIs cannot be cleared",
                    read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
                )?;
                its.enable_lpis(0, false);
            }
            take_each(COUNT)
        },
    )
    .unlike_kvm(kvm::LPIS_OFF_FORGETS),
    Case::new(
        "worst.invalidated_directly",
        "GICR_INVALLR, GICR_SYNCR",
        |m| {
            const IR: u32 = 1 << 2;
            let its = open_scattered(m)?;
            skip_unless(
                "GICR_CTLR.IR is 0",
                read_32(m.gicr(0, gicr::CTLR)) & IR != 0,
            )?;
            raise_all(&its)?;
            for _ in 0..20 {
                write_64(m.gicr(0, INVALLR), 0);
            }
            let is_done = crate::cpu::spin_until(5_000_000, || read_32(m.gicr(0, SYNCR)) & 1 == 0);
            holds("not busy", is_done)?;
            take_each(COUNT)
        },
    )
    .unlike_kvm(kvm::SLOW),
];

/// Opens the ITS with an empty queue of 1 MiB, and with a device of as many events as possible.
/// Events of that device are mapped to every LPI, on CPU 0.
fn open_scattered(m: &Machine) -> Result<Its<'_>, NotPassed> {
    let its = Its::open(m)?;
    holds("Quiescent", its.quiesce())?;
    its.use_largest_queue();
    let bits = (read_64(its.register(gits::TYPER)) >> 8 & 0x1f) + 1;
    skip_unless("devices have fewer events", 1 << bits >= COUNT * STEP)?;
    map_all(&its)?;
    Ok(its)
}

/// Maps the events.
fn map_all(its: &Its<'_>) -> Outcome {
    its.map_largest_device(DEVICE)?;
    for place in 0..COUNT {
        let event = u64::from(place * STEP);
        let lpi = u64::from(FIRST_LPI + place);
        its.queue_command([0xa | u64::from(DEVICE) << 32, event | lpi << 32, 0, 0]);
    }
    its.submit();
    holds("the queue is read to its end", wait_for_long_queue(its))
}

/// Makes all LPIs pending, masked.
fn raise_all(its: &Its<'_>) -> Outcome {
    set_pmr(0);
    for place in 0..COUNT {
        its.queue_raise(DEVICE, place * STEP);
    }
    its.submit();
    holds("the queue is read to its end", wait_for_long_queue(its))
}

/// Returns the names of CPU 0, and of CPU 1, which is off: LPIs that it is given stay there.
fn target_pair(m: &Machine, its: &Its<'_>) -> Result<[u64; 2], NotPassed> {
    skip_unless("needs more CPUs", m.cpus > 1)?;
    Ok([its.target(0), its.target(1)])
}

/// Moves all LPIs, pending on CPU 1, which is off, to CPU 0, and takes them.
fn bring_back(its: &Its<'_>) -> Outcome {
    set_pmr(OPEN);
    expect_none()?;
    set_pmr(0);
    its.move_all(1, 0)?;
    take_each(COUNT)
}

/// Times that a guest waits as long as for a short queue. With direct injection, each event that a
/// command moves is a wait for the machine's own ITS.
const LONG: u32 = 16;

/// Waits for the end of a long queue. Returns false on a timeout.
fn wait_for_long_queue(its: &Its<'_>) -> bool {
    (0..LONG).any(|_| its.wait_until_read())
}

/// Fills the queue, and runs while the ITS reads it: the guest's accesses are served, and the ITS
/// makes progress. Then stops the ITS before the end of the queue.
fn run_beside_busy_its(m: &Machine, its: &Its<'_>, command: impl Fn(u32) -> [u64; 4]) -> Outcome {
    (0..SLICE_COMMANDS).for_each(|place| its.queue_command(command(place)));
    its.submit();
    skip_unless("it reads its queue at once", !its.is_read())?;
    holds("the queue is read to its end", wait_for_long_queue(its))?;
    (0..QUEUE_COMMANDS).for_each(|place| its.queue_command(command(place)));
    its.submit();
    let begin = read_64(its.register(gits::CREADR));
    for _ in 0..ACCESSES {
        equal("GICD_PIDR2", read_32(m.gicd(0xffe8)) & 0xf0, 0x30)?;
    }
    let reached = read_64(its.register(gits::CREADR));
    holds("the ITS reads its queue", reached != begin)?;
    let rests = (0..LONG).any(|_| its.quiesce());
    holds("the ITS rests once it is disabled", rests)
}

/// Takes `count` LPIs, each once, and no more.
fn take_each(count: u32) -> Outcome {
    set_pmr(OPEN);
    let mut seen = [0u32; (COUNT / 32) as usize];
    for _ in 0..count {
        let place = take_and_end().wrapping_sub(FIRST_LPI);
        holds("one of them", place < COUNT)?;
        let (word, bit) = (&mut seen[place as usize / 32], 1 << (place % 32));
        equal("taken before", *word & bit != 0, false)?;
        *word |= bit;
    }
    expect_none()
}

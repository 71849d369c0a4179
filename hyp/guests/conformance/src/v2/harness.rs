//! The words of a case for a GICv2: of every case, and the arrival of an interrupt.

pub(crate) use conformance::case::{Cpus, NotPassed, Outcome, equal, holds, skip_unless};

use crate::gicc::{self, NONE};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// Test of one rule of IHI 0048.
pub(crate) type Case = conformance::case::Case<Machine>;

/// Microseconds that a case waits for an interrupt that must not arrive.
const SILENCE: u64 = 400;

/// Acknowledges the interrupt that has to arrive now: an INTID, with the source CPU of an SGI in
/// bits 12:10.
#[track_caller]
pub(crate) fn expect(intid: u32) -> Outcome {
    equal("the interrupt that is taken", gicc::take(), intid)
}

/// Acknowledges and ends the interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect_and_end(intid: u32) -> Outcome {
    expect(intid)?;
    gicc::end(intid);
    Ok(())
}

/// Acknowledges and ends on CPU `number` the interrupt that has to arrive there now.
#[track_caller]
pub(crate) fn expect_on(number: usize, intid: u32) -> Outcome {
    let taken = cpus::on(number, || {
        let taken = gicc::take();
        gicc::end(taken);
        taken
    });
    equal("the interrupt that the other CPU takes", taken, intid)
}

/// Fails if an interrupt arrives within [`SILENCE`].
#[track_caller]
pub(crate) fn expect_none() -> Outcome {
    equal("the interrupt that must not be taken", in_silence(), NONE)
}

/// Fails if an interrupt arrives on CPU `number` within [`SILENCE`].
#[track_caller]
pub(crate) fn expect_none_on(number: usize) -> Outcome {
    let read = cpus::on(number, in_silence);
    equal("the interrupt that the other CPU must not take", read, NONE)
}

/// Acknowledges whatever arrives within [`SILENCE`].
fn in_silence() -> u32 {
    let mut read = NONE;
    cpu::spin_until(SILENCE, || {
        read = gicc::acknowledge();
        read != NONE
    });
    read
}

/// Waits until an IRQ is asserted on the calling CPU. Returns false on a timeout.
pub(crate) fn irq_comes() -> bool {
    cpu::spin_until(1_000_000, cpu::irq)
}

/// Returns what an acknowledge of an SGI from CPU `source` reads.
pub(crate) fn from(source: usize, sgi: u32) -> u32 {
    (source as u32) << 10 | sgi
}

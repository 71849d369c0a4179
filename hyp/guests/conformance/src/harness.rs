//! The words of a case for a GICv3: of every case, and the arrival of an interrupt.

pub(crate) use conformance::case::{Cpus, Failure, NotPassed, Outcome, equal, holds, skip_unless};

use crate::cpu;
use crate::gic::interface::{self, NONE};
use crate::machine::Machine;

/// Test of one rule of IHI 0069.
pub(crate) type Case = conformance::case::Case<Machine>;

/// Microseconds that a case waits for an interrupt that must not arrive.
const SILENCE: u64 = 400;

/// Acknowledges the interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect(intid: u32) -> Outcome {
    equal("the interrupt that is taken", interface::take(), intid)
}

/// Acknowledges and ends the interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect_and_end(intid: u32) -> Outcome {
    expect(intid)?;
    interface::end(intid);
    Ok(())
}

/// Acknowledges the Group 0 interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect_0(intid: u32) -> Outcome {
    equal(
        "the Group 0 interrupt that is taken",
        interface::take_0(),
        intid,
    )
}

/// Fails if an interrupt arrives within [`SILENCE`].
#[track_caller]
pub(crate) fn expect_none() -> Outcome {
    let mut intid = NONE;
    cpu::spin_until(SILENCE, || {
        intid = interface::acknowledge();
        intid != NONE
    });
    equal("the interrupt that must not be taken", intid, NONE)
}

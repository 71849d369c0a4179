//! The guest's findings on each machine, held against those that it has to have.

use super::Place;
use crate::boot::run::Ended;
use crate::console;

/// The beginnings of the lines by which a hypervisor says that the guest has left.
const LEFT: [&str; 2] = ["client: the guest has left", "hyp: guest is saved"];

/// The last line of a guest that has made all its hops.
const DONE: &str = "hops: done";

/// The beginning of a line of the guest's about a hop.
const HOP: &str = "hop ";

/// Words of the lines by which the guest, the client and the hypervisor tell of a fault.
const FAULTS: [&str; 3] = ["FAILED", "failed", "refused"];

/// Lines of a hop: the registers, and the interrupts that were taken.
const LINES: usize = 2;

/// The guest's time on one machine: from its start or a hop to the next hop or its end.
#[derive(Debug)]
pub(super) struct Leg {
    number: u32,
    place: Place,
    /// The guest's lines about the hop by which it came.
    hop: Vec<String>,
    faults: Vec<String>,
}

object!(Leg {
    number,
    place,
    hop,
    faults,
});

impl Leg {
    /// Reads the console of machine number `number`. From the last one, the guest does not leave.
    pub(super) fn read(
        number: u32,
        place: Place,
        is_last: bool,
        ended: &Ended,
        lines: &[&str],
    ) -> Self {
        let hop: Vec<String> = (lines.iter())
            .filter(|line| line.starts_with(HOP))
            .map(|&line| line.to_owned())
            .collect();
        let has = |beginning: &str| lines.iter().any(|line| line.starts_with(beginning));

        let mut faults = Vec::new();
        if *ended != Ended::PoweredOff {
            faults.push(ended.to_string());
        }
        let tells_fault = |line: &&&str| FAULTS.iter().any(|fault| line.contains(fault));
        let failed = lines.iter().filter(tells_fault);
        faults.extend(failed.map(|line| line.trim().to_owned()));
        let expected = if number == 0 { 0 } else { LINES };
        if hop.len() != expected {
            faults.push(format!(
                "{} lines about hop {number}, not {expected}",
                hop.len()
            ));
        }
        if is_last != has(DONE) {
            faults.push(format!(
                "`{DONE}` is {}",
                if is_last { "missing" } else { "too early" }
            ));
        }
        if is_last == LEFT.iter().any(|left| has(left)) {
            let left = if is_last { "leaves" } else { "does not leave" };
            faults.push(format!("the guest {left}"));
        }
        Self {
            number,
            place,
            hop,
            faults,
        }
    }

    /// Tells whether the guest found all as it has to be.
    pub(super) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// Prints the guest's findings.
    pub(super) fn print(&self) {
        let place = self.place.name();
        for line in &self.hop {
            console::detail(format!("{place:3} {line}"));
        }
        for fault in &self.faults {
            console::detail(console::bad(&format!("{place:3} {fault}")));
        }
    }
}

/// The outcome of all hops.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    hops: u32,
    legs: Vec<Leg>,
}

object!(Verdict { passed, hops, legs });

impl Verdict {
    /// Judges the machines that the guest was on.
    pub(super) fn new(hops: u32, legs: Vec<Leg>) -> Self {
        Self {
            passed: legs.len() as u64 == u64::from(hops) + 1 && legs.iter().all(Leg::is_good),
            hops,
            legs,
        }
    }

    /// Prints the outcome.
    pub(super) fn print(&self) {
        let good = self.legs.iter().filter(|leg| leg.is_good()).count();
        let text = format!("{} of {} hops", good.saturating_sub(1), self.hops);
        console::step(match self.passed {
            true => console::good(&text),
            false => console::bad(&text),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVED: [&str; 2] = [
        "hop 1: 1088 INTIDs as before",
        "hop 1: 22 interrupts in order",
    ];

    fn leg(number: u32, is_last: bool, lines: &[&str]) -> Leg {
        Leg::read(number, Place::Hyp, is_last, &Ended::PoweredOff, lines)
    }

    #[test]
    fn a_guest_begins_leaves_arrives_and_ends() {
        let first = leg(0, false, &["client: the guest has left"]);
        let last = leg(1, true, &[ARRIVED[0], ARRIVED[1], DONE]);
        assert!(first.is_good() && last.is_good(), "{first:?} {last:?}");
        assert!(Verdict::new(1, vec![first, last]).passed);
    }

    #[test]
    fn a_hop_that_is_not_whole_is_a_fault() {
        assert!(!leg(1, true, &[ARRIVED[0], DONE]).is_good());
        assert!(!leg(1, true, &[ARRIVED[0], ARRIVED[1]]).is_good());
        assert!(!leg(1, false, &[ARRIVED[0], ARRIVED[1]]).is_good());
        let failed = "hop 1: FAILED: values that differ: 0x1";
        assert!(!leg(1, true, &[ARRIVED[0], failed, DONE]).is_good());
        assert!(!Verdict::new(2, vec![leg(0, false, &["hyp: guest is saved"])]).passed);
    }
}

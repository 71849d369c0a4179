//! Properties of every interrupt, recorded apart from the library's own counters.
//!
//! * An edge: the guest acknowledges the interrupt after a raise, possibly coalesced with earlier
//!   raises. Once the VM is at rest, the last acknowledgement is younger than the last raise. The
//!   number of acknowledgements never exceeds the number of raises.
//! * A level: the guest acknowledges the interrupt only while the device asserts the line.
//! * An SPI is active on at most one vCPU at a time.
//!
//! These properties hold for *steady* interrupts: the guest never disables, clears or unmaps a
//! steady interrupt. The guest mistreats all other interrupts in every possible way, and for those
//! only the library's counters are checked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::vm::{EDGES, LEVELS, LPIS, PPI, SGIS, STEADY_LPIS, STEADY_SPIS, VCPUS};

const PRIVATE: usize = 32;
const SPIS: usize = 32;

/// The record of one interrupt.
#[derive(Default)]
struct Record {
    /// Raises begun.
    raised: AtomicU64,
    /// Value of `raised` at the last acknowledgement.
    seen: AtomicU64,
    /// Acknowledgements.
    acknowledged: AtomicU64,
    /// Active on some vCPU.
    active: AtomicBool,
    /// Level of the line, as the device sees it.
    line: AtomicBool,
}

/// The records of all interrupts.
pub(crate) struct Oracle {
    private: Vec<Record>,
    shared: Vec<Record>,
    lpis: Vec<Record>,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        let records = |count| (0..count).map(|_| Record::default()).collect();
        Self {
            private: records(VCPUS * PRIVATE),
            shared: records(SPIS),
            lpis: records(LPIS as usize),
        }
    }

    fn record(&self, vcpu: usize, intid: u32) -> &Record {
        match intid {
            0..32 => &self.private[vcpu * PRIVATE + intid as usize],
            32..1020 => &self.shared[intid as usize - 32],
            _ => &self.lpis[intid as usize - 8192],
        }
    }

    /// Notes an edge about to be raised.
    pub(crate) fn raising(&self, vcpu: usize, intid: u32) {
        self.record(vcpu, intid).raised.fetch_add(1, SeqCst);
    }

    /// Notes the device's wish to raise the line of a level-sensitive SPI. Returns false if the
    /// line is high already.
    pub(crate) fn raising_line(&self, intid: u32) -> bool {
        !self.record(0, intid).line.swap(true, SeqCst)
    }

    /// Notes the device lowering the line, on behalf of the guest's handler.
    pub(crate) fn line_lowered(&self, intid: u32) {
        self.record(0, intid).line.store(false, SeqCst);
    }

    /// Notes an acknowledgement by the guest on `vcpu`.
    pub(crate) fn acknowledged(&self, vcpu: usize, intid: u32) {
        let record = self.record(vcpu, intid);
        if LEVELS.contains(&intid) {
            assert!(
                record.line.load(SeqCst),
                "{intid} was signalled while its line was low"
            );
        }

        if is_steady(intid) {
            let raised = record.raised.load(SeqCst);
            record.seen.store(raised, SeqCst);
            let acknowledged = record.acknowledged.fetch_add(1, SeqCst) + 1;
            assert!(
                LEVELS.contains(&intid) || acknowledged <= raised,
                "{intid} was raised {raised} times and acknowledged {acknowledged} times"
            );
            if intid < 8192 {
                assert!(
                    !record.active.swap(true, SeqCst),
                    "{intid} is active twice, now on vCPU {vcpu}"
                );
            }
        }
    }

    /// Notes the imminent end of an interrupt by the guest on `vcpu`.
    pub(crate) fn ending(&self, vcpu: usize, intid: u32) {
        self.record(vcpu, intid).active.store(false, SeqCst);
    }

    /// Checks every interrupt once the VM is at rest: no edge or level may be missing.
    pub(crate) fn at_rest(&self) {
        let private = (0..VCPUS).flat_map(|vcpu| (0..32).map(move |intid| (vcpu, intid)));
        self.check_nothing_missing(private);
        self.shared_at_rest();
    }

    /// Checks SPIs and LPIs once at rest.
    pub(crate) fn shared_at_rest(&self) {
        let shared = (32..64).chain(8192..8192 + LPIS);
        self.check_nothing_missing(shared.map(|intid| (0, intid)));
    }

    fn check_nothing_missing(&self, interrupts: impl Iterator<Item = (usize, u32)>) {
        for (vcpu, intid) in interrupts.filter(|&(_, intid)| is_steady(intid)) {
            let record = self.record(vcpu, intid);
            let (raised, seen) = (record.raised.load(SeqCst), record.seen.load(SeqCst));
            assert!(
                raised == seen,
                "{intid} of vCPU {vcpu} is lost: raised {raised} times, and {seen} \
                 times when it was last acknowledged"
            );
            assert!(
                !record.line.load(SeqCst),
                "{intid} is lost: its line is still high"
            );
            assert!(!record.active.load(SeqCst), "{intid} is still active");
        }
    }
}

/// Returns whether the guest keeps the interrupt enabled and mapped, and never clears it.
fn is_steady(intid: u32) -> bool {
    (intid < SGIS)
        || intid == PPI
        || STEADY_SPIS.contains(&intid)
        || LEVELS.contains(&intid)
        || STEADY_LPIS.contains(&intid)
}

/// Returns whether the scenario uses the interrupt. A delivery of any other INTID is a fault.
pub(crate) fn is_known(intid: u32) -> bool {
    is_steady(intid) || EDGES.contains(&intid) || (8192..8192 + LPIS).contains(&intid)
}

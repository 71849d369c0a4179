//! What must be true of every interrupt, kept apart from the library's own books.
//!
//! * An edge: the guest acknowledges it after it was raised, if need be together with others raised
//!   before. So once everything has come to rest, the last acknowledgement is younger than the last raise;
//!   and there are no more acknowledgements than raises.
//! * A level: the guest acknowledges it only while the device asserts it.
//! * An SPI is active on one vCPU at a time.
//!
//! That is true of interrupts that the guest never disables, clears or unmaps. It holds such interrupts
//! (the *steady* ones) and others that it treats as badly as it can, for which only the library's books
//! are checked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::vm::{EDGES, LEVELS, LPIS, PPI, SGIS, STEADY_LPIS, STEADY_SPIS, VCPUS};

const PRIVATE: usize = 32;
const SPIS: usize = 32;

/// One interrupt's record.
#[derive(Default)]
struct Record {
    /// Raises begun.
    raised: AtomicU64,
    /// Raises begun when the guest last acknowledged it.
    seen: AtomicU64,
    /// Acknowledgements.
    acknowledged: AtomicU64,
    /// Active on some vCPU.
    active: AtomicBool,
    /// The level of its line, as the device sees it.
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

    /// About to raise an edge.
    pub(crate) fn raising(&self, vcpu: usize, intid: u32) {
        self.record(vcpu, intid).raised.fetch_add(1, SeqCst);
    }

    /// The device wants to raise the line of a level-sensitive SPI; false if it is high already.
    pub(crate) fn raising_line(&self, intid: u32) -> bool {
        !self.record(0, intid).line.swap(true, SeqCst)
    }

    /// The guest's handler has made the device lower the line.
    pub(crate) fn line_lowered(&self, intid: u32) {
        self.record(0, intid).line.store(false, SeqCst);
    }

    /// The guest on `vcpu` has acknowledged an interrupt.
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

    /// The guest on `vcpu` is about to end an interrupt.
    pub(crate) fn ending(&self, vcpu: usize, intid: u32) {
        self.record(vcpu, intid).active.store(false, SeqCst);
    }

    /// Everything has come to rest: nothing may be missing.
    pub(crate) fn at_rest(&self) {
        let private = (0..VCPUS).flat_map(|vcpu| (0..32).map(move |intid| (vcpu, intid)));
        self.nothing_missing(private);
        self.shared_at_rest();
    }

    /// SPIs and LPIs have come to rest.
    pub(crate) fn shared_at_rest(&self) {
        let shared = (32..64).chain(8192..8192 + LPIS);
        self.nothing_missing(shared.map(|intid| (0, intid)));
    }

    fn nothing_missing(&self, interrupts: impl Iterator<Item = (usize, u32)>) {
        for (vcpu, intid) in interrupts.filter(|&(_, intid)| is_steady(intid)) {
            let record = self.record(vcpu, intid);
            let (raised, seen) = (record.raised.load(SeqCst), record.seen.load(SeqCst));
            assert!(
                raised == seen,
                "{intid} of vCPU {vcpu} is lost: raised {raised} times, and {seen} times when it was \
                 last acknowledged"
            );
            assert!(
                !record.line.load(SeqCst),
                "{intid} is lost: its line is still high"
            );
            assert!(!record.active.load(SeqCst), "{intid} is still active");
        }
    }
}

/// Whether the guest leaves the interrupt enabled and mapped, and never clears it.
fn is_steady(intid: u32) -> bool {
    (intid < SGIS)
        || intid == PPI
        || STEADY_SPIS.contains(&intid)
        || LEVELS.contains(&intid)
        || STEADY_LPIS.contains(&intid)
}

/// Whether the guest ever sees the interrupt; a mistake of the scenario if not.
pub(crate) fn is_known(intid: u32) -> bool {
    is_steady(intid) || EDGES.contains(&intid) || (8192..8192 + LPIS).contains(&intid)
}

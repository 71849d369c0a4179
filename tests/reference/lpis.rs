//! LPIs (IHI 0069, 5.1): pending state, configuration, and the tables in memory as the source of
//! both.

use std::collections::{BTreeMap, BTreeSet};

use super::{FIRST_LPI, Interrupt};

/// A mapped LPI.
#[derive(Clone, Debug)]
pub struct Lpi {
    /// Pending state and configuration. Never active.
    pub interrupt: Interrupt,
    /// The PE of the redistributor with the pending state, now or last.
    pub at: Option<usize>,
    /// Events mapped to the LPI, of all ITSes.
    mappings: usize,
}

impl Lpi {
    pub fn mappings(&self) -> usize {
        self.mappings
    }
}

/// All mapped LPIs, and the tables in memory.
pub struct Lpis {
    /// The mapped LPIs by INTID.
    pub mapped: BTreeMap<u32, Lpi>,
    /// The LPI configuration table in memory, a byte for each LPI, from INTID 8192 on.
    pub configuration: Vec<u8>,
    /// The LPI pending table in memory of each PE, as written by software or by the
    /// redistributor.
    pub pending: Vec<BTreeSet<u32>>,
}

impl Lpis {
    pub fn new(bits: u32, pes: usize) -> Self {
        let count = if bits == 0 { 0 } else { 1 << bits };
        Self {
            mapped: BTreeMap::new(),
            configuration: vec![0; count],
            pending: vec![BTreeSet::new(); pes],
        }
    }

    pub fn exists(&self, intid: u64) -> bool {
        let first = u64::from(FIRST_LPI);
        (first..first + self.configuration.len() as u64).contains(&intid)
    }

    /// Maps a further event to the LPI, and moves the LPI to PE `at`.
    pub fn map(&mut self, intid: u32, at: Option<usize>) {
        let interrupt = Interrupt {
            group1: true,
            ..Interrupt::default()
        };
        let lpi = self.mapped.entry(intid).or_insert(Lpi {
            interrupt,
            at,
            mappings: 0,
        });
        lpi.mappings += 1;
        self.move_to(intid, at);
        self.invalidate(intid);
    }

    /// Unmaps an event of the LPI. The pending state is withdrawn.
    pub fn unmap(&mut self, intid: u32) {
        let lpi = self.mapped.get_mut(&intid).expect("mapped");
        lpi.interrupt.latch = false;
        lpi.mappings -= 1;
        if lpi.mappings == 0 {
            self.mapped.remove(&intid);
        }
    }

    pub fn move_to(&mut self, intid: u32, at: Option<usize>) {
        self.mapped.get_mut(&intid).expect("mapped").at = at;
    }

    /// Makes the LPI pending on PE `at`, unless pending already.
    pub fn pend(&mut self, intid: u32, at: usize) {
        let lpi = self.mapped.get_mut(&intid).expect("mapped");
        if !lpi.interrupt.latch {
            lpi.at = Some(at);
        }
        lpi.interrupt.latch = true;
    }

    pub fn clear(&mut self, intid: u32) {
        let lpi = self.mapped.get_mut(&intid).expect("mapped");
        lpi.interrupt.latch = false;
    }

    /// Moves the pending LPIs of one PE to another.
    pub fn move_all(&mut self, from: usize, to: usize) {
        for lpi in self.mapped.values_mut() {
            if lpi.interrupt.latch && lpi.at == Some(from) {
                lpi.at = Some(to);
            }
        }
    }

    /// Reads the configuration of an LPI from memory, if mapped.
    pub fn invalidate(&mut self, intid: u32) {
        if let Some(lpi) = self.mapped.get_mut(&intid) {
            let byte = self.configuration[(intid - FIRST_LPI) as usize];
            lpi.interrupt.priority = byte & 0xf8;
            lpi.interrupt.enabled = byte & 1 != 0;
        }
    }

    /// Disables the LPIs of PE `pe`. IHI 0069, 5.1.2: the LPI pending table holds the pending state
    /// of the redistributor's LPIs in memory. The redistributor caches the state only while
    /// EnableLPIs is 1. RWP tracks the clearing of EnableLPIs (12.11.2, `GICR_CTLR`): once RWP is
    /// 0, the table is complete, and software's.
    pub fn disable(&mut self, pe: usize) {
        self.pending[pe].clear();
        for (intid, lpi) in &mut self.mapped {
            if lpi.at == Some(pe) && std::mem::take(&mut lpi.interrupt.latch) {
                self.pending[pe].insert(*intid);
            }
        }
    }

    /// Enables the LPIs of PE `pe`: the configuration is read, and the pending table unless
    /// `GICR_PENDBASER.PTZ` says that it `is_zero`.
    ///
    /// An LPI in the table becomes pending where it is mapped, or nowhere. This is the library's
    /// rule. IHI 0069 leaves the LPI with the table: each redistributor has a pending table of its
    /// own (5.1.2), and `MOVI` has the redistributor move the pending state (5.3), but one with
    /// EnableLPIs = 0 ignores commands that involve its LPIs (12.11.2, `GICR_CTLR`). docs/limits.md
    /// lists the difference.
    pub fn enable(&mut self, pe: usize, is_zero: bool) {
        let all: Vec<u32> = self.mapped.keys().copied().collect();
        all.into_iter().for_each(|intid| self.invalidate(intid));
        if is_zero {
            return;
        }
        for intid in &self.pending[pe] {
            if let Some(lpi) = self.mapped.get_mut(intid) {
                lpi.interrupt.latch = true;
            }
        }
    }
}

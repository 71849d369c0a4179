//! LPIs (IHI 0069, 5.1): pending state, configuration, and the tables in memory that both come from.

use std::collections::{BTreeMap, BTreeSet};

use super::{FIRST_LPI, Interrupt};

/// An LPI that is mapped.
#[derive(Clone, Debug)]
pub struct Lpi {
    /// Its pending state and configuration; never active.
    pub interrupt: Interrupt,
    /// The PE on whose redistributor it is pending, or was last.
    pub at: Option<usize>,
    /// Events that are mapped to it, of all ITSes.
    mappings: usize,
}

impl Lpi {
    pub fn mappings(&self) -> usize {
        self.mappings
    }
}

/// All of them.
pub struct Lpis {
    /// By INTID.
    pub mapped: BTreeMap<u32, Lpi>,
    /// The LPI configuration table in memory, a byte for each, from INTID 8192 on.
    pub configuration: Vec<u8>,
    /// The LPI pending table in memory of each PE, where software has written it.
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

    /// One more event is mapped to the LPI, which goes to PE `at`.
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

    /// One event fewer is; what is pending is withdrawn.
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

    /// Makes the LPI pending on PE `at`, unless it is pending already.
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

    /// What is pending on one PE goes to another.
    pub fn move_all(&mut self, from: usize, to: usize) {
        for lpi in self.mapped.values_mut() {
            if lpi.interrupt.latch && lpi.at == Some(from) {
                lpi.at = Some(to);
            }
        }
    }

    /// Reads the configuration of an LPI from memory, if it is mapped.
    pub fn invalidate(&mut self, intid: u32) {
        if let Some(lpi) = self.mapped.get_mut(&intid) {
            let byte = self.configuration[(intid - FIRST_LPI) as usize];
            lpi.interrupt.priority = byte & 0xf8;
            lpi.interrupt.enabled = byte & 1 != 0;
        }
    }

    /// PE `pe` has its LPIs enabled: both tables are read. What was pending there when they were disabled
    /// is in its pending table, as if it had been stored and read again.
    pub fn enable(&mut self, pe: usize) {
        let all: Vec<u32> = self.mapped.keys().copied().collect();
        all.into_iter().for_each(|intid| self.invalidate(intid));
        for intid in &self.pending[pe] {
            if let Some(lpi) = self.mapped.get_mut(intid)
                && lpi.at == Some(pe)
            {
                lpi.interrupt.latch = true;
            }
        }
    }
}

//! `ICC_*` (IHI 0069, 4.8 and 12.2): signalling, acknowledgement and end on a PE, and its SGIs.

use super::{FIRST_LPI, Gic, Interrupt, SPURIOUS};

/// Bits of preemption: five. The smallest binary point is 2 in Group 0 and 3 in Group 1.
const PREEMPTION_BITS: u8 = 5;

/// The CPU interface of one PE.
#[derive(Clone, Debug)]
pub struct Interface {
    /// `ICC_IGRPEN0_EL1`, `ICC_IGRPEN1_EL1`.
    pub enabled: [bool; 2],
    /// `ICC_PMR_EL1`.
    pub mask: u8,
    /// `ICC_BPR0_EL1`, `ICC_BPR1_EL1`, regardless of CBPR.
    points: [u8; 2],
    /// `ICC_CTLR_EL1.CBPR`.
    common_point: bool,
    /// `ICC_CTLR_EL1.EOImode`.
    pub splits: bool,
    /// Group priorities being handled, with their groups.
    active: Vec<(u8, bool)>,
}

impl Default for Interface {
    /// Returns the state after reset.
    fn default() -> Self {
        Self {
            enabled: [false; 2],
            mask: 0,
            points: [7 - PREEMPTION_BITS, 8 - PREEMPTION_BITS],
            common_point: false,
            splits: false,
            active: Vec::new(),
        }
    }
}

impl Interface {
    pub fn write_pmr(&mut self, value: u8) {
        self.mask = value & 0xf8;
    }

    pub fn read_bpr(&self, group1: bool) -> u8 {
        match (group1, self.common_point) {
            (true, true) => (self.points[0] + 1).min(7),
            (group1, _) => self.points[usize::from(group1)],
        }
    }

    pub fn write_bpr(&mut self, group1: bool, value: u8) {
        if !(group1 && self.common_point) {
            let least = 7 - PREEMPTION_BITS + u8::from(group1);
            self.points[usize::from(group1)] = (value & 7).max(least);
        }
    }

    /// Returns CBPR and EOImode.
    pub fn read_ctlr(&self) -> u64 {
        u64::from(self.common_point) | u64::from(self.splits) << 1
    }

    pub fn write_ctlr(&mut self, value: u64) {
        self.common_point = value & 1 != 0;
        self.splits = value & 2 != 0;
    }

    /// Returns `ICC_RPR_EL1`.
    pub fn running_priority(&self) -> u8 {
        self.active
            .iter()
            .map(|(priority, _)| *priority)
            .min()
            .unwrap_or(0xff)
    }

    /// Returns whether no interrupt is being handled.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Returns the group priority of a priority, by the tables of 4.8.2.
    fn group_priority(&self, priority: u8, group1: bool) -> u8 {
        let subpriority_bits = if group1 && !self.common_point {
            self.points[1]
        } else {
            self.points[0] + 1
        };
        (u32::from(priority) >> subpriority_bits << subpriority_bits) as u8
    }

    /// Returns whether an interrupt's priority and group allow its signalling to the PE.
    fn signals(&self, interrupt: &Interrupt) -> bool {
        let running = self.running_priority();
        let mine = self.group_priority(interrupt.priority, interrupt.group1);
        interrupt.priority < self.mask
            && (running == 0xff || mine < self.group_priority(running, interrupt.group1))
    }

    /// Drops the running priority at an end of interrupt. Returns false for an idle interface.
    fn drop_priority(&mut self) -> bool {
        let running = self.running_priority();
        let most_urgent = self
            .active
            .iter()
            .position(|(priority, _)| *priority == running);
        most_urgent.map(|at| self.active.remove(at)).is_some()
    }
}

/// The values allowed for a read: any of the highest-priority interrupts of equal priority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice(pub Vec<u32>);

impl Choice {
    pub fn allows(&self, intid: u32) -> bool {
        self.0.contains(&intid)
    }
}

impl Gic {
    /// Returns the interrupts that the distributor forwards to the redistributor of PE `pe`.
    fn forwarded_to(&self, pe: usize) -> impl Iterator<Item = (u32, &Interrupt)> {
        self.routed_to(pe)
            .filter(|(_, i)| i.pending() && i.enabled && !i.active)
            .filter(|(_, i)| self.distributor.forwards(i.group1))
    }

    /// Returns whether the redistributor of PE `pe` asserts its wake request (11.1).
    ///
    /// `GICR_WAKER.ProcessorSleep` = 1: "All interrupts that arrive at the Redistributor: Assert a
    /// WakeRequest signal." Neither the groups nor the mask of the CPU interface are among the
    /// conditions.
    pub fn asks_for_wake_up(&self, pe: usize) -> bool {
        self.redistributors[pe].sleeps && self.forwarded_to(pe).next().is_some()
    }

    /// Returns the highest-priority pending interrupts of PE `pe`: of equal priority, in groups
    /// enabled everywhere.
    fn most_urgent(&self, pe: usize) -> Vec<(u32, Interrupt)> {
        let interface = &self.interfaces[pe];
        let candidates: Vec<(u32, Interrupt)> = self
            .forwarded_to(pe)
            .filter(|(_, i)| interface.enabled[usize::from(i.group1)])
            .map(|(intid, interrupt)| (intid, *interrupt))
            .collect();
        let most = candidates.iter().map(|(_, i)| i.priority).min();
        let ties = |(_, i): &(u32, Interrupt)| Some(i.priority) == most;
        candidates.into_iter().filter(ties).collect()
    }

    /// Returns the highest-priority interrupts selected by `choose`. The result includes 1023 if no
    /// interrupt is selected, or not every one.
    fn choice(&self, pe: usize, choose: impl Fn(&Interrupt) -> bool) -> Choice {
        let ties = self.most_urgent(pe);
        let (these, others): (Vec<_>, Vec<_>) = ties.into_iter().partition(|(_, i)| choose(i));
        let mut intids: Vec<u32> = these.into_iter().map(|(intid, _)| intid).collect();
        if intids.is_empty() || !others.is_empty() {
            intids.push(SPURIOUS);
        }
        Choice(intids)
    }

    /// Returns the values allowed for `ICC_HPPIR<n>_EL1`.
    pub fn highest_pending(&self, pe: usize, group1: bool) -> Choice {
        self.choice(pe, |interrupt| interrupt.group1 == group1)
    }

    /// Returns the values allowed for a read of `ICC_IAR<n>_EL1` now.
    pub fn acknowledgeable(&self, pe: usize, group1: bool) -> Choice {
        let interface = &self.interfaces[pe];
        self.choice(pe, |interrupt| {
            interrupt.group1 == group1 && interface.signals(interrupt)
        })
    }

    /// Returns whether the IRQ (Group 1) or FIQ (Group 0) signal is asserted, or `None` if both are
    /// allowed.
    pub fn signalled(&self, pe: usize, group1: bool) -> Option<bool> {
        match self.acknowledgeable(pe, group1) {
            Choice(intids) if intids == [SPURIOUS] => Some(false),
            choice if choice.allows(SPURIOUS) => None,
            _ => Some(true),
        }
    }

    /// Applies the read of `intid`, one of [`Gic::acknowledgeable`], by PE `pe` from
    /// `ICC_IAR<n>_EL1`.
    pub fn acknowledge(&mut self, pe: usize, intid: u32) {
        let interrupt = if intid >= FIRST_LPI {
            // An LPI has no active state.
            let lpi = self.lpis.mapped.get_mut(&intid).expect("a mapped LPI");
            lpi.interrupt.latch = false;
            lpi.interrupt
        } else {
            let interrupt = self.interrupt(pe, intid).expect("an interrupt");
            interrupt.latch = false;
            interrupt.active = true;
            *interrupt
        };

        let interface = &mut self.interfaces[pe];
        let priority = interface.group_priority(interrupt.priority, interrupt.group1);
        interface.active.push((priority, interrupt.group1));
    }

    /// Applies the write of `intid`, last acknowledged by PE `pe`, to `ICC_EOIR<n>_EL1`.
    pub fn end(&mut self, pe: usize, intid: u32) {
        if self.interfaces[pe].drop_priority() && !self.interfaces[pe].splits {
            self.deactivate(pe, intid);
        }
    }

    /// Applies a write of `ICC_DIR_EL1` with EOImode 1.
    pub fn deactivate(&mut self, pe: usize, intid: u32) {
        if let Some(interrupt) = self.interrupt(pe, intid) {
            interrupt.active = false;
        }
    }

    /// Applies PE `pe`'s write of `value` to `ICC_SGI1R_EL1` (`group1`) or `ICC_SGI0R_EL1`
    /// (12.2.19). Returns the number of PEs reached, and of PEs with the SGI in the other group.
    pub fn send_sgi(&mut self, pe: usize, value: u64, group1: bool) -> (usize, usize) {
        let (mut reached, mut deaf) = (0, 0);

        let intid = (value >> 24 & 0xf) as usize;
        let to_others = value >> 40 & 1 != 0;
        let range = value >> 44 & 0xf;
        let cluster =
            (value >> 48 & 0xff) << 32 | (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;

        for (target, redistributor) in self.redistributors.iter_mut().enumerate() {
            let aff0 = redistributor.affinity & 0xff;
            let named = redistributor.affinity & !0xff == cluster
                && aff0 >> 4 == range
                && value >> (aff0 & 0xf) & 1 != 0;
            let sgi = &mut redistributor.private[intid];
            if if to_others { target != pe } else { named } {
                if sgi.group1 == group1 {
                    sgi.latch = true;
                    reached += 1;
                } else {
                    deaf += 1;
                }
            }
        }
        (reached, deaf)
    }
}

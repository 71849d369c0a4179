//! A GICv2 without Security Extensions and with two groups, from the sentences of IHI 0048. One
//! step of a guest is one call, and an interrupt is signalled at once.
//!
//! Choices that the library makes where IHI 0048 leaves them: an SPI with several targets stays
//! with its CPU while that one would take it, or else goes to the lowest that would (1.4.2), an SGI
//! is active once, whatever its sources, five bits of priority and of preemption.

use std::collections::BTreeSet;

pub(crate) const CPUS: usize = 4;
/// SGIs, PPIs and 32 SPIs.
pub(crate) const INTIDS: u32 = 64;

/// An interrupt: an SPI, or an SGI or PPI of a CPU.
#[derive(Clone, Copy, Default)]
struct Interrupt {
    enabled: bool,
    group1: bool,
    priority: u8,
    edge: bool,
    /// Made pending by an edge or by `GICD_ISPENDR<n>`.
    latch: bool,
    line: bool,
    active: bool,
    /// The CPUs, a bit each, that an SGI is pending from.
    sources: u8,
    targets: u8,
    /// The CPU that an SPI goes to.
    at: Option<usize>,
}

impl Interrupt {
    /// Returns true if the interrupt is pending: a level-sensitive one while its line is asserted,
    /// too (3.2.4).
    fn pending(self) -> bool {
        self.latch || self.sources != 0 || (!self.edge && self.line)
    }
}

#[derive(Clone, Default)]
struct Cpu {
    private: [Interrupt; 32],
    ctlr: u32,
    pmr: u8,
    bpr: u8,
    abpr: u8,
    /// Active group priorities, with the group of each.
    active: BTreeSet<(u8, bool)>,
}

/// Bits of `GICC_CTLR`.
pub(crate) const ACK_CTL: u32 = 1 << 2;
pub(crate) const FIQ_EN: u32 = 1 << 3;
pub(crate) const CBPR: u32 = 1 << 4;
pub(crate) const EOI_MODE: u32 = 1 << 9;
const CTLR: u32 = 0b11 | ACK_CTL | FIQ_EN | CBPR | EOI_MODE;

pub(crate) struct Gicv2 {
    ctlr: u32,
    spis: [Interrupt; 32],
    cpus: [Cpu; CPUS],
}

impl Gicv2 {
    pub(crate) fn new() -> Self {
        let mut cpu = Cpu {
            bpr: 2,
            abpr: 3,
            ..Cpu::default()
        };
        for sgi in &mut cpu.private[..16] {
            sgi.edge = true;
            sgi.enabled = true;
        }
        Self {
            ctlr: 0,
            spis: [Interrupt::default(); 32],
            cpus: std::array::from_fn(|_| cpu.clone()),
        }
    }

    fn irq(&mut self, cpu: usize, intid: u32) -> &mut Interrupt {
        match intid {
            0..32 => &mut self.cpus[cpu].private[intid as usize],
            _ => &mut self.spis[intid as usize - 32],
        }
    }

    fn look(&self, cpu: usize, intid: u32) -> Interrupt {
        match intid {
            0..32 => self.cpus[cpu].private[intid as usize],
            _ => self.spis[intid as usize - 32],
        }
    }

    /// Returns the mask of the group priority (3.3.1). Binary point n of `GICC_BPR` leaves bits
    /// 7:n+1, of `GICC_ABPR` bits 7:n; with CBPR, `GICC_BPR` is for both groups.
    fn group_mask(&self, cpu: usize, group1: bool) -> u8 {
        let cpu = &self.cpus[cpu];
        if group1 && cpu.ctlr & CBPR == 0 {
            (0xff_u32 << cpu.abpr) as u8
        } else {
            (0xff_u32 << (cpu.bpr + 1)) as u8
        }
    }

    /// Returns `GICC_RPR` (4.4.6).
    pub(crate) fn running(&self, cpu: usize) -> u8 {
        self.cpus[cpu].active.first().map_or(0xff, |first| first.0)
    }

    /// Returns the most urgent pending interrupts of a CPU, of one priority: pending, enabled,
    /// targeted at the CPU, not active, of a group that the distributor and the CPU interface
    /// enable.
    pub(crate) fn highest(&self, cpu: usize) -> Vec<u32> {
        let of = |intid: u32| self.look(cpu, intid);
        let candidates = (0..INTIDS).filter(|&intid| {
            let irq = of(intid);
            let here = intid < 32 || irq.at == Some(cpu);
            let enables = self.ctlr & self.cpus[cpu].ctlr;
            let open = enables >> u32::from(irq.group1) & 1 != 0;
            irq.pending() && irq.enabled && !irq.active && here && open
        });
        let candidates: Vec<u32> = candidates.collect();
        let least = candidates.iter().map(|&intid| of(intid).priority).min();
        let urgent = |intid: &u32| Some(of(*intid).priority) == least;
        candidates.into_iter().filter(urgent).collect()
    }

    /// Returns whether an interrupt is signalled (3.3): more urgent than the mask, and than the
    /// running priority by its group priority.
    fn is_signalled(&self, cpu: usize, intid: u32) -> bool {
        let irq = self.look(cpu, intid);
        let mask = self.group_mask(cpu, irq.group1);
        let running = self.running(cpu);
        irq.priority < self.cpus[cpu].pmr
            && (running == 0xff || irq.priority & mask < running & mask)
    }

    pub(crate) fn signalled(&self, cpu: usize) -> Vec<u32> {
        let highest = self.highest(cpu).into_iter();
        highest
            .filter(|&intid| self.is_signalled(cpu, intid))
            .collect()
    }

    /// Returns the sets of IRQ and FIQ that one of the equally urgent interrupts asserts.
    pub(crate) fn lines(&self, cpu: usize) -> Vec<(bool, bool)> {
        let fiq = |intid| !self.look(cpu, intid).group1 && self.cpus[cpu].ctlr & FIQ_EN != 0;
        // Of equally urgent ones, the one that is chosen may be held back by its group's mask.
        let highest = self.highest(cpu).into_iter();
        let mut lines: Vec<_> = highest
            .map(|intid| match self.is_signalled(cpu, intid) {
                true => (!fiq(intid), fiq(intid)),
                false => (false, false),
            })
            .collect();
        if lines.is_empty() {
            lines.push((false, false));
        }
        lines
    }

    /// Chooses the CPU of each SPI, after any step.
    pub(crate) fn settle(&mut self) {
        for intid in 32..INTIDS {
            let irq = self.look(0, intid);
            let target = |cpu: &usize| irq.targets >> cpu & 1 != 0;
            let takes = |cpu: &usize| {
                let enabled = self.cpus[*cpu].ctlr >> u32::from(irq.group1) & 1 != 0;
                enabled && self.is_signalled(*cpu, intid)
            };
            let now = irq.at.filter(target);
            let all = || (0..CPUS).filter(target);
            let at = (now.filter(takes).or(all().find(takes)))
                .or(now)
                .or(all().next());
            self.irq(0, intid).at = if irq.targets.count_ones() < 2 {
                all().next()
            } else {
                at
            };
        }
    }

    /// Forgets the choices, which are not in the state of a VM that is saved.
    pub(crate) fn forget(&mut self) {
        self.spis.iter_mut().for_each(|spi| spi.at = None);
    }

    /// Returns the value that `GICC_IAR`, or `GICC_AIAR`, shows of an interrupt (4.4.4 and 4.4.9).
    fn shown(&self, cpu: usize, aliased: bool, intid: u32, source: u32) -> u32 {
        let group1 = self.look(cpu, intid).group1;
        match (aliased, group1) {
            (false, true) if self.cpus[cpu].ctlr & ACK_CTL == 0 => 1022,
            (true, false) => 1023,
            _ if intid < 16 => source << 10 | intid,
            _ => intid,
        }
    }

    /// Returns the values that a read of `GICC_HPPIR` or `GICC_AHPPIR` may have.
    pub(crate) fn highest_shown(&self, cpu: usize, aliased: bool) -> Vec<u32> {
        self.values(cpu, aliased, self.highest(cpu))
    }

    /// Returns the values that a read of `GICC_IAR` or `GICC_AIAR` may have.
    pub(crate) fn acknowledgeable(&self, cpu: usize, aliased: bool) -> Vec<u32> {
        let mut values = self.values(cpu, aliased, self.signalled(cpu));
        if self.signalled(cpu).len() < self.highest(cpu).len() {
            values.push(1023);
        }
        values
    }

    fn values(&self, cpu: usize, aliased: bool, intids: Vec<u32>) -> Vec<u32> {
        let mut values: Vec<u32> = intids
            .into_iter()
            .map(|intid| {
                // 4.4.4: any source; the library's is the lowest.
                let source = self.look(cpu, intid).sources.trailing_zeros();
                self.shown(cpu, aliased, intid, source)
            })
            .collect();
        if values.is_empty() {
            values.push(1023);
        }
        values
    }

    /// Acknowledges an interrupt, by a read of `value`, one of [`Gicv2::acknowledgeable`].
    pub(crate) fn acknowledge(&mut self, cpu: usize, value: u32) {
        let intid = value & 0x3ff;
        if intid >= 1020 {
            return;
        }
        let irq = self.irq(cpu, intid);
        irq.active = true;
        irq.latch = false;
        irq.sources &= !(1 << (value >> 10 & 7));
        let (priority, group1) = (irq.priority, irq.group1);
        let mask = self.group_mask(cpu, group1);
        self.cpus[cpu].active.insert((priority & mask, group1));
    }

    /// Ends an interrupt (4.4.5 and 4.4.10).
    pub(crate) fn end(&mut self, cpu: usize, aliased: bool, intid: u32) {
        if aliased && !self.irq(cpu, intid).group1 {
            return;
        }
        if self.cpus[cpu].active.pop_first().is_some() && self.cpus[cpu].ctlr & EOI_MODE == 0 {
            self.irq(cpu, intid).active = false;
        }
    }

    /// Deactivates an interrupt (4.4.15).
    pub(crate) fn deactivate(&mut self, cpu: usize, intid: u32) {
        if self.cpus[cpu].ctlr & EOI_MODE != 0 {
            self.irq(cpu, intid).active = false;
        }
    }

    /// Sends an SGI to `targets`, a bit for each CPU (4.3.15).
    pub(crate) fn send(&mut self, sender: usize, targets: u8, sgi: u32) {
        for cpu in (0..CPUS).filter(|cpu| targets >> cpu & 1 != 0) {
            self.irq(cpu, sgi).sources |= 1 << sender;
        }
    }

    pub(crate) fn set_sources(&mut self, cpu: usize, sgi: u32, sources: u8) {
        self.irq(cpu, sgi).sources |= sources & 0xf;
    }

    pub(crate) fn clear_sources(&mut self, cpu: usize, sgi: u32, sources: u8) {
        self.irq(cpu, sgi).sources &= !sources;
    }

    pub(crate) fn sources(&self, cpu: usize, sgi: u32) -> u8 {
        self.look(cpu, sgi).sources
    }

    pub(crate) fn set_pending(&mut self, cpu: usize, intid: u32) {
        if intid >= 16 {
            self.irq(cpu, intid).latch = true;
        }
    }

    pub(crate) fn clear_pending(&mut self, cpu: usize, intid: u32) {
        if intid >= 16 {
            self.irq(cpu, intid).latch = false;
        }
    }

    pub(crate) fn set_active(&mut self, cpu: usize, intid: u32, on: bool) {
        self.irq(cpu, intid).active = on;
    }

    /// Sets a line. An edge-triggered interrupt becomes pending at a rise (3.2.4).
    pub(crate) fn set_line(&mut self, cpu: usize, intid: u32, high: bool) {
        let irq = self.irq(cpu, intid);
        irq.latch |= irq.edge && high && !irq.line;
        irq.line = high;
    }

    pub(crate) fn pulse(&mut self, intid: u32) {
        self.irq(0, intid).latch = true;
    }

    /// Enables or disables an interrupt. SGIs stay enabled: 4.3.5 leaves it open.
    pub(crate) fn set_enabled(&mut self, cpu: usize, intid: u32, on: bool) {
        if intid >= 16 {
            self.irq(cpu, intid).enabled = on;
        }
    }

    pub(crate) fn set_group(&mut self, cpu: usize, intid: u32, group1: bool) {
        self.irq(cpu, intid).group1 = group1;
    }

    pub(crate) fn set_priority(&mut self, cpu: usize, intid: u32, priority: u8) {
        self.irq(cpu, intid).priority = priority & 0xf8;
    }

    pub(crate) fn set_targets(&mut self, intid: u32, targets: u8) {
        self.irq(0, intid).targets = targets & 0xf;
    }

    pub(crate) fn set_distributor(&mut self, ctlr: u32) {
        self.ctlr = ctlr & 3;
    }

    pub(crate) fn set_ctlr(&mut self, cpu: usize, ctlr: u32) {
        self.cpus[cpu].ctlr = ctlr & CTLR;
    }

    pub(crate) fn set_pmr(&mut self, cpu: usize, pmr: u8) {
        self.cpus[cpu].pmr = pmr & 0xf8;
    }

    pub(crate) fn set_bpr(&mut self, cpu: usize, bpr: u8) {
        self.cpus[cpu].bpr = (bpr & 7).max(2);
    }

    pub(crate) fn set_abpr(&mut self, cpu: usize, abpr: u8) {
        self.cpus[cpu].abpr = (abpr & 7).max(3);
    }

    /// Returns the words of a CPU's interrupts from `first` on, a bit each: pending, and active.
    pub(crate) fn words(&self, cpu: usize, first: u32) -> (u32, u32) {
        let word = |bit: &dyn Fn(Interrupt) -> bool| {
            (0..32).fold(0, |word, n| {
                word | u32::from(bit(self.look(cpu, first + n))) << n
            })
        };
        (word(&Interrupt::pending), word(&|irq| irq.active))
    }
}

//! Random operations on some SPIs of one CPU, compared with a small model of the state machine
//! (3.2.4) and of prioritization (3.3).

use crate::cpu;
use crate::gicc::{self, EOI_MODE, NONE, OPEN};
use crate::gicd::{BOTH, FREE_SPI};
use crate::harness::{Case, Cpus, Outcome, equal, holds};
use crate::machine::Machine;

/// SPIs of the model.
const SPIS: usize = 24;

/// Operations of a case.
const STEPS: u32 = 3_000;

/// Operations between two comparisons of all states.
const STRIDE: u32 = 16;

/// Running priority of the model without an active interrupt.
const IDLE: u16 = 0x100;

pub(super) const CASES: &[Case] = &[
    Case::new("random.joined_ends", "3.2.4, 3.3, EOImode 0", |m| {
        Model::new(0x5eed_0001, false).run(m)
    }),
    Case::new("random.split_ends", "3.2.1, 3.2.4, 3.3, EOImode 1", |m| {
        Model::new(0x5eed_0002, true).run(m)
    }),
    Case::new("random.on_each_cpu", "3.2.4, 3.3, 3.2.1", |m| {
        // The SPIs of the model are CPU 0's. The others have their timers and nothing to take.
        let (others, own) = crate::cpus::run_beside(
            1,
            || {
                for _ in 0..STEPS {
                    equal("what CPU 1 takes", gicc::acknowledge(), NONE)?;
                    cpu::relax();
                }
                Ok(())
            },
            || Model::new(0x5eed_0003, true).run(m),
        );
        own.and(others)
    })
    .on(Cpus::Two),
];

/// One SPI of the model.
#[derive(Clone, Copy)]
struct Spi {
    is_enabled: bool,
    is_pending: bool,
    is_active: bool,
    priority: u8,
}

/// The state of the SPIs and of CPU 0's interface.
struct Model {
    random: u32,
    is_split: bool,
    spis: [Spi; SPIS],
    mask: u8,
    is_forwarded: bool,
    /// SPIs whose priorities have not been dropped, and these priorities, the last one last.
    nested: [(usize, u8); SPIS],
    depth: usize,
}

impl Model {
    fn new(seed: u32, is_split: bool) -> Self {
        let spi = Spi {
            is_enabled: true,
            is_pending: false,
            is_active: false,
            priority: 0xa0,
        };
        Self {
            random: seed,
            is_split,
            spis: [spi; SPIS],
            mask: OPEN as u8,
            is_forwarded: true,
            nested: [(0, 0); SPIS],
            depth: 0,
        }
    }

    /// Returns a random number below `end` (xorshift).
    fn below(&mut self, end: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % end
    }

    fn running(&self) -> u16 {
        match self.nested[..self.depth].last() {
            Some((_, priority)) => u16::from(*priority),
            None => IDLE,
        }
    }

    /// Returns the priority of what has to be signalled.
    fn signalled(&self) -> Option<u8> {
        let ready = |spi: &&Spi| spi.is_enabled && spi.is_pending && !spi.is_active;
        let best = self
            .spis
            .iter()
            .filter(ready)
            .map(|spi| spi.priority)
            .min()?;
        let passes = best < self.mask && u16::from(best) < self.running();
        (passes && self.is_forwarded).then_some(best)
    }

    /// Runs the operations, and compares.
    fn run(mut self, m: &Machine) -> Outcome {
        gicc::set_ctlr(if self.is_split { EOI_MODE } else { 0 });
        for number in 0..SPIS as u32 {
            m.edge(number);
        }
        for step in 0..STEPS {
            self.step(m)?;
            if step % STRIDE == 0 {
                self.compare(m)?;
            }
        }
        self.compare(m)
    }

    /// Does one operation on the GIC and on the model.
    fn step(&mut self, m: &Machine) -> Outcome {
        let place = self.below(SPIS as u32) as usize;
        let irq = m.irq(FREE_SPI + place as u32);
        match self.below(16) {
            0..4 => {
                irq.set_pending();
                self.spis[place].is_pending = true;
            }
            4 => {
                irq.clear_pending();
                self.spis[place].is_pending = false;
            }
            5 => {
                irq.enable();
                self.spis[place].is_enabled = true;
            }
            6 => {
                irq.disable();
                self.spis[place].is_enabled = false;
            }
            7 => {
                let priority = (self.below(15) * 0x10) as u8;
                irq.set_priority(priority);
                self.spis[place].priority = priority;
            }
            8 => {
                self.mask = (self.below(16) * 0x10) as u8;
                gicc::set_pmr(self.mask.into());
            }
            9 => {
                self.mask = 0xf0;
                gicc::set_pmr(self.mask.into());
            }
            10 => {
                self.is_forwarded = self.below(3) != 0;
                m.enable_groups(if self.is_forwarded { BOTH } else { 0 });
            }
            11 if self.is_split => self.deactivate(place, irq.intid),
            11..14 => return self.acknowledge(),
            _ => self.end(),
        }
        Ok(())
    }

    /// Acknowledges, and checks that it is one of the most urgent that may be signalled.
    fn acknowledge(&mut self) -> Outcome {
        let Some(priority) = self.signalled() else {
            return equal("what is acknowledged of nothing", gicc::acknowledge(), NONE);
        };
        let read = gicc::take();
        let place = read.wrapping_sub(FREE_SPI) as usize;
        holds("an SPI of the model", place < SPIS)?;
        let spi = &mut self.spis[place];
        let is_ready = spi.is_enabled && spi.is_pending && !spi.is_active;
        holds("enabled, pending, and not active", is_ready)?;
        equal("its priority", spi.priority, priority)?;
        spi.is_pending = false;
        spi.is_active = true;
        self.nested[self.depth] = (place, priority);
        self.depth += 1;
        Ok(())
    }

    /// Ends the last interrupt that was acknowledged, if there is one.
    fn end(&mut self) {
        if self.depth == 0 {
            return;
        }
        self.depth -= 1;
        let (place, _) = self.nested[self.depth];
        gicc::end(FREE_SPI + place as u32);
        if !self.is_split {
            self.spis[place].is_active = false;
        }
    }

    /// Deactivates an SPI whose priority has been dropped.
    fn deactivate(&mut self, place: usize, intid: u32) {
        let is_dropped = self.nested[..self.depth]
            .iter()
            .all(|(nested, _)| *nested != place);
        if self.spis[place].is_active && is_dropped {
            gicc::deactivate(intid);
            self.spis[place].is_active = false;
        }
    }

    /// Compares the states of all SPIs, and the running priority.
    fn compare(&self, m: &Machine) -> Outcome {
        for (place, spi) in self.spis.iter().enumerate() {
            let irq = m.irq(FREE_SPI + place as u32);
            equal("enabled", irq.is_enabled(), spi.is_enabled)?;
            equal("pending", irq.is_pending(), spi.is_pending)?;
            equal("active", irq.is_active(), spi.is_active)?;
            equal("priority", irq.priority(), spi.priority)?;
        }
        equal("RPR", gicc::running_priority(), self.running().min(0xff))?;
        if self.signalled().is_none() {
            equal("IRQ", cpu::spin_until(1_000_000, || !cpu::irq()), true)
        } else {
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))
        }
    }
}

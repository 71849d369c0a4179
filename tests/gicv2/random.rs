//! Random steps of a guest, compared with the model.

use proptest::prelude::*;
use vgic::intid::IntId;

use crate::common::{GICD, vcpu};
use crate::model::{CPUS, Gicv2, INTIDS};
use crate::{
    CPENDSGIR, CTLR, DIR, EOIR, GICC, Guest, IAR, ISACTIVER, ISENABLER, ISPENDR, ITARGETSR, PMR,
    RPR, SGIR, SPENDSGIR, config,
};

/// A step of a CPU, with the number of an interrupt.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// `GICC_IAR` or `GICC_AIAR`.
    Acknowledge(bool),
    /// `GICC_EOIR` or `GICC_AEOIR` of the interrupt that was acknowledged last.
    End(bool),
    /// `GICC_DIR` of an interrupt that was acknowledged.
    Deactivate,
    /// `GICD_SGIR`: filter, list, SGI.
    Send(u32, u8, u32),
    SetSources(u32, u8),
    ClearSources(u32, u8),
    SetPending(u32),
    ClearPending(u32),
    SetActive(u32, bool),
    Line(u32, bool),
    Pulse(u32),
    Enable(u32, bool),
    Group(u32, bool),
    Priority(u32, u8),
    Targets(u32, u8),
    Distributor(u32),
    Control(u32),
    Mask(u8),
    BinaryPoint(bool, u8),
    Highest(bool),
    States,
    Put,
    /// The VM is saved, and a new one takes the state.
    Save,
}

/// Returns the interrupts that steps are about: few of each kind.
fn intids() -> impl Strategy<Value = u32> {
    prop_oneof![0..3_u32, 20..23_u32, 40..52_u32]
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let sgi = 0..3_u32;
    let step = prop_oneof![
        12 => any::<bool>().prop_map(Step::Acknowledge),
        8 => any::<bool>().prop_map(Step::End),
        4 => Just(Step::Deactivate),
        6 => (0..4_u32, any::<u8>(), sgi.clone()).prop_map(|(f, l, n)| Step::Send(f, l, n)),
        2 => (sgi.clone(), any::<u8>()).prop_map(|(n, s)| Step::SetSources(n, s)),
        2 => (sgi, any::<u8>()).prop_map(|(n, s)| Step::ClearSources(n, s)),
        6 => intids().prop_map(Step::SetPending),
        3 => intids().prop_map(Step::ClearPending),
        2 => (intids(), any::<bool>()).prop_map(|(n, on)| Step::SetActive(n, on)),
        4 => (intids(), any::<bool>()).prop_map(|(n, high)| Step::Line(n, high)),
        4 => (40..52_u32).prop_map(Step::Pulse),
        3 => (intids(), any::<bool>()).prop_map(|(n, on)| Step::Enable(n, on)),
        2 => (intids(), any::<bool>()).prop_map(|(n, on)| Step::Group(n, on)),
        4 => (intids(), 0..6_u8).prop_map(|(n, p)| Step::Priority(n, p << 4 | p)),
        2 => (40..52_u32, any::<u8>()).prop_map(|(n, t)| Step::Targets(n, t)),
        1 => (0..4_u32).prop_map(Step::Distributor),
        2 => any::<u32>().prop_map(Step::Control),
        2 => (0..8_u8).prop_map(|m| Step::Mask(m << 4 | 0x80)),
        1 => (any::<bool>(), 0..8_u8).prop_map(|(a, p)| Step::BinaryPoint(a, p)),
        3 => any::<bool>().prop_map(Step::Highest),
        2 => Just(Step::States),
        1 => Just(Step::Put),
        1 => Just(Step::Save),
    ];
    prop::collection::vec((0..CPUS, step), 1..120)
}

/// A guest, its model, and the interrupts that each CPU has taken and not ended.
struct Pair {
    guest: Guest,
    model: Gicv2,
    taken: [Vec<u32>; CPUS],
    to_deactivate: [Vec<u32>; CPUS],
}

impl Pair {
    /// Returns a pair after a set-up: both groups enabled, every interrupt enabled and an SPI for
    /// each CPU.
    fn new() -> Self {
        let guest = Guest(crate::Machine::from_config(config(CPUS)));
        (0..CPUS).for_each(|n| guest.0.enter(n));
        let mut this = Self {
            guest,
            model: Gicv2::new(),
            taken: Default::default(),
            to_deactivate: Default::default(),
        };
        this.step(0, Step::Distributor(3));
        for n in 0..CPUS {
            this.step(n, Step::Control(0b111));
            this.step(n, Step::Mask(0xf8));
            (20..23).for_each(|intid| this.step(n, Step::Enable(intid, true)));
        }
        for intid in 40..52 {
            this.step(0, Step::Enable(intid, true));
            this.step(0, Step::Targets(intid, 1 << (intid % 4)));
        }
        this.model.settle();
        this
    }

    fn step(&mut self, n: usize, step: Step) {
        let (guest, model) = (&self.guest, &mut self.model);
        let set_bit = |register: u64, intid: u32| {
            let gpa = register + u64::from(intid / 32) * 4;
            guest.write(n, gpa, 1 << (intid % 32));
        };
        match step {
            Step::Acknowledge(aliased) => {
                let value = guest.read(n, if aliased { GICC + 0x20 } else { IAR });
                let allowed = model.acknowledgeable(n, aliased);
                assert!(allowed.contains(&value), "{value:#x}, not of {allowed:x?}");
                model.acknowledge(n, value);
                if value & 0x3ff < 1020 {
                    self.taken[n].push(value);
                }
            }
            Step::End(aliased) => {
                if let Some(value) = self.taken[n].pop() {
                    let register = if aliased { GICC + 0x24 } else { EOIR };
                    guest.write(n, register, value);
                    model.end(n, aliased, value & 0x3ff);
                    self.to_deactivate[n].push(value);
                }
            }
            Step::Deactivate => {
                if let Some(value) = self.to_deactivate[n].pop() {
                    guest.write(n, DIR, value);
                    model.deactivate(n, value & 0x3ff);
                }
            }
            Step::Send(filter, list, sgi) => {
                let value = filter << 24 | u32::from(list) << 16 | sgi;
                guest.write(n, SGIR, value);
                let targets = match filter {
                    0 => list,
                    1 => !(1 << n),
                    2 => 1 << n,
                    _ => 0,
                };
                model.send(n, targets, sgi);
            }
            Step::SetSources(sgi, sources) => {
                self.guest
                    .write_byte(n, SPENDSGIR + u64::from(sgi), sources);
                model.set_sources(n, sgi, sources);
            }
            Step::ClearSources(sgi, sources) => {
                self.guest
                    .write_byte(n, CPENDSGIR + u64::from(sgi), sources);
                model.clear_sources(n, sgi, sources);
            }
            Step::SetPending(intid) => {
                set_bit(ISPENDR, intid);
                model.set_pending(n, intid);
            }
            Step::ClearPending(intid) => {
                set_bit(GICD + 0x280, intid);
                model.clear_pending(n, intid);
            }
            Step::SetActive(intid, on) => {
                set_bit(if on { ISACTIVER } else { GICD + 0x380 }, intid);
                model.set_active(n, intid, on);
            }
            Step::Line(intid, high) => {
                let (vm, pin) = (&guest.0.vm, guest.0.pin());
                match IntId::new(intid).unwrap() {
                    ppi if (16..32).contains(&intid) => {
                        vm.set_ppi_line(&pin, vcpu(n), ppi, high).unwrap();
                    }
                    spi if intid >= 32 => vm.set_spi_line(&pin, spi, high).unwrap(),
                    _ => return,
                }
                model.set_line(n, intid, high);
            }
            Step::Pulse(intid) => {
                guest.0.inject_spi(intid);
                model.pulse(intid);
            }
            Step::Enable(intid, on) => {
                set_bit(if on { ISENABLER } else { GICD + 0x180 }, intid);
                model.set_enabled(n, intid, on);
            }
            Step::Group(intid, group1) => {
                let gpa = GICD + 0x80 + u64::from(intid / 32) * 4;
                let old = guest.read(n, gpa) & !(1 << (intid % 32));
                let new = old | u32::from(group1) << (intid % 32);
                guest.write(n, gpa, new);
                model.set_group(n, intid, group1);
            }
            Step::Priority(intid, priority) => {
                let gpa = GICD + 0x400 + u64::from(intid);
                guest.write_byte(n, gpa, priority);
                model.set_priority(n, intid, priority);
            }
            Step::Targets(intid, targets) => {
                self.guest
                    .write_byte(n, ITARGETSR + u64::from(intid), targets);
                model.set_targets(intid, targets);
            }
            Step::Distributor(ctlr) => {
                guest.write(n, GICD, ctlr);
                model.set_distributor(ctlr);
            }
            Step::Control(ctlr) => {
                guest.write(n, CTLR, ctlr);
                model.set_ctlr(n, ctlr);
            }
            Step::Mask(mask) => {
                guest.write(n, PMR, mask.into());
                model.set_pmr(n, mask);
            }
            Step::BinaryPoint(aliased, point) => {
                let gpa = GICC + if aliased { 0x1c } else { 0x08 };
                guest.write(n, gpa, point.into());
                if aliased {
                    model.set_abpr(n, point);
                } else {
                    model.set_bpr(n, point);
                }
            }
            Step::Highest(aliased) => {
                let gpa = GICC + if aliased { 0x28 } else { 0x18 };
                let value = guest.read(n, gpa);
                let allowed = model.highest_shown(n, aliased);
                assert!(allowed.contains(&value), "{value:#x}, not of {allowed:x?}");
                assert_eq!(guest.read(n, RPR), model.running(n).into());
            }
            Step::States => {
                for first in (0..INTIDS).step_by(32) {
                    let at = u64::from(first / 8);
                    let pending = guest.read_states(n, ISPENDR + at);
                    let active = guest.read_states(n, ISACTIVER + at);
                    assert_eq!((pending, active), model.words(n, first), "from {first}");
                }
                for sgi in 0..3 {
                    let sources = guest.read(n, CPENDSGIR) >> (sgi * 8) & 0xff;
                    assert_eq!(sources, model.sources(n, sgi).into(), "SGI {sgi}");
                }
            }
            Step::Put => {
                let cpu = &guest.0.cpus[n];
                guest.0.exit(n);
                guest.0.vm.vcpu_put(&cpu.pin(), vcpu(n)).unwrap();
                guest.0.enter(n);
            }
            Step::Save => {
                model.forget();
                self.save();
            }
        }
    }

    /// Saves the VM, and gives a new one the state.
    fn save(&mut self) {
        let state = self.guest.0.save();
        let target = crate::Machine::from_config(config(CPUS));
        target.restore(&state).unwrap();
        assert!(target.save() == state);
        (0..CPUS).for_each(|n| target.enter(n));
        std::mem::replace(&mut self.guest, Guest(target)).finish();
    }

    /// Exits and enters on every CPU.
    fn bounce(&self) {
        (0..CPUS).for_each(|n| self.guest.0.bounce(n));
    }

    /// Compares the lines of each CPU.
    fn compare(&self) {
        // An interrupt that moves leaves its CPU at one exit and enters the other at the next.
        self.bounce();
        self.bounce();
        for n in 0..CPUS {
            let lines = self.guest.lines(n);
            let allowed = self.model.lines(n);
            assert!(
                allowed.contains(&(lines.irq, lines.fiq)),
                "CPU {n}: {lines:?}, not of {allowed:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Takes random steps. Every value that a guest reads, and every line, is the model's.
    #[test]
    fn a_guest_sees_what_the_model_says(steps in steps()) {
        let mut pair = Pair::new();
        for (n, step) in steps {
            pair.step(n, step);
            pair.model.settle();
            pair.compare();
        }
        pair.guest.finish();
    }
}

//! More interrupts than list registers, of several kinds at once.

use super::its::open_with_events;
use super::kvm;
use crate::gic::interface::{
    self, EOI_MODE, NONE, deactivate, end, end_0, running_priority, set_ctlr, set_igrpen_0,
};
use crate::gic::its::{ENABLED, FIRST_LPI};
use crate::gic::{FREE_SPI, GROUP_0, GROUP_1};
use crate::harness::{Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, holds};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// Device of [`open_with_events`].
const DEVICE: u32 = 2;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "overflow.lpis_among_active_spis",
        "5.1 LPIs have no active state, ICC_DIR_EL1",
        lpis_among_active,
    )
    .unlike_kvm(kvm::STARVED),
    Case::new(
        "overflow.nested_lpis_and_spis",
        "5.1, 4.8 preemption, ICC_EOIR1_EL1",
        nested,
    )
    .unlike_kvm(kvm::STARVED),
    Case::new(
        "overflow.both_groups",
        "4.6 interrupt grouping, 4.8",
        both_groups,
    )
    .unlike_kvm(kvm::FORGOTTEN),
    Case::new(
        "overflow.active_on_a_cpu_that_is_off",
        "DEN 0022, 4.1, ICC_DIR_EL1",
        active_while_off,
    )
    .unlike_kvm(kvm::STARVED)
    .on(Cpus::Two),
    Case::new(
        "overflow.pending_on_a_cpu_that_is_off",
        "DEN 0022, 4.1",
        pending_while_off,
    )
    .on(Cpus::Two),
];

/// Takes and ends LPIs while many SPIs are active. The SPIs stay active.
fn lpis_among_active(m: &Machine) -> Outcome {
    const SPIS: u32 = 64;
    const LPIS: u32 = 32;
    let its = open_with_events(m, LPIS)?;
    set_ctlr(EOI_MODE);
    for place in 0..SPIS {
        m.edge(place).set_pending();
        expect_and_end(FREE_SPI + place)?;
    }

    for _ in 0..2 {
        (0..LPIS).try_for_each(|event| its.raise(DEVICE, event))?;
        let mut taken = 0u32;
        for _ in 0..LPIS {
            let lpi = super::its::take_and_end();
            holds("an LPI", (FIRST_LPI..FIRST_LPI + LPIS).contains(&lpi))?;
            taken |= 1 << (lpi - FIRST_LPI);
        }
        equal("each of them", taken, u32::MAX)?;
        expect_none()?;
    }

    for place in 0..SPIS {
        let irq = m.shared(FREE_SPI + place);
        holds("active until it is ended", irq.is_active())?;
        deactivate(irq.intid);
        equal("active once it is ended", irq.is_active(), false)?;
    }
    expect_none()
}

/// Nests LPIs and SPIs as deep as there are priorities, and ends them in turn.
fn nested(m: &Machine) -> Outcome {
    const LEVELS: u32 = 31;
    let priority = |level: u32| 0xf0 - (level * 8) as u8;
    let its = open_with_events(m, LEVELS)?;
    let is_lpi = |level: u32| level % 2 == 1;
    let intid = |level| match is_lpi(level) {
        true => FIRST_LPI + level,
        false => FREE_SPI + level,
    };

    for _ in 0..2 {
        for level in 0..LEVELS {
            if is_lpi(level) {
                its.configure(FIRST_LPI + level, priority(level) | ENABLED);
                its.invalidate(DEVICE, level)?;
                its.raise(DEVICE, level)?;
            } else {
                m.edge(level).at(priority(level)).set_pending();
            }
            expect(intid(level))?;
            equal("RPR", running_priority(), priority(level))?;
        }

        for level in (0..LEVELS).rev() {
            end(intid(level));
            let outer = level.checked_sub(1).map_or(0xff, priority);
            equal("RPR of the outer one", running_priority(), outer)?;
            if !is_lpi(level) {
                let is_active = m.shared(intid(level)).is_active();
                equal("active once it is ended", is_active, false)?;
            }
        }
        expect_none()?;
    }
    Ok(())
}

/// Takes many pending interrupts of both groups, each by the register of its group.
fn both_groups(m: &Machine) -> Outcome {
    const COUNT: u32 = 100;
    let group = |place: u32| place / 3 % 2;
    m.enable_groups(0);
    for place in 0..COUNT {
        let irq = m.edge(place).at((0x40 + place % 8 * 0x10) as u8);
        irq.set_group(group(place));
        irq.set_pending();
    }

    set_igrpen_0(1);
    m.enable_groups(GROUP_0 | GROUP_1);
    let mut seen = [false; COUNT as usize];
    for _ in 0..COUNT {
        let (mut intid, mut of) = (NONE, 0);
        cpu::spin_until(1_000_000, || {
            (intid, of) = (interface::acknowledge_0(), 0);
            if intid >= 1020 {
                (intid, of) = (interface::acknowledge(), 1);
            }
            intid < 1020
        });

        let place = intid.wrapping_sub(FREE_SPI);
        holds("one of those that are pending", place < COUNT)?;
        equal("its group", of, group(place))?;
        equal("taken before", seen[place as usize], false)?;
        seen[place as usize] = true;
        match of {
            0 => end_0(intid),
            _ => end(intid),
        }
    }
    expect_none()
}

/// Turns a CPU off with many active interrupts. They stay active, and are ended by another CPU, or
/// once the CPU is on.
fn active_while_off(m: &Machine) -> Outcome {
    const COUNT: u32 = 16;
    for place in 0..COUNT {
        let irq = m.edge(place);
        irq.route(1);
        irq.set_pending();
    }
    cpus::on(1, || {
        set_ctlr(EOI_MODE);
        (0..COUNT).try_for_each(|_| {
            let intid = interface::take();
            holds("one of them", intid.wrapping_sub(FREE_SPI) < COUNT)?;
            end(intid);
            Ok(())
        })
    })?;
    cpus::turn_off(m, 1);

    let (ended, kept) = (COUNT / 2, COUNT);
    set_ctlr(EOI_MODE);
    let mut outcome = Ok(());
    for place in 0..kept {
        let irq = m.shared(FREE_SPI + place);
        outcome = outcome.and_then(|()| holds("active while its CPU is off", irq.is_active()));
        if place < ended {
            deactivate(irq.intid);
            outcome =
                outcome.and_then(|()| equal("active once it is ended", irq.is_active(), false));
        }
    }

    cpus::turn_on(m, 1);
    outcome?;
    cpus::on(1, || {
        interface::reset();
        set_ctlr(EOI_MODE);
        for place in ended..kept {
            let irq = m.shared(FREE_SPI + place);
            holds("active yet", irq.is_active())?;
            deactivate(irq.intid);
            equal("active once it is ended", irq.is_active(), false)?;
        }
        expect_none()
    })
}

/// Makes many interrupts pending for a CPU that is off. The CPU takes them when it is on again.
fn pending_while_off(m: &Machine) -> Outcome {
    const COUNT: u32 = 32;
    cpus::turn_off(m, 1);
    for place in 0..COUNT {
        let irq = m.edge(place);
        irq.route(1);
        irq.set_pending();
    }
    (0..16).for_each(|intid| m.sgi(1, intid).set_pending());

    cpus::turn_on(m, 1);
    cpus::on(1, || {
        interface::reset();
        let (mut spis, mut sgis) = (0u32, 0u32);
        for _ in 0..COUNT + 16 {
            match super::its::take_and_end() {
                intid @ 0..16 => sgis |= 1 << intid,
                NONE => break,
                intid => spis |= 1u32.checked_shl(intid.wrapping_sub(FREE_SPI)).unwrap_or(0),
            }
        }
        equal("the SGIs", sgis, 0xffff)?;
        equal("the SPIs", spis, u32::MAX)?;
        expect_none()
    })
}

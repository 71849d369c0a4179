//! Writers disable an interrupt, or close the groups, and read `GICD_CTLR` until RWP is 0. Readers
//! find an interrupt disabled, or the groups closed, and do likewise.
//!
//! The steps are those of a write of `ICENABLER` (`mmio::bank`), of a write of `GICD_CTLR` that
//! notifies all vCPUs itself (`delivery::group_enables`), of `rwp::expect`, and of a read of
//! `GICD_CTLR` (`mmio::gicd`).

use core::mem;

use vgic::internals::{RECALL, RWP_GICD, Write, is_being_written, is_recalled};

use crate::program::{Next, Pc};
use crate::scenario::{Fault, Role, Scenario};
use crate::state::State;

/// Takes a step of a writer or reader. Returns the next place, or `None` if nothing changes.
pub(crate) fn step(scenario: &Scenario, state: &mut State, cpu: usize) -> Option<Pc> {
    let (role, pc) = (scenario.roles[cpu], state.cpus[cpu]);
    let rwp_first = role == Role::GroupReader && scenario.has(Fault::RwpBeforeEnables);
    // The place after RWP has been found to wait for no vCPU.
    let zero = if rwp_first {
        Pc::ReadControl
    } else {
        Pc::Complete
    };
    // The place after RWP has read as 1.
    let again = if rwp_first {
        Pc::ReadCount
    } else {
        Pc::ReadControl
    };
    Some(match (pc, role) {
        (Pc::BeginWrite, _) => {
            if !scenario.has(Fault::WriteNotCounted) {
                state.control(|control| mem::forget(control.begin()));
            }
            Pc::Disable
        }
        (Pc::Disable, Role::Writer { irq, .. }) => {
            let v = scenario.target(irq);
            let in_lr = state.vcpus[usize::from(v)].lrs & irq != 0;
            let disables = state.enabled & irq != 0;
            state.enabled &= !irq;
            match disables && in_lr {
                true if scenario.has(Fault::ExpectedBeforeRecall) => Pc::Expect(v),
                true => Pc::Notify(v, RECALL as u16, Next::Expect(v)),
                false => Pc::EndWrite,
            }
        }
        (Pc::CloseGroups, _) => {
            let old = state.control(|control| {
                let (old, write) = control.write(0);
                mem::forget(write);
                old
            });
            match old {
                0 => Pc::EndWrite,
                _ => Pc::Notify(0, RECALL as u16, Next::Expect(0)),
            }
        }
        (Pc::Expect(v), _) => match is_recalled(state.vcpus[usize::from(v)].copy()) {
            true if scenario.has(Fault::FlagBeforeCount) => Pc::SetFlag(v),
            true => Pc::CountOn(v),
            false if scenario.has(Fault::ExpectedBeforeRecall) => {
                Pc::Notify(v, RECALL as u16, Next::EndWrite)
            }
            false => expected(scenario, role, v),
        },
        (Pc::CountOn(v), _) => {
            state.count(|count| count.add());
            match scenario.has(Fault::FlagBeforeCount) {
                true => Pc::Renew(v),
                false => Pc::SetFlag(v),
            }
        }
        (Pc::SetFlag(v), _) => {
            match state.vcpus[usize::from(v)].flags(|flags| flags.set(RWP_GICD)) {
                true if scenario.has(Fault::FlagBeforeCount) => Pc::CountOn(v),
                false if !scenario.has(Fault::FlagBeforeCount) => Pc::CountBack(v),
                _ => Pc::Renew(v),
            }
        }
        (Pc::CountBack(v), _) => {
            state.count(|count| count.sub());
            Pc::Renew(v)
        }
        (Pc::Renew(v), _) => {
            if !scenario.has(Fault::WaitingOverlooked) {
                state.renew_looks();
            }
            expected(scenario, role, v)
        }
        (Pc::EndWrite, _) => {
            if !scenario.has(Fault::WriteNotCounted) {
                state.control(|control| drop(Write(control)));
            }
            Pc::ReadControl
        }
        (Pc::ReadEnable, Role::Reader { irq }) => match state.enabled & irq {
            0 => Pc::ReadControl,
            _ => return None,
        },
        (Pc::ReadControl, _) => {
            let read = state.control(|control| control.get());
            let closed = role != Role::GroupReader || !state.groups_are_open();
            match closed && !is_being_written(read) {
                true if rwp_first => Pc::Complete,
                true => Pc::ReadCount,
                false if rwp_first => Pc::ReadCount,
                false => return None,
            }
        }
        (Pc::ReadCount, _) => match state.count(|count| count.any()) {
            true => Pc::ReadLooks,
            false => zero,
        },
        (Pc::ReadLooks, _) => match state.looked {
            true => zero,
            false => Pc::ReadWord(0, false),
        },
        (Pc::ReadWord(v, old), _) => match is_recalled(state.vcpus[usize::from(v)].copy()) {
            true => Pc::ReadFlags(v, old),
            false if v + 1 < scenario.vcpus => Pc::ReadWord(v + 1, old),
            false => Pc::EndLooks(old),
        },
        (Pc::ReadFlags(v, old), _) => {
            match state.vcpus[usize::from(v)].flags(|flags| flags.has(RWP_GICD)) {
                true => again,
                false if v + 1 < scenario.vcpus => Pc::ReadWord(v + 1, old),
                false => Pc::EndLooks(old),
            }
        }
        (Pc::EndLooks(old), _) => match old || state.looked {
            true => again,
            false => {
                state.looked = true;
                zero
            }
        },
        (Pc::Complete, Role::Writer { irq, again: true }) => {
            state.enabled |= irq;
            match state.work_of(scenario, irq) {
                0 => Pc::BeginWrite,
                work => Pc::Notify(scenario.target(irq), work, Next::BeginWrite),
            }
        }
        (Pc::Complete, _) => return None,
        _ => unreachable!("{pc:?} is no place of a {role:?}"),
    })
}

/// Returns the place after a vCPU has been recalled, and is waited for if need be. A write of the
/// groups goes on with the next vCPU.
fn expected(scenario: &Scenario, role: Role, v: u8) -> Pc {
    match role {
        Role::GroupWriter if v + 1 < scenario.vcpus => {
            Pc::Notify(v + 1, RECALL as u16, Next::Expect(v + 1))
        }
        _ => Pc::EndWrite,
    }
}

//! The teardown of the VM: the steps of `teardown::claim` and `teardown::dismantle`.

use core::mem;

use vgic::internals::{Deferred, Residency};

use crate::program::{Half, Pc};
use crate::scenario::{Fault, Scenario};
use crate::state::State;

/// Takes a step of a teardown. Returns the next place, or `None` if nothing changes.
pub(crate) fn step(scenario: &Scenario, state: &mut State, pc: Pc) -> Option<Pc> {
    Some(match pc {
        Pc::Claim(v) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            let before = vcpu.residency;
            match vcpu.word(Residency::tear_down) {
                Ok(()) if scenario.has(Fault::TornDownByStore) => {
                    // The look alone: the store comes with the next step.
                    let claimed = mem::replace(&mut vcpu.residency, before);
                    Pc::Split(Half::Claim(v), claimed)
                }
                Ok(()) => next_claim(scenario, v),
                Err(_) if v == 0 => return None,
                Err(_) => Pc::PutBack(0, v),
            }
        }
        Pc::Split(Half::Claim(v), claimed) => {
            state.vcpus[usize::from(v)].residency = claimed;
            next_claim(scenario, v)
        }
        Pc::PutBack(v, end) => {
            if !scenario.has(Fault::ClaimKept) {
                state.vcpus[usize::from(v)].word(Residency::put);
            }
            match v + 1 < end {
                true => Pc::PutBack(v + 1, end),
                false => Pc::Claim(0),
            }
        }
        Pc::EndWork(v) => {
            let vcpu = &mut state.vcpus[usize::from(v)];
            let _ = vcpu.word(Residency::take_work);
            vcpu.kicks = 0;
            match v + 1 < scenario.vcpus {
                true => Pc::EndWork(v + 1),
                false => Pc::EndDeferred,
            }
        }
        Pc::EndDeferred => {
            let _ = state.noted(Deferred::take);
            Pc::EmptyLists
        }
        Pc::EmptyLists => {
            state.pending = 0;
            Pc::FreeAll
        }
        Pc::FreeAll => match state.free_list {
            0 => Pc::Apart,
            _ => {
                state.free_list -= 1;
                pc
            }
        },
        Pc::Apart => return None,
        _ => unreachable!("{pc:?} is no place of a teardown"),
    })
}

/// Returns the place after the claim of a vCPU.
fn next_claim(scenario: &Scenario, v: u8) -> Pc {
    match v + 1 < scenario.vcpus {
        true => Pc::Claim(v + 1),
        false => Pc::EndWork(0),
    }
}

//! Deferred work: LPIs that wait to be freed. A releaser puts last references
//! (`lpi_lifetime::defer_free`), and an advancer frees one LPI at a time
//! (`lpi_lifetime::advance_free_list`).

use vgic::internals::{DEFERRED_FREE, Deferred};

use crate::program::{Half, Pc};
use crate::scenario::{Fault, Scenario};
use crate::state::State;

/// Takes a step of a releaser or advancer. Returns the next place, or `None` if nothing changes.
pub(crate) fn step(scenario: &Scenario, state: &mut State, pc: Pc) -> Option<Pc> {
    Some(match pc {
        Pc::Push => {
            if state.free_list == scenario.frees {
                return None;
            }
            match scenario.has(Fault::NotedBeforePushed) {
                true => state.noted(|deferred| deferred.add(DEFERRED_FREE)),
                false => state.free_list += 1,
            }
            Pc::Note(false)
        }
        Pc::Note(again) => {
            match !again && scenario.has(Fault::NotedBeforePushed) {
                true => state.free_list += 1,
                false => state.noted(|deferred| deferred.add(DEFERRED_FREE)),
            }
            match again {
                true => Pc::Take,
                false => Pc::Push,
            }
        }
        Pc::Take if scenario.has(Fault::TakenByStore) => {
            Pc::Split(Half::Take, state.noted(Deferred::get).into())
        }
        Pc::Take => match state.noted(Deferred::take) {
            0 => return None,
            _ => Pc::Pop,
        },
        Pc::Split(Half::Take, work) => {
            state.deferred = 0;
            match work {
                0 => Pc::Take,
                _ => Pc::Pop,
            }
        }
        Pc::Pop => {
            state.free_list = state.free_list.saturating_sub(1);
            match scenario.has(Fault::LeftUnnoted) {
                true => Pc::Take,
                false => Pc::LookAgain,
            }
        }
        Pc::LookAgain => match state.free_list {
            0 => Pc::Take,
            _ => Pc::Note(true),
        },
        _ => unreachable!("{pc:?} is no place of a CPU at deferred work"),
    })
}

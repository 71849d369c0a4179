//! Transitions of the references outside ap_lists: mappings, redistributors and migrations.

use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};

use super::{
    AWAY, CANCEL_P, Changed, FollowUp, HELD, Held, Irq, Mapped, PENDING, PutResult, REF, State,
    UNMAPPED, mutant_hooks,
};

/// Largest count of references that a mapping may lead to. The count cannot overflow.
pub(crate) const MAX_MAPPING_REFS: u16 = 0x8000;

impl Irq {
    /// Takes a reference for a mapping, or takes over the redistributor's, and makes the LPI mapped
    /// to `target`. A pending state that a redistributor has held stays with that redistributor.
    /// Returns `None` if the LPI has no reference left, or as many mappings as are allowed.
    pub(crate) fn map(&self, target: Option<VcpuId>) -> Option<Mapped> {
        self.set_collection(target);
        let (old, new) = self
            .transition(|old| {
                let dying = old.refs() == 0 && !mutant(Mutant::DyingRevived);
                if dying || old.refs() >= MAX_MAPPING_REFS {
                    return None;
                }
                if old.is_held() {
                    let mapped = old.with(0, HELD);
                    return Some(if !old.shows_pending() || old.target() == target {
                        mapped.at_home(target)
                    } else {
                        mapped.with(AWAY, 0)
                    });
                }
                // A raise of an unmapped LPI has no effect.
                let stale = if old.unmapped() { PENDING } else { 0 };
                let mapped = old.with(0, UNMAPPED | stale).at_home(target);
                Some(State(mapped.0 + REF))
            })
            .ok()?;

        Some(Mapped {
            was_held: old.is_held(),
            follow_up: new.follow_up_change(),
        })
    }

    /// Makes the LPI pending on the redistributor of `vcpu`, unless the latch is set. Takes a
    /// reference for the redistributor if no event is mapped to the LPI, and no redistributor has
    /// one. Returns `None` if the LPI has no reference left.
    pub(crate) fn hold(&self, vcpu: VcpuId) -> Option<Held> {
        let (old, new) = self
            .transition(|old| {
                if old.refs() == 0 && !mutant(Mutant::DyingRevived) {
                    return None;
                }
                if old.unmapped() {
                    let held = old.with(PENDING | HELD, UNMAPPED).moved_to(vcpu);
                    return Some(State(held.0 + REF));
                }
                // Not by what was last known of a list register: the guest may have taken it.
                if old.latch() {
                    return Some(old);
                }
                let here = old.with(PENDING, 0).moved_to(vcpu);
                let at_home = !old.is_held() && self.collection() == Some(vcpu);
                Some(if at_home { here.with(0, AWAY) } else { here })
            })
            .ok()?;

        let follow_up = if old == new {
            FollowUp::Nothing
        } else if old.target() == new.target() && !old.unmapped() {
            new.follow_up_pending(old)
        } else {
            new.follow_up_change()
        };
        Some(Held {
            took: old.unmapped(),
            coalesced: old == new,
            changed: Changed {
                old,
                new,
                follow_up,
            },
        })
    }

    /// Puts the redistributor's reference and withdraws the pending state, if `releases` the state.
    /// Returns `None`, changing nothing, if it does not, or the redistributor has no reference.
    pub(crate) fn release_held(&self, releases: impl Fn(State) -> bool) -> Option<PutResult> {
        let (old, new) = self
            .transition(|old| {
                (old.is_held() && releases(old)).then(|| {
                    let left = State(old.0.wrapping_sub(REF));
                    let cancel = if old.in_lr() { CANCEL_P } else { 0 };
                    // A migration has a reference too, for a moment.
                    let unmapped = left.refs() == u16::from(old.queued_on().is_some());
                    left.with(cancel, PENDING | HELD)
                        .with_flag(UNMAPPED, unmapped)
                })
            })
            .ok()?;

        Some(PutResult {
            last: new.refs() == 0,
            changed: Changed {
                old,
                new,
                follow_up: new.follow_up_change(),
            },
        })
    }

    /// Puts a mapping's reference and withdraws the pending state.
    pub(crate) fn unmap(&self) -> PutResult {
        self.put_reference(true)
    }

    /// Puts the reference of a migration.
    pub(crate) fn put(&self) -> PutResult {
        self.put_reference(false)
    }

    /// Puts the reference of a mapping or migration.
    ///
    /// Every mapping owns a reference. An LPI with only the list's reference left is unmapped:
    /// later raises have no effect, and a raise since the end of the last mapping is withdrawn. The
    /// last put before the list's, of a mapping or a migration, marks the LPI unmapped.
    fn put_reference(&self, withdraw: bool) -> PutResult {
        let (old, new) = self.apply(|old| {
            debug_assert!(old.refs() != 0, "{:?} put once too often", self.intid);
            let kept = State(old.0.wrapping_sub(REF));
            let unmapped = kept.refs() == u16::from(old.queued_on().is_some());
            let cancel = if old.in_lr() { CANCEL_P } else { 0 };
            let right = match (unmapped, withdraw) {
                (true, _) => kept.with(UNMAPPED | cancel, PENDING),
                (false, true) => kept.with(cancel, PENDING),
                (false, false) => kept,
            };
            mutant_hooks::of_put(old, withdraw, right)
        });

        let follow_up = if new.0 == old.0.wrapping_sub(REF) {
            FollowUp::Nothing
        } else {
            new.follow_up_change()
        };

        let seen = if mutant(Mutant::LastPutByLook) {
            self.state()
        } else {
            new
        };

        PutResult {
            last: seen.refs() == 0,
            changed: Changed {
                old,
                new,
                follow_up,
            },
        }
    }
}

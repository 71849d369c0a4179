//! Transitions of the references outside ap_lists: mappings and migrations.

use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};

use super::{
    CANCEL_P, Changed, FollowUp, Irq, PENDING, PutResult, REF, State, UNMAPPED, mutant_hooks,
};

/// Largest count of references that a mapping may lead to. The count cannot overflow.
pub(crate) const MAX_MAPPING_REFS: u16 = 0x8000;

impl Irq {
    /// Takes a reference for a mapping and makes the LPI mapped to `target`. Returns `None` if the
    /// LPI has no reference left, or as many mappings as are allowed.
    pub(crate) fn map(&self, target: Option<VcpuId>) -> Option<FollowUp> {
        let (_, new) = self
            .transition(|old| {
                let dying = old.refs() == 0 && !mutant(Mutant::DyingRevived);
                if dying || old.refs() >= MAX_MAPPING_REFS {
                    return None;
                }
                // A raise of an unmapped LPI has no effect.
                let stale = if old.unmapped() { PENDING } else { 0 };
                let mapped = old.with(0, UNMAPPED | stale).with_target(target);
                Some(State(mapped.0 + REF))
            })
            .ok()?;

        Some(new.follow_up_change())
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

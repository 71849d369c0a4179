//! Transitions of an interrupt on an ap_list, under that list's lock: link, unlink, fill, fold.

use core::cell::Cell;

use crate::intid::{Kind, VcpuId};
use crate::lr::ListRegister;

use super::{
    ACTIVE, FastFold, Folded, GROUP1, HW, IN_LR, Irq, LR_ACTIVE, LR_ASKED, LR_BITS, LR_HW,
    LR_LATCH, LR_PENDING, PENDING, Pruned, REF, RELEASING, Refilled, State, mutant_hooks,
};

/// Link and unlink.
impl Irq {
    /// Links the interrupt on `vcpu`'s list and takes the list's reference. Returns `None` if
    /// the interrupt has been queued, has moved, has no reference left, or no longer wants a list.
    #[inline]
    pub(crate) fn link(&self, vcpu: VcpuId) -> Option<State> {
        self.transition(|old| {
            // A plain state is mapped, so a reference is left. Saves 16 of the 156 instructions of
            // sgi/broadcast/8.
            if old.is_plain_and_free(vcpu) {
                return Some(old.linked(vcpu));
            }
            let free = old.queued_on().is_none();
            let alive = old.refs() != 0 && old.wants_list();
            let here = old.target() == Some(vcpu);
            let right = free && alive && here;
            (right || mutant_hooks::of_link(free, alive, here)).then(|| old.linked(vcpu))
        })
        .map(|(_, new)| new)
        .ok()
    }

    /// Unlinks the interrupt, which is in no list register, from `vcpu`'s list unless it belongs
    /// there.
    pub(crate) fn unlink(&self, vcpu: VcpuId) -> Pruned {
        match self.transition(|old| old.pruned(vcpu)) {
            Err(state) => Pruned::Kept(state),
            Ok((old, new)) => Pruned::of(old, new),
        }
    }
}

/// Fill: into a list register.
impl Irq {
    /// Moves the interrupt into a list register of `vcpu` and returns the register's image. Returns
    /// `None` if the interrupt has to be pruned. `open` says which groups may be signalled: a
    /// pending state on top of an active one is left out if its group is closed, because the
    /// guest's deactivation would let the pending state through unnoticed.
    pub(crate) fn fill_lr(&self, vcpu: VcpuId, open: [bool; 2]) -> Option<ListRegister> {
        let (old, new) = self
            .transition(|old| {
                if old.active() {
                    // Pending and active for an edge. A level waits for the deactivation, and a
                    // list register backed by hardware may not hold both (IHI 0069, 12.4.8).
                    let latch = old.latch()
                        && !old.level()
                        && !old.hw()
                        && old.enabled()
                        && old.target() == Some(vcpu)
                        && open[usize::from(old.group1())];
                    // The end of an interrupt that is backed by hardware is not reported. With a
                    // pending state behind it, the physical interrupt waits for the end of that
                    // state.
                    let backed = old.hw() && !old.latch();
                    let set = LR_ACTIVE
                        | if backed { LR_HW } else { 0 }
                        | if latch { LR_PENDING | LR_LATCH } else { 0 };
                    let clear =
                        ACTIVE | if backed { HW } else { 0 } | if latch { PENDING } else { 0 };
                    Some(old.with(IN_LR | set, clear))
                } else if old.deliverable() && old.target() == Some(vcpu) {
                    let set = LR_PENDING
                        | if old.latch() { LR_LATCH } else { 0 }
                        | if old.hw() { LR_HW } else { 0 };
                    Some(old.with(IN_LR | set, PENDING | HW))
                } else {
                    None
                }
            })
            .ok()?;

        let mut lr =
            u64::from(self.intid.raw()) | u64::from(old.priority()) << ListRegister::PRIORITY_SHIFT;
        for (flag, bit) in [
            (LR_PENDING, ListRegister::PENDING),
            (LR_ACTIVE, ListRegister::ACTIVE),
            (GROUP1, ListRegister::GROUP1),
        ] {
            if new.0 & flag != 0 {
                lr |= bit;
            }
        }

        if new.lr_hw() {
            lr |= ListRegister::HW | u64::from(self.pintid()) << ListRegister::PINTID_SHIFT;
        } else if new.level() || (old.active() && new.latch()) {
            // At the guest's deactivation the line is sampled again, or an edge that could not be
            // delivered here may move.
            lr |= ListRegister::EOI;
        }

        Some(ListRegister(lr))
    }

    /// Moves the interrupt into a list register of `vcpu` and returns the register's image, if the
    /// state is plain ([`State::is_plain`]). `linked` is the state, or an earlier one. Returns
    /// `None`, changing nothing, otherwise. Saves 35 of the 1094 instructions of an SGI to a vCPU
    /// in WFI.
    #[inline]
    pub(crate) fn fill_lr_plain(&self, vcpu: VcpuId, linked: State) -> Option<ListRegister> {
        let fill = |old: State| old.is_plain(vcpu).then(|| old.filled_plain());
        let (old, _) = self.transition_from(linked, fill).ok()?;
        Some(self.plain_image(old))
    }

    /// Links the interrupt on `vcpu`'s list and moves it into a list register in one
    /// compare-and-swap, if the state is plain, on no list, and of one of the `groups` (a bit
    /// each). Takes the list's reference.
    #[inline]
    pub(crate) fn link_and_fill_lr(&self, vcpu: VcpuId, groups: u32) -> Option<ListRegister> {
        let (old, _) = self
            .transition(|old| {
                let plain = old.is_plain_and_free(vcpu)
                    || (mutant_hooks::of_staging() && old.is_plain(vcpu));
                // Plain includes mapped, and a mapping is a reference.
                debug_assert!(!plain || old.refs() != 0);
                (plain && old.is_in(groups)).then(|| old.filled_plain().linked(vcpu))
            })
            .ok()?;
        Some(self.plain_image(old))
    }

    /// Returns the list register for a plain state.
    #[inline]
    fn plain_image(&self, old: State) -> ListRegister {
        let physical = if old.hw() {
            ListRegister::HW | u64::from(self.pintid()) << ListRegister::PINTID_SHIFT
        } else {
            0
        };

        ListRegister(
            ListRegister::PENDING
                | u64::from(self.intid.raw())
                | u64::from(old.priority()) << ListRegister::PRIORITY_SHIFT
                | u64::from(old.group1()) << ListRegister::GROUP1.trailing_zeros()
                | physical,
        )
    }
}

/// Fold: back from a list register.
impl Irq {
    /// Folds the interrupt from its list register, which holds `lr`, and unlinks it from `vcpu`'s
    /// list unless it belongs there.
    #[inline(always)]
    pub(crate) fn fold_unlink(&self, vcpu: VcpuId, lr: ListRegister) -> (Folded, Pruned) {
        self.fold_unlink_from::<false>(vcpu, lr)
    }

    /// Folds the interrupt from its list register, which is empty, and unlinks it from `vcpu`'s
    /// list unless it belongs there. Compiled for the empty register: saves 318 of the 1237
    /// instructions of vcpu_exit/4.
    pub(crate) fn fold_unlink_ended(&self, vcpu: VcpuId) -> (Folded, Pruned) {
        self.fold_unlink_from::<true>(vcpu, ListRegister::EMPTY)
    }

    #[inline(always)]
    fn fold_unlink_from<const ENDED: bool>(
        &self,
        vcpu: VcpuId,
        lr: ListRegister,
    ) -> (Folded, Pruned) {
        let lpi = self.kind == Kind::Lpi;
        let folded = Cell::new(State(0));
        let (old, new) = self.apply(|old| {
            // Known to the compiler in the closure, too, even where the closure is not inlined.
            let lr = if ENDED { ListRegister::EMPTY } else { lr };
            folded.set(old.folded(lr, lpi));
            folded.get().pruned(vcpu).unwrap_or(folded.get())
        });
        let folded = folded.get();
        (Folded::of(old, folded, lr), Pruned::of(folded, new))
    }

    /// Folds an interrupt whose list register is empty, and fills the same list register with its
    /// next edge, in one compare-and-swap. Returns `None`, changing nothing, unless the state is
    /// plain and the group is in `groups` (a bit each). `found` is the state, or an earlier one.
    ///
    /// On the CPU that has the vCPU. Needs no lock: the interrupt stays on the list, and the list
    /// keeps its reference. Saves 23 of the 525 instructions of an SGI to a running vCPU beside the
    /// same transition under the lock, and 317 of 1006 beside a fold and a flush.
    #[inline]
    pub(crate) fn fold_and_fill_lr(
        &self,
        vcpu: VcpuId,
        groups: u32,
        found: State,
    ) -> Option<Refilled> {
        if mutant_hooks::is_of_fold() {
            return None;
        }

        let (old, _) = self
            .transition_from(found, |old| {
                // A level that was filled as an edge has to be sampled.
                let sampled = !old.level() || old.lr_hw();
                let open = sampled && old.is_plain(vcpu) && old.is_in(groups);
                open.then(|| old.with(0, LR_BITS).filled_plain())
            })
            .ok()?;
        Some(Refilled {
            delivered: old.lr_pending(),
            image: self.plain_image(old),
        })
    }

    /// Folds and unlinks, in one compare-and-swap, an interrupt whose list register is empty.
    /// Returns `None`, changing nothing, if something has come since the fill, or a level has to be
    /// sampled. The caller holds the list's lock.
    #[inline]
    pub(crate) fn fold_unlink_plain(&self) -> Option<FastFold> {
        if mutant_hooks::is_of_fold() {
            return None;
        }

        let (old, new) = self
            .transition(|old| {
                let folded = old.with(0, LR_BITS).unqueued();
                old.ends_in_lr().then(|| State(folded.0 - REF))
            })
            .ok()?;
        Some(FastFold {
            delivered: old.lr_pending(),
            last: new.refs() == 0,
        })
    }

    /// Folds the interrupt from its list register, which nobody has read. The interrupt stays on
    /// the list. Returns true if the list register was backed by a physical interrupt, which the
    /// guest may have deactivated.
    pub(crate) fn fold_without_read(&self) -> bool {
        let is_owned = |old: State| old.lr_hw() && !old.hw();
        let (old, _) = self.apply(|old| {
            let folded = old.folded(ListRegister::EMPTY, false);
            folded.with_flag(RELEASING, is_owned(old) || folded.releasing())
        });
        is_owned(old)
    }

    /// Updates the LR bits of an interrupt that stays in its list register, which holds `lr`. On
    /// the CPU that has the vCPU; without the list's lock.
    pub(crate) fn refresh_lr_bits(&self, lr: ListRegister) -> Folded {
        let (old, _) = self.apply(|old| {
            let gone = if lr.is_pending() {
                0
            } else {
                LR_PENDING | LR_LATCH | super::CANCEL_P
            };
            old.with(0, gone | LR_ASKED)
                .with_flag(LR_ACTIVE, lr.is_active() && !old.cancel_active())
        });

        Folded {
            delivered: old.lr_pending() && !lr.is_pending(),
            ..Folded::default()
        }
    }
}

impl State {
    /// Returns the state linked on `vcpu`'s list, with the list's reference. Before, the state is
    /// on no list.
    #[inline]
    fn linked(self, vcpu: VcpuId) -> Self {
        Self(self.queued(vcpu).0 + REF)
    }

    /// Returns a plain state moved into a list register.
    #[inline]
    fn filled_plain(self) -> Self {
        // A shift of the bit, not a choice: saves 2 of the 386 instructions of an SGI to itself.
        let backed = (self.0 & HW) << (LR_HW.trailing_zeros() - HW.trailing_zeros());
        self.with(IN_LR | LR_PENDING | LR_LATCH | backed, PENDING | HW)
    }

    /// Returns the state folded from a list register that holds `lr`.
    #[inline]
    fn folded(self, lr: ListRegister, lpi: bool) -> Self {
        // Without the connection, a forwarded level has no line any more.
        let unplugged = self.lr_hw() && !self.connected();
        let latch = lr.is_pending()
            && self.lr_latch()
            && !self.cancel_pending()
            && !(unplugged && self.level());
        // An LPI has no active state of its own, and EOIcount would not count its end.
        let active = lr.is_active() && !self.cancel_active() && !lpi;
        let held = self.lr_hw() && (latch || active) && !unplugged;
        let ends = self.lr_hw() && !lr.is_empty() && !held && !self.hw();
        let set = if latch { PENDING } else { 0 }
            | if active { ACTIVE } else { 0 }
            | if held { HW } else { 0 }
            | if ends { RELEASING } else { 0 };
        mutant_hooks::of_fold(self, lr, self.with(set, LR_BITS))
    }

    /// Returns the state off `vcpu`'s list; `None` if the interrupt belongs there. A state that is
    /// deliverable to another vCPU keeps the list's reference, for the migration.
    #[inline]
    fn pruned(self, vcpu: VcpuId) -> Option<Self> {
        let here = self.target() == Some(vcpu) || mutant_hooks::of_prune();
        if self.active() || (self.deliverable() && here) {
            return None;
        }

        let unlinked = self.unqueued();
        Some(if self.deliverable() {
            unlinked
        } else {
            Self(unlinked.0 - REF)
        })
    }
}

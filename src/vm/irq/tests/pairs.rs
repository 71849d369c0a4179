//! Pairs of transitions in every legal word: a fold after a fill, a fast path and the general one,
//! a register's write and read.

use crate::lr::ListRegister;

use super::super::{FastFold, Folded, Pruned, Refilled};
use super::sweep::{Case, for_every_word, for_listed, for_waiting};
use super::{BOTH_GROUPS, GROUP0_ONLY, GROUP1_ONLY, V0, put_in};

/// Returns the groups of `open` as the bits that the fast paths take.
fn bits_of(open: [bool; 2]) -> u32 {
    u32::from(open[0]) | u32::from(open[1]) << 1
}

const OPEN: [[bool; 2]; 3] = [[true, true], [true, false], [false, true]];

/// A fill moves a pending state, and the guest reads the same bits of `ISPENDR` and `ISACTIVER`. A
/// fold of a register that the guest has not touched moves the state back.
#[test]
fn a_fold_undoes_a_fill() {
    for_every_word(|irq, case| {
        if !for_waiting(case) {
            return;
        }
        let old = case.state;
        for open in OPEN {
            put_in(irq, old);
            let Some(image) = irq.fill_lr(V0, open) else {
                assert_eq!(irq.state(), old);
                continue;
            };
            let filled = irq.state();
            assert!(filled.in_lr(), "{old:?}");
            assert_eq!(image.is_pending(), filled.lr_pending(), "{filled:?}");
            assert_eq!(image.is_active(), filled.lr_active(), "{filled:?}");
            assert_eq!(image.is_hw(), filled.lr_hw(), "{filled:?}");
            assert_eq!(image.is_group1(), filled.group1(), "{filled:?}");
            assert_eq!(filled.shows_pending(), old.shows_pending(), "{old:?}");
            assert_eq!(filled.shows_active(), old.shows_active(), "{old:?}");
            let (fold, prune) = irq.fold_unlink(V0, image);
            assert_eq!((irq.state(), fold), (old, Folded::default()), "{filled:?}");
            assert_eq!(prune, Pruned::Kept(old));
        }
    });
}

/// The end of an interrupt is noticed, by EOI, if its line has to be sampled, or a latch waits
/// behind it. A register backed by hardware has neither.
#[test]
fn a_fill_asks_for_the_end_that_matters() {
    for_every_word(|irq, case| {
        for open in OPEN {
            put_in(irq, case.state);
            if for_waiting(case)
                && let Some(image) = irq.fill_lr(V0, open)
            {
                let new = irq.state();
                let matters = new.latch() || new.level() && !new.lr_hw();
                assert_eq!(image.wants_eoi(), matters, "{:?}", case.state);
            }
        }
    });
}

/// The fast paths take an interrupt only where the general ones do the same.
#[test]
fn fast_fills_do_what_general_ones_do() {
    for_every_word(|irq, case| {
        let made = |state, make: &dyn Fn() -> Option<ListRegister>| {
            put_in(irq, state);
            make().map(|image| (image, irq.state()))
        };
        if for_waiting(case) {
            let fast = made(case.state, &|| irq.fill_lr_plain(V0, irq.state()));
            let general = made(case.state, &|| irq.fill_lr(V0, [true; 2]));
            let plain = case.state.is_plain(V0);
            assert_eq!(fast, general.filter(|_| plain), "{:?}", case.state);
        }
        for open in OPEN {
            let fast = made(case.state, &|| irq.link_and_fill_lr(V0, bits_of(open)));
            let general = made(case.state, &|| {
                let open = open[usize::from(case.state.group1())];
                (open && irq.link(V0).is_some()).then(|| irq.fill_lr_plain(V0, irq.state()))?
            });
            assert_eq!(fast, general, "{:?}", case.state);
        }
    });
}

/// An interrupt that the guest has ended is unlinked as by the general fold, or refilled as by a
/// fold and a fill.
#[test]
fn the_fast_folds_do_what_the_general_one_does() {
    for_every_word(|irq, case| {
        if !for_listed(case) {
            return;
        }
        for groups in [BOTH_GROUPS, GROUP0_ONLY, GROUP1_ONLY] {
            put_in(irq, case.state);
            let refilled = irq.fold_and_fill_lr(V0, groups, irq.state());
            let unlinked = refilled
                .is_none()
                .then(|| irq.fold_unlink_plain())
                .flatten();
            let after = irq.state();
            if refilled.is_none() && unlinked.is_none() {
                assert_eq!(after, case.state);
                continue;
            }

            put_in(irq, case.state);
            let (fold, prune) = irq.fold_unlink_ended(V0);
            let delivered = fold.delivered;
            let general = match prune {
                Pruned::Kept(_) => {
                    let image = irq.fill_lr_plain(V0, irq.state());
                    (image.map(|image| Refilled { delivered, image }), None)
                }
                pruned => {
                    let last = pruned == Pruned::Removed { last: true };
                    (None, Some(FastFold { delivered, last }))
                }
            };
            assert_eq!(
                (after, (refilled, unlinked)),
                (irq.state(), general),
                "{:?}",
                case.state
            );
            // Nothing else would have to be counted or done. The list register of a level that is
            // not backed by hardware asks for EOI, so its end takes the general path.
            let asked_for_eoi = case.state.level() && !case.state.lr_hw();
            let more = Folded {
                delivered: false,
                resample: fold.resample && !asked_for_eoi,
                ..fold
            };
            assert_eq!(more, Folded::default(), "{:?}", case.state);
        }
    });
}

/// The guest reads its writes back.
#[test]
fn registers_show_what_was_written() {
    for_every_word(|irq, case| {
        let Case { state: old, .. } = case;
        let after = |transition: &dyn Fn()| {
            put_in(irq, old);
            transition();
            irq.state()
        };
        let raised = after(&|| {
            let _ = irq.raise();
        });
        assert!(raised.shows_pending());
        let line_is_high = old.level_is_high();
        let cleared = after(&|| {
            let _ = irq.clear_pending();
        });
        assert_eq!(cleared.shows_pending(), line_is_high, "{old:?}");
        assert_eq!(cleared.shows_active(), old.shows_active(), "{old:?}");
        let cleared = after(&|| {
            let _ = irq.clear_active();
        });
        assert!(!cleared.shows_active(), "{old:?}");
        assert_eq!(cleared.shows_pending(), old.shows_pending(), "{old:?}");
    });
}

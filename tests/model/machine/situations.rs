//! Detection of the situations before and after an operation, by the reference's state.

use std::collections::BTreeMap;

use super::embedder::Virtual;
use super::{Machine, Place};
use crate::coverage::{note, note_if};
use crate::operation::{Operation, PES};
use crate::reference::{Frame, Interrupt};

/// The reference's interrupts at one moment.
pub(super) struct Shot {
    /// SGIs, PPIs and SPIs: the interrupt, its state, and its target PE.
    wired: Vec<(Virtual, Interrupt, Option<usize>)>,
    /// LPIs by INTID: state, PE, events.
    lpis: BTreeMap<u32, (Interrupt, Option<usize>, usize)>,
    /// Group enables of `GICD_CTLR`, and of each PE.
    groups: u64,
    enabled: [[bool; 2]; PES],
    /// Interrupts with active physical interrupts.
    physical: Vec<Virtual>,
}

impl Machine {
    pub(super) fn shot(&self) -> Shot {
        let reference = &self.reference;
        let private = (0..PES).flat_map(|pe| {
            let own = reference.redistributors[pe].all();
            own.map(move |(intid, irq)| ((Some(pe), intid), *irq, Some(pe)))
        });

        let spis = reference.distributor.all().map(|(intid, irq)| {
            let target = reference.find(reference.distributor.router(intid));
            ((None, intid), *irq, target)
        });

        let lpis = reference.lpis.mapped.iter();

        Shot {
            wired: private.chain(spis).collect(),
            lpis: lpis
                .map(|(intid, lpi)| (*intid, (lpi.interrupt, lpi.at, lpi.mappings())))
                .collect(),
            groups: reference.distributor.groups,
            enabled: std::array::from_fn(|pe| reference.interfaces[pe].enabled),
            physical: self.physically_active(),
        }
    }

    /// Notes the changes since the state before the operation.
    pub(super) fn look_back(&mut self, operation: &Operation) {
        if let Some(before) = self.last.take() {
            note(operation.name());
            let after = self.shot();
            self.compare_resamples(&before, &after);
            self.note_situations(operation, &before, &after);
            self.last = Some(after);
        }
    }

    /// Compares the resamples: an ended level-sensitive interrupt has to be resampled, except a
    /// forwarded one.
    fn compare_resamples(&self, before: &Shot, after: &Shot) {
        let resamples = std::mem::take(&mut *self.vm.host().resamples.lock().unwrap());
        for ((of, old, _), (_, new, to)) in before.wired.iter().zip(&after.wired) {
            // The removal of a PE makes its PPIs level-sensitive.
            let level = old.level && new.level;
            let ended = old.active && !new.active && level && to.is_some();
            if ended && !super::forwarded::is_forwarded(*of) {
                assert!(resamples.contains(&of.1), "{of:?} is not sampled again");
                note("a level is resampled");
            }
        }
    }

    fn note_situations(&self, operation: &Operation, before: &Shot, after: &Shot) {
        let written = matches!(operation, Operation::Write(..));
        for ((of, old, from), (_, new, to)) in before.wired.iter().zip(&after.wired) {
            if (old, from) == (new, to) {
                continue;
            }
            note_changes((old, *from), (new, *to), written);
            self.note_forwarded(before, *of, (old, *from), (new, *to), written);
        }

        for (intid, old) in &before.lpis {
            note_lpi(*old, after.lpis.get(intid).copied(), operation);
        }

        let something = after.wired.iter().any(|(_, irq, _)| irq.pending());
        note_if(
            something && before.groups != after.groups,
            "GICD_CTLR changes while something is pending",
        );
        note_if(
            something && before.enabled != after.enabled,
            "ICC_IGRPEN changes while something is pending",
        );

        if let Operation::Command(..) = operation {
            self.note_sharing();
        }
        self.note_crowds();
        self.note_messages(operation);
    }

    /// Notes the effects of EnableLPIs = 1.
    pub(super) fn note_enabling(&self, before: &Shot) {
        for (intid, lpi) in &self.reference.lpis.mapped {
            let (old, new) = (before.lpis[intid].0, lpi.interrupt);
            note_if(new.latch && !old.latch, "LPI on: the pending table says so");
            note_if(
                (old.priority, old.enabled) != (new.priority, new.enabled),
                "LPI on: a configuration has changed",
            );
        }
    }

    /// Notes the state met by EnableLPIs = 0 on PE `pe`.
    pub(super) fn note_disabling(&self, pe: usize) {
        if self.lpis_are_off(pe) {
            return;
        }

        let mut lpis = self.reference.lpis.mapped.values();
        note_if(
            lpis.any(|lpi| lpi.interrupt.latch && lpi.at == Some(pe)),
            "LPI off: one is pending",
        );

        if let Place::InGuest(_) = self.places[pe] {
            let mut registers = self.guest(pe).list_registers();
            note_if(
                registers.any(|lr| lr.is_pending() && lr.vintid() >= crate::reference::FIRST_LPI),
                "LPI off: one is in a list register",
            );
        }
    }

    /// Notes PEs in the guest with more interrupts than list registers.
    fn note_crowds(&self) {
        for pe in 0..PES {
            if !matches!(self.places[pe], Place::InGuest(_)) {
                continue;
            }

            let distributor = &self.reference.distributor;
            let (mut pending, mut lpis, mut active) = (0, 0, 0);
            for (intid, irq) in self.reference.routed_to(pe) {
                let open = irq.enabled && distributor.forwards(irq.group1);
                if irq.active {
                    active += 1;
                } else if irq.pending() && open {
                    pending += 1;
                    lpis += usize::from(intid >= crate::reference::FIRST_LPI);
                }
            }

            for (count, what) in [
                (pending, "more pending than list registers"),
                (lpis, "more pending LPIs than list registers"),
                (active, "more active than list registers"),
            ] {
                note_if(count > self.list_registers, what);
            }

            note_if(
                pending.min(active) > 0 && pending + active > self.list_registers,
                "more pending and active than list registers",
            );
        }
    }

    fn note_sharing(&self) {
        for intid in self.reference.lpis.mapped.keys() {
            let [one, two] = [0, 1].map(|its| self.reference.itses[its].mappings(*intid).count());
            note_if(one > 0 && two > 0, "an LPI is mapped by two ITSes");
            note_if(one.max(two) > 1, "an LPI is mapped by two events of an ITS");
        }
    }

    fn note_messages(&self, operation: &Operation) {
        if let Operation::Write(_, Frame::Distributor, at @ (0x40 | 0x48), 2 | 4, value) = operation
            && let mut spis = self.reference.distributor.all()
            && let Some((_, spi)) = spis.find(|(intid, _)| u64::from(*intid) == value & 0x1fff)
        {
            note(match (at, spi.level) {
                (0x40, false) => "SETSPI of an edge",
                (0x40, true) => "SETSPI of a level",
                (_, false) => "CLRSPI of an edge",
                (_, true) if spi.line => "CLRSPI of a level whose line is high",
                (_, true) => "CLRSPI of a level",
            });
        }
    }

    /// Notes the fate of an active physical interrupt behind `of`.
    fn note_forwarded(
        &self,
        before: &Shot,
        of: Virtual,
        (old, from): (&Interrupt, Option<usize>),
        (new, to): (&Interrupt, Option<usize>),
        written: bool,
    ) {
        if !before.physical.contains(&of) {
            return;
        }

        let pending = old.pending() && !old.active;
        let still = self.is_physically_active(of);
        let disabled = old.enabled && !new.enabled;

        for (happened, what) in [
            (
                pending && written && !still,
                "forwarded and pending, it is cleared",
            ),
            (
                old.active && written && !new.active,
                "forwarded and active, its state is cleared",
            ),
            (pending && disabled, "forwarded and pending, it is disabled"),
            (
                old.active && disabled,
                "forwarded and active, it is disabled",
            ),
            (
                pending && from != to,
                "forwarded and pending, it is routed elsewhere",
            ),
            (
                old.active && from != to,
                "forwarded and active, it is routed elsewhere",
            ),
            (
                pending && old.line && !new.line,
                "forwarded and pending, its line falls",
            ),
            (
                pending && old.line && !new.line && !still,
                "forwarded and pending, it is withdrawn",
            ),
        ] {
            note_if(happened, what);
        }
    }
}

fn note_changes(
    (old, from): (&Interrupt, Option<usize>),
    (new, to): (&Interrupt, Option<usize>),
    written: bool,
) {
    note_if(new.pending() && new.active, "pending and active");
    note_if(
        old.active && new.active && !old.pending() && new.pending(),
        "it becomes pending while active",
    );
    note_if(
        !old.pending() && !old.active && old.level != new.level,
        "idle, its trigger changes",
    );
    note_if(
        !old.pending() && !old.level && new.level && new.line,
        "idle, its trigger changes to a level that is high",
    );
    note_if(
        written && !old.active && new.active,
        "inactive, its state is set",
    );
    let (disabled, falls) = (old.enabled && !new.enabled, old.line && !new.line);
    if old.active {
        for (happened, what) in [
            (disabled, "active, it is disabled"),
            (from != to, "active, it is routed elsewhere"),
            (falls && old.level, "active, its line falls"),
            (written && !new.active, "active, its state is cleared"),
        ] {
            note_if(happened, what);
        }
    }
    if old.pending() && !old.active {
        for (happened, what) in [
            (
                old.priority != new.priority,
                "pending, its priority changes",
            ),
            (old.group1 != new.group1, "pending, its group changes"),
            (disabled, "pending, it is disabled"),
            (!old.enabled && new.enabled, "pending, it is enabled"),
            (
                from != to && to.is_some(),
                "pending, it is routed elsewhere",
            ),
            (from != to && to.is_none(), "pending, it is routed nowhere"),
            (falls && old.level, "pending, its line falls"),
            (written && old.latch && !new.latch, "pending, it is cleared"),
        ] {
            note_if(happened, what);
        }
    }
}

fn note_lpi(
    (old, from, events): (Interrupt, Option<usize>, usize),
    now: Option<(Interrupt, Option<usize>, usize)>,
    operation: &Operation,
) {
    let Some((new, to, events_now)) = now else {
        note_if(old.latch, "LPI pending, it is unmapped");
        return;
    };
    let by = |number| matches!(operation, Operation::Command(_, _, c) if c[0] & 0xff == number);
    note_if(
        old.latch && events_now < events,
        "LPI pending, one of its mappings ends",
    );
    note_if(
        old.latch && events_now > events,
        "LPI pending, another event is mapped to it",
    );
    note_if(
        old.latch && !new.latch && by(0x04),
        "LPI pending, it is cleared",
    );
    if old.latch && new.latch {
        for (happened, what) in [
            (
                old.priority != new.priority,
                "LPI pending, its priority changes",
            ),
            (old.enabled && !new.enabled, "LPI pending, it is disabled"),
            (!old.enabled && new.enabled, "LPI pending, it is enabled"),
            (from != to, "LPI pending, it moves"),
        ] {
            note_if(happened, what);
        }
    }
}

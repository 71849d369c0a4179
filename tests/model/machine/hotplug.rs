//! The removal of a PE, and its addition.

use vgic::intid::Affinity;

use super::embedder::pending_table;
use super::{Machine, Place, VALID, vcpu};
use crate::coverage::{note, note_if};
use crate::operation::{ITSES, KEPT_TABLE, Operation};
use crate::reference::{Frame, is_private};

impl Machine {
    /// Removes a PE, compares, and adds the PE again with the guest's set-up of its CPU, which is
    /// the first PE's work. The first PE stays, and nothing is done while it is off.
    pub(super) fn replug(&mut self, pe: usize) {
        if pe == 0 || self.places[0] == Place::Off {
            return;
        }
        if self.run(pe) {
            self.quiesce();
            self.power_off(pe);
            self.quiesce();
        }
        if self.places[pe] != Place::Off {
            return;
        }

        self.note_removal(pe);
        self.vm.remove_vcpu(&self.pin(), vcpu(pe)).unwrap();
        self.reference.remove(pe);
        // The device's line is of a PE that is not there.
        self.shown.retain(|of| of.0 != Some(pe));
        self.absent = Some(pe);
        self.quiesce();
        self.compare_registers(0);
        self.absent = None;

        let affinity = Affinity::new(0, 0, 0, pe as u8);
        let added = self.vm.add_vcpu(&self.pin(), affinity);
        assert_eq!(added, Ok(vcpu(pe)));
        self.reference.add(pe);
        self.reconnect(pe);
        self.quiesce();
        self.compare_registers(0);

        self.set_up_pe(pe);
        // The table in memory is as it was.
        let table = Operation::Write(0, Frame::Redistributor(pe), 0x78, 8, pending_table(pe));
        self.apply(&table);
        self.apply(&Operation::EnableLpis(0, pe, Some(KEPT_TABLE)));
        for its in 0..ITSES.len() {
            let mapc = [0x09, 0, VALID | (pe as u64) << 16 | pe as u64, 0];
            self.apply(&Operation::Command(0, its, mapc));
        }
    }

    fn note_removal(&self, pe: usize) {
        note("a PE is removed");
        let here = || {
            let routed = self.reference.routed_to(pe);
            routed.filter(|(_, interrupt)| interrupt.pending() || interrupt.active)
        };
        note_if(
            here().any(|(intid, _)| is_private(intid)),
            "a PE is removed with an SGI or PPI pending or active",
        );
        note_if(
            here().any(|(n, interrupt)| n < 8192 && !is_private(n) && interrupt.pending()),
            "a PE is removed with an SPI pending for it",
        );
        note_if(
            here().any(|(intid, _)| intid >= 8192),
            "a PE is removed with an LPI pending for it",
        );
    }
}

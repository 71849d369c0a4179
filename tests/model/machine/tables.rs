//! The LPI tables in guest memory: configuration and pending state, and the moments of reading and
//! writing.

use std::collections::BTreeSet;

use vgic::Host;

use super::Machine;
use super::embedder::{PROPERTIES, pending_table};
use crate::coverage::note_if;
use crate::operation::{ITSES, KEPT_TABLE, LPIS};
use crate::reference::{FIRST_LPI, Frame};

/// `GICR_PENDBASER.PTZ`: the table is all zero.
const PTZ: u64 = 1 << 62;

impl Machine {
    /// Changes an LPI's priority and enable, and makes the GIC read both in one of several ways.
    pub(super) fn configure(&mut self, pe: usize, intid: u32, byte: u8, how: u8) {
        let index = (intid - FIRST_LPI) as usize;
        self.vm
            .host()
            .guest_writes(PROPERTIES + index as u64, &[byte]);
        self.reference.lpis.configuration[index] = byte;

        let mapping = (0..ITSES.len())
            .filter(|its| self.reference.itses[*its].enabled)
            .find_map(|its| Some((its, self.reference.itses[its].mappings(intid).next()?)));
        let at = self
            .reference
            .lpis
            .mapped
            .get(&intid)
            .and_then(|lpi| lpi.at);

        match (how, mapping) {
            (0, Some((its, (device, event, _)))) => {
                self.command(pe, its, [0x0c | device << 32, event, 0, 0]);
            }
            (1, Some((its, (_, _, icid))))
                if self.reference.itses[its].collection(icid).is_some() =>
            {
                self.command(pe, its, [0x0d, 0, icid, 0]);
            }
            (2, _) if let Some(of) = at => {
                self.disable_lpis(pe, of);
                self.enable_lpis(pe, of, KEPT_TABLE);
            }
            // GICR_INVALLR or GICR_INVLPIR.
            _ => {
                let (at, value) = if how == 3 { (0xb0, 0) } else { (0xa0, intid) };
                let frame = Frame::Redistributor(0);
                self.access(pe, frame, at, 8, Some(value.into()));
                self.reference.lpis.invalidate(intid);
            }
        }
    }

    /// Sets `GICR_CTLR.EnableLPIs` of PE `of` if clear. The guest writes `table` before, sets PTZ
    /// with a zero `table`, and leaves the table as the GIC has written it for [`KEPT_TABLE`].
    pub(super) fn enable_lpis(&mut self, pe: usize, of: usize, table: u32) {
        if !self.lpis_are_off(of) {
            return;
        }

        let stored = !self.reference.lpis.pending[of].is_empty();
        note_if(stored && table == 0, "LPI on: what was stored is given up");
        note_if(
            stored && table == KEPT_TABLE,
            "LPI on: what was stored is kept",
        );
        if table != KEPT_TABLE {
            let at = pending_table(of) + u64::from(FIRST_LPI / 8);
            self.vm.host().guest_writes(at, &table.to_le_bytes());
            self.reference.lpis.pending[of] = (0..LPIS)
                .filter(|n| table >> n & 1 != 0)
                .map(|n| FIRST_LPI + n)
                .collect();
        }

        // A guest that keeps the table need not write the register.
        if table != KEPT_TABLE {
            let zero = if table == 0 { PTZ } else { 0 };
            let frame = Frame::Redistributor(of);
            let base = pending_table(of) | zero;
            self.access(pe, frame, 0x78, 8, Some(base));
            self.reference.write(frame, 0x78, 8, base);
            note_if(zero != 0, "LPI on: the pending table is all zero");
        }

        let before = self.shot();
        let read = match self.reference.redistributors[of].table_is_zero {
            true => BTreeSet::new(),
            false => self.reference.lpis.pending[of].clone(),
        };
        // The library raises what the table has, on whichever PE the LPI is routed to.
        let pending: Vec<u32> = read
            .into_iter()
            .filter(|intid| self.is_latched(*intid))
            .collect();
        self.write_enable_lpis(pe, of, true);
        for intid in pending {
            if self.hardware_has(intid) {
                self.doubled.insert(intid);
            }
        }
        self.note_enabling(&before);
    }

    pub(super) fn disable_lpis(&mut self, pe: usize, of: usize) {
        self.note_disabling(of);
        self.write_enable_lpis(pe, of, false);
    }

    fn write_enable_lpis(&mut self, pe: usize, of: usize, on: bool) {
        let frame = Frame::Redistributor(of);
        self.access(pe, frame, 0, 4, Some(on.into()));
        self.reference.write(frame, 0, 4, on.into());
        self.forget_doubled();
        self.quiesce();
        // The guest waits for RWP to read as zero.
        self.read(pe, frame, 0, 4);
        self.compare_pending_table(of);
    }

    /// Compares the pending table of PE `of` in memory, where EnableLPIs is 0.
    fn compare_pending_table(&self, of: usize) {
        if !self.lpis_are_off(of) {
            return;
        }

        let mut bytes = [0; 4];
        let at = pending_table(of) + u64::from(FIRST_LPI / 8);
        self.vm.host().read_memory(at, &mut bytes).unwrap();
        let found = u32::from_le_bytes(bytes);
        let pending = self.reference.lpis.pending[of].iter();
        let expected = pending.fold(0, |word, intid| word | 1 << (intid - FIRST_LPI));
        assert_eq!(found, expected, "the pending table of PE {of}");
    }
}

//! The LPI tables in guest memory: configuration and pending state, and when they are read.

use vgic::mmio::Width;

use super::embedder::{
    PROPERTIES, QUEUE_SIZE, collection_table, device_table, pending_table, queue,
};
use super::{Machine, VALID};
use crate::operation::{ITSES, LPIS, Operation, PES};
use crate::reference::{FIRST_LPI, Frame};

/// `GICR_PENDBASER.PTZ`: the table is all zero.
const PTZ: u64 = 1 << 62;

impl Machine {
    /// Tables, queues, EnableLPIs, and the ITSes enabled; nothing is mapped yet.
    pub(super) fn set_up_lpis(&mut self) {
        const { assert!(QUEUE_SIZE == 0x1000, "a page, as GITS_CBASER says below") };
        let gicr = self.vm.config().redistributors[0].base;
        let write = |gpa, value| {
            let cpu = &self.cpus[0];
            let _ = self.vm.mmio_write(&cpu.pin(), gpa, Width::Double, value);
        };
        for pe in 0..PES {
            let gicr = gicr + pe as u64 * 0x2_0000;
            write(gicr + 0x70, PROPERTIES | 13);
            write(gicr + 0x78, pending_table(pe));
        }
        for (its, config) in self.vm.config().its.iter().enumerate() {
            write(config.base + 0x100, VALID | device_table(its));
            write(config.base + 0x108, VALID | collection_table(its));
            write(config.base + 0x80, VALID | queue(its));
        }
        for pe in 0..PES {
            self.apply(&Operation::EnableLpis(0, pe, Some(0)));
        }
        for its in 0..ITSES.len() {
            self.apply(&Operation::EnableIts(0, its, true));
        }
    }

    /// A collection for each PE, and a device with eight LPIs among them on each ITS, of which some are
    /// the same.
    pub(super) fn map_lpis(&mut self) {
        for n in 0..LPIS {
            let byte = (n as u8) << 5 | 1;
            self.apply(&Operation::Configure(0, FIRST_LPI + n, byte, 3));
        }
        for its in 0..ITSES.len() {
            for pe in 0..PES as u64 {
                self.apply(&Operation::Command(
                    0,
                    its,
                    [0x09, 0, VALID | pe << 16 | pe, 0],
                ));
            }
            self.apply(&Operation::Command(0, its, [0x08, 2, VALID, 0]));
            for n in 0..8 {
                let intid = u64::from(FIRST_LPI) + n + 5 * its as u64;
                let mapti = [0x0a, n | intid << 32, intid % PES as u64, 0];
                self.apply(&Operation::Command(0, its, mapti));
            }
        }
    }

    /// Changes an LPI's priority and enable, and has them read again in one of several ways.
    pub(super) fn configure(&mut self, pe: usize, intid: u32, byte: u8, how: u8) {
        let index = (intid - FIRST_LPI) as usize;
        self.vm
            .host()
            .write_memory(PROPERTIES + index as u64, &[byte]);
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
                self.enable_lpis(pe, of, 0);
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

    /// `GICR_CTLR.EnableLPIs` of PE `of`, if it is not set. Nobody else writes the pending table, so the
    /// guest says what is in it now; PTZ if there is nothing, and nothing that was pending before.
    pub(super) fn enable_lpis(&mut self, pe: usize, of: usize, table: u32) {
        if !self.lpis_are_off(of) {
            return;
        }
        let at = pending_table(of) + u64::from(FIRST_LPI / 8);
        self.vm.host().write_memory(at, &table.to_le_bytes());
        self.reference.lpis.pending[of] = (0..LPIS)
            .filter(|n| table >> n & 1 != 0)
            .map(|n| FIRST_LPI + n)
            .collect();
        let mut lpis = self.reference.lpis.mapped.values();
        let pending = lpis.any(|lpi| lpi.interrupt.latch && lpi.at == Some(of));
        let zero = if table == 0 && !pending { PTZ } else { 0 };
        let frame = Frame::Redistributor(of);
        self.access(pe, frame, 0x78, 8, Some(pending_table(of) | zero));
        self.write_enable_lpis(pe, of, true);
    }

    pub(super) fn disable_lpis(&mut self, pe: usize, of: usize) {
        self.write_enable_lpis(pe, of, false);
    }

    fn write_enable_lpis(&mut self, pe: usize, of: usize, on: bool) {
        let frame = Frame::Redistributor(of);
        self.access(pe, frame, 0, 4, Some(on.into()));
        self.reference.write(frame, 0, 4, on.into());
        self.settle();
        // What the guest waits for: RWP.
        self.read(pe, frame, 0, 4);
    }
}

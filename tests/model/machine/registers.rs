//! Register accesses of the guest, as far as their outcome is defined.

use vgic::mmio::{MmioOutcome, Width};

use super::{Machine, vcpu};
use crate::reference::{Frame, Interrupt};

impl Machine {
    pub(super) fn gpa(&self, frame: Frame, at: u64) -> u64 {
        let config = self.vm.config();
        match frame {
            Frame::Distributor => config.distributor + at,
            Frame::Redistributor(pe) => config.redistributor_base(vcpu(pe)).unwrap() + at,
        }
    }

    /// Makes a trapping access, repeated as long as the library answers with a retry.
    pub(super) fn access(
        &mut self,
        pe: usize,
        frame: Frame,
        at: u64,
        bytes: u64,
        value: Option<u64>,
    ) -> u64 {
        let gpa = self.gpa(frame, at);
        let width = Width::from_bytes(bytes).unwrap();
        for _ in 0..10 {
            let outcome = self.trap(pe, |vm, cpu| match value {
                None => vm.mmio_read(cpu, vcpu(pe), gpa, width),
                Some(value) => vm.mmio_write(cpu, gpa, width, value),
            });
            match outcome.unwrap() {
                MmioOutcome::Done(value) => return value,
                MmioOutcome::Retry => self.quiesce(),
                MmioOutcome::Unclaimed => panic!("{gpa:#x} is ours"),
            }
        }
        panic!("{frame:?} {at:#x}: retried without end");
    }

    pub(super) fn read(&mut self, pe: usize, frame: Frame, at: u64, bytes: u64) {
        let found = self.access(pe, frame, at, bytes, None);
        let expected = self.reference.read(frame, at, bytes);
        assert_eq!(
            found, expected,
            "PE {pe} reads {bytes} bytes of {frame:?} {at:#x}: {found:#x} {expected:#x}"
        );
    }

    /// Returns `value` with the old fields of interrupts whose change is UNPREDICTABLE now.
    pub(super) fn defined(&self, frame: Frame, at: u64, bytes: u64, value: u64) -> u64 {
        let (interrupts, block): (Vec<Option<&Interrupt>>, u64) = match frame {
            Frame::Distributor if is_of_extended_spis(at) => {
                let extended = self.reference.distributor.extended.iter();
                (extended.map(Some).collect(), at)
            }
            Frame::Distributor => {
                // The first 32 are SGIs and PPIs, which have no fields here.
                let spis = self.reference.distributor.spis.iter().map(Some);
                ([None; 32].into_iter().chain(spis).collect(), at)
            }
            Frame::Redistributor(pe) if at >= 0x1_0000 => {
                let private = self.reference.redistributors[pe].all();
                (private.map(|(_, irq)| Some(irq)).collect(), at - 0x1_0000)
            }
            _ => return value,
        };

        // The field's bits, and its first interrupt.
        let (field, first) = match block {
            0x80..0x100 | 0x1000..0x1080 => (1, block % 0x80 * 8),
            0x400..0x800 => (8, block - 0x400),
            0x2000..0x2400 => (8, block - 0x2000),
            0xc00..0xd00 => (2, (block - 0xc00) * 4),
            0x3000..0x3100 => (2, (block - 0x3000) * 4),
            _ => return value,
        };

        let old = self.reference.read(frame, at, bytes);
        let fields = (bytes * 8 / field) as usize;
        (0..fields)
            .zip(interrupts.into_iter().skip(first as usize))
            .filter_map(|(n, interrupt)| Some((n, interrupt?)))
            .filter(|(_, i)| i.active || field == 2 && i.pending())
            .fold(value, |value, (n, _)| {
                let mask = ((1_u64 << field) - 1) << (n as u64 * field);
                value & !mask | old & mask
            })
    }
}

/// Returns whether the offset is of a register with a group, a priority or a trigger of extended
/// SPIs.
fn is_of_extended_spis(at: u64) -> bool {
    matches!(at, 0x1000..0x1080 | 0x2000..0x2400 | 0x3000..0x3100)
}

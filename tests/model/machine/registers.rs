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
        let (interrupts, at): (&[Interrupt], u64) = match frame {
            Frame::Distributor => (&self.reference.distributor.spis, at),
            Frame::Redistributor(pe) if at >= 0x1_0000 => {
                (&self.reference.redistributors[pe].private, at - 0x1_0000)
            }
            _ => return value,
        };

        // The field's bits, and its first interrupt.
        let (field, first) = match at {
            0x80..0x100 => (1, at % 0x80 * 8),
            0x400..0x800 => (8, at - 0x400),
            0xc00..0xd00 => (2, (at - 0xc00) * 4),
            _ => return value,
        };

        let first = first as usize
            - if frame == Frame::Distributor {
                32.min(first as usize)
            } else {
                0
            };

        let private_bank = frame == Frame::Distributor && at % 0x80 < 4 && field == 1;
        if private_bank {
            return value;
        }

        let old = self.reference.read(
            frame,
            if frame == Frame::Distributor {
                at
            } else {
                at + 0x1_0000
            },
            bytes,
        );

        let fields = (bytes * 8 / field) as usize;
        (0..fields)
            .zip(interrupts.iter().skip(first))
            .filter(|(_, i)| i.active || field == 2 && i.pending())
            .fold(value, |value, (n, _)| {
                let mask = ((1_u64 << field) - 1) << (n as u64 * field);
                value & !mask | old & mask
            })
    }
}

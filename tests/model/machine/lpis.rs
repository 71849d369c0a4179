//! What the guest does with LPIs: commands, and their configuration.

use vgic::mmio::{MmioOutcome, Width};

use super::embedder::{PROPERTIES, QUEUE, QUEUE_SIZE, RAM};
use super::{Machine, VALID, vcpu};
use crate::operation::ITS;

impl Machine {
    /// A command, by way of the queue in memory and the ITS's registers.
    pub(super) fn command(&mut self, pe: usize, command: [u64; 4]) {
        if !self.is_defined(command) {
            return;
        }
        let at = (QUEUE - RAM + self.queued * 32 % QUEUE_SIZE) as usize;
        let bytes: Vec<u8> = command.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.vm.host().memory.lock().unwrap()[at..at + 32].copy_from_slice(&bytes);
        self.queued += 1;
        let (gits, next) = (self.vm.config().its[0].base, self.queued * 32 % QUEUE_SIZE);
        let _ = self.trap(pe, |vm, _, pin| {
            vm.mmio_write(pin, gits + 0x88, Width::Double, next)
        });
        self.settle();
        let creadr = self.trap(pe, |vm, cpu, pin| {
            vm.mmio_read(cpu, pin, vcpu(pe), gits + 0x90, Width::Double)
        });
        assert_eq!(creadr, MmioOutcome::Done(next), "CREADR");
        let faults = std::mem::take(&mut *self.vm.host().faults.lock().unwrap());
        let found = faults.first().map(|(_, error)| format!("{error:?}"));
        let expected = self.reference.its.execute(command).err();
        assert_eq!(
            found,
            expected.map(|fault| format!("{fault:?}")),
            "{command:x?}"
        );
    }

    /// After MOVALL the collections follow: module docs.
    pub(super) fn map_after_movall(&mut self, pe: usize, command: [u64; 4]) {
        let (from, to) = (command[2] >> 16, command[3] >> 16);
        for icid in 0..ITS.collections {
            if self.reference.its.collection(icid) == Some(from as usize) {
                self.command(pe, [0x09, 0, VALID | to << 16 | icid, 0]);
            }
        }
    }

    /// Whether the architecture says what the command does.
    pub(super) fn is_defined(&self, command: [u64; 4]) -> bool {
        let its = &self.reference.its;
        let (device, event) = (command[0] >> 32, command[1] & 0xffff_ffff);
        match command[0] & 0xff {
            // One LPI, two events.
            number @ (0x0a | 0x0b) => {
                let intid = if number == 0x0a {
                    command[1] >> 32
                } else {
                    event
                };
                let mapping = its.mapping(intid as u32);
                mapping.is_none_or(|(d, e, _)| (d, e) == (device, event))
            }
            // Pending interrupts of a collection that is mapped elsewhere without MOVALL.
            0x09 => {
                let (icid, pe) = (command[2] & 0xffff, command[2] >> 16 & 0xffff);
                let pe = (command[2] >> 63 != 0).then_some(pe as usize);
                pe == its.collection(icid) || its.pending(icid).all(|at| at == pe)
            }
            _ => true,
        }
    }

    /// A guest's driver changes an LPI's priority and enable.
    pub(super) fn configure(&mut self, pe: usize, intid: u32, byte: u8, how: u8) {
        let at = (PROPERTIES - RAM) as usize + intid as usize - 8192;
        self.vm.host().memory.lock().unwrap()[at] = byte;
        self.reference.its.table[intid as usize - 8192] = byte;
        let mapping = self.reference.its.mapping(intid);
        let gicr = self.vm.config().redistributors[0].base;
        match (how, mapping) {
            (0, Some((device, event, _))) => self.command(pe, [0x0c | device << 32, event, 0, 0]),
            (1, Some((_, _, icid))) if self.reference.its.collection(icid).is_some() => {
                self.command(pe, [0x0d, 0, icid, 0]);
            }
            _ => {
                // GICR_INVLPIR or GICR_INVALLR.
                let (at, value) = if how == 2 { (0xb0, 0) } else { (0xa0, intid) };
                let value = value.into();
                let _ = self.trap(pe, |vm, _, pin| {
                    vm.mmio_write(pin, gicr + at, Width::Double, value)
                });
                self.reference.its.invalidate(intid);
            }
        }
    }
}

//! Devices: lines, edges, MSIs.

use vgic::intid::{DeviceId, EventId, IntId, ItsId};

use super::{Machine, vcpu};
use crate::coverage::{note, note_if};

impl Machine {
    pub(super) fn line(&mut self, pe: usize, intid: u32, high: bool) {
        if self.physical_line(pe, intid, high) {
            return;
        }

        let pin = self.pin();
        match intid {
            16..32 | 1056..1120 => {
                let ppi = IntId::ppi(intid).unwrap();
                self.vm.set_ppi_line(&pin, vcpu(pe), ppi, high).unwrap();
            }
            _ => {
                let spi = IntId::spi(intid).unwrap();
                self.vm.set_spi_line(&pin, spi, high).unwrap();
            }
        }

        drop(pin);
        let interrupt = self.reference.interrupt(pe, intid).unwrap();
        let rises = high && !interrupt.line && !interrupt.level;
        note_if(rises, "the line of an edge rises");
        note_if(
            rises && interrupt.active,
            "active, the line of its edge rises",
        );
        interrupt.set_line(high);
        if !high {
            self.quiesce();
            self.bounce_everybody();
        }
    }

    pub(super) fn edge(&mut self, pe: usize, intid: u32) {
        if self.physical_edge(pe, intid) {
            return;
        }

        let pin = self.pin();
        let _ = match intid {
            16..32 | 1056..1120 => self
                .vm
                .inject_ppi(&pin, vcpu(pe), IntId::ppi(intid).unwrap()),
            _ => self.vm.inject_spi(&pin, IntId::spi(intid).unwrap()),
        }
        .unwrap();

        drop(pin);
        self.reference.interrupt(pe, intid).unwrap().latch = true;
    }

    pub(super) fn msi(&mut self, its: usize, device: u64, event: u64) {
        if self.is_ignored(its, device, event) {
            return;
        }

        let intid = self.reference.itses[its]
            .event(device, event)
            .map(|(intid, _)| intid);
        let direct = self.raise_lpi(intid, false, |machine| {
            machine.sends_directly(its, device, event)
        });
        if direct {
            assert!(self.reference.translate(its, device, event));
        } else {
            self.soft_msi(its, device, event);
        }
    }

    /// Injects an MSI as the hypervisor does.
    pub(super) fn soft_msi(&mut self, its: usize, device: u64, event: u64) {
        if self.is_ignored(its, device, event) {
            return;
        }

        let intid = self.reference.itses[its]
            .event(device, event)
            .map(|(intid, _)| intid);
        let (id, event_id) = (DeviceId(device as u32), EventId(event as u32));
        let found = self.raise_lpi(intid, true, |machine| {
            let found = machine
                .vm
                .inject_msi(&machine.pin(), ItsId(its as u8), id, event_id);
            found.map(|_| ())
        });

        let on = self.reference.itses[its].enabled;
        let mapped = self.reference.itses[its].event(device, event);
        let pending =
            mapped.is_some_and(|(intid, _)| self.reference.lpis.mapped[&intid].interrupt.latch);
        let accepted = self.reference.translate(its, device, event);
        note(match accepted {
            true if pending => "an MSI coalesces",
            true => "an MSI is taken",
            false if !on && mapped.is_some() => "an MSI is refused by an ITS that is disabled",
            false => "an MSI is refused",
        });

        assert_eq!(
            found.is_ok(),
            accepted,
            "MSI {device}:{event} of ITS {its}: {found:?}"
        );
    }

    /// Returns true for an MSI to a PE with LPIs disabled, which the architecture ignores: see the
    /// module docs.
    fn is_ignored(&self, its: usize, device: u64, event: u64) -> bool {
        self.reference.itses[its]
            .event(device, event)
            .is_some_and(|(intid, icid)| {
                let at = self.reference.itses[its].collection(icid);
                at.is_some_and(|pe| self.lpis_are_off(pe))
                    && !self.reference.lpis.mapped[&intid].interrupt.latch
            })
    }
}

//! Forwarded physical interrupts: the physical distributor's part, and their active states.

use vgic::intid::IntId;

use super::embedder::{Physical, Virtual};
use super::{Machine, Place, vcpu};
use crate::coverage::note;
use crate::operation::{FORWARDED, PES};
use crate::reference::{Frame, Interrupt};

/// `GICD_SETSPI_NSR` and `GICD_CLRSPI_NSR`.
const MESSAGES: [u64; 2] = [0x40, 0x48];

/// Returns every forwarded interrupt: its PE (any PE for an SPI), the virtual and the physical
/// interrupt.
fn all() -> impl Iterator<Item = (usize, Virtual, Physical)> {
    FORWARDED.into_iter().flat_map(|(intid, pintid)| {
        let private = intid < 32;
        (0..if private { PES } else { 1 }).map(move |pe| {
            let owner = private.then_some(pe);
            (pe, (owner, intid), (owner, pintid))
        })
    })
}

fn find(pe: usize, intid: u32) -> Option<(Virtual, Physical)> {
    all()
        .find(|(of, (owner, n), _)| *n == intid && (owner.is_none() || *of == pe))
        .map(|(_, of, physical)| (of, physical))
}

/// Returns the physical interrupt forwarded as `of`.
pub(super) fn physical(of: Virtual) -> Option<Physical> {
    let (_, pintid) = FORWARDED.iter().find(|(intid, _)| *intid == of.1)?;
    Some((of.0, *pintid))
}

impl Machine {
    /// Connects every forwarded interrupt with its physical interrupt.
    pub(super) fn connect(&self) {
        for (pe, (owner, intid), (_, pintid)) in all() {
            let pintid = IntId::new(pintid.into()).unwrap();
            match owner {
                Some(_) => {
                    let ppi = IntId::ppi(intid).unwrap();
                    self.vm.connect_ppi(vcpu(pe), ppi, pintid).unwrap();
                }
                None => {
                    let spi = IntId::spi(intid).unwrap();
                    self.vm.connect_spi(spi, pintid).unwrap();
                }
            }
        }
    }

    /// Sets the line of the physical interrupt behind `intid`. Returns false without one.
    pub(super) fn physical_line(&mut self, pe: usize, intid: u32, high: bool) -> bool {
        let Some((_, physical)) = find(pe, intid) else {
            return false;
        };
        let mut lines = self.vm.host().lines.lock().unwrap();
        match high {
            true => lines.insert(physical),
            false => lines.remove(&physical),
        };
        drop(lines);
        self.reference.interrupt(pe, intid).unwrap().line = high;
        true
    }

    /// Raises an edge of the physical interrupt behind `intid`. Returns false without one.
    pub(super) fn physical_edge(&mut self, pe: usize, intid: u32) -> bool {
        let Some((of, physical)) = find(pe, intid) else {
            return false;
        };
        let interrupt = *self.reference.interrupt(pe, intid).unwrap();
        if !interrupt.level && self.is_open(pe, of, physical) {
            note("an edge is forwarded");
            self.forward(pe, of, physical);
        }
        true
    }

    /// Forwards every pending and open physical interrupt. Returns whether one was forwarded.
    pub(super) fn forward_all(&mut self) -> bool {
        let mut any = false;
        for (pe, of, physical) in all() {
            let interrupt = *self.reference.interrupt(pe, of.1).unwrap();
            if interrupt.level && interrupt.line && self.is_open(pe, of, physical) {
                note(if of.0.is_some() {
                    "a PPI is forwarded"
                } else {
                    "an SPI is forwarded"
                });
                self.forward(pe, of, physical);
                any = true;
            }
        }
        any
    }

    /// Returns whether a pending physical interrupt is taken: enabled as by the guest, not active,
    /// and (for a PPI) with its PE on a CPU.
    fn is_open(&self, pe: usize, of: Virtual, physical: Physical) -> bool {
        let host = self.vm.host();
        let enabled = host.enabled.lock().unwrap().get(&of) == Some(&true);
        let active = host.active.lock().unwrap().contains(&physical);
        let here =
            of.0.is_none() || matches!(self.places[pe], Place::InGuest(_) | Place::Waiting(_));
        enabled && !active && here
    }

    fn forward(&mut self, pe: usize, of: Virtual, physical: Physical) {
        self.vm.host().active.lock().unwrap().insert(physical);
        let pin = self.pin();
        let _ = match of {
            (Some(_), intid) => {
                let ppi = IntId::ppi(intid).unwrap();
                self.vm.forward_ppi(&pin, vcpu(pe), ppi)
            }
            (None, intid) => self.vm.forward_spi(&pin, IntId::spi(intid).unwrap()),
        }
        .unwrap();
        drop(pin);
        self.reference.interrupt(pe, of.1).unwrap().latch = true;
    }

    /// Returns whether `intid` is a forwarded interrupt with an active physical interrupt.
    pub(super) fn physical_is_active(&self, pe: usize, intid: u32) -> bool {
        let found = find(pe, intid);
        let active = self.vm.host().active.lock().unwrap();
        found.is_some_and(|(_, physical)| active.contains(&physical))
    }

    /// Returns whether a write is a message for a forwarded interrupt.
    pub(super) fn is_message_for_forwarded(frame: Frame, at: u64, value: u64) -> bool {
        frame == Frame::Distributor
            && MESSAGES.contains(&at)
            && FORWARDED
                .iter()
                .any(|(n, _)| u64::from(*n) == value & 0x1fff)
    }

    /// Notes the forwarded interrupts made pending or active by a write of `ISPENDR` or
    /// `ISACTIVER`.
    pub(super) fn note_meddling(&mut self, frame: Frame, at: u64, bytes: u64, value: u64) {
        let (owner, at) = match frame {
            Frame::Distributor => (None, at),
            Frame::Redistributor(pe) => (Some(pe), at.wrapping_sub(0x1_0000)),
        };

        if bytes != 4 || !matches!(at, 0x200..0x280 | 0x300..0x380) {
            return;
        }

        for (_, of, _) in all().filter(|(_, of, _)| of.0 == owner) {
            let (register, bit) = (of.1 / 32 * 4, of.1 % 32);
            if at % 0x80 == register.into() && value >> bit & 1 != 0 {
                self.meddled.insert(of);
                note("a forwarded one is made pending or active by the guest");
            }
        }
    }

    /// Compares the physical active states: active exactly while the forwarded interrupt is pending
    /// or active in the guest.
    pub(super) fn compare_physical(&mut self) {
        for (pe, of, physical) in all() {
            let Interrupt { latch, active, .. } = *self.reference.interrupt(pe, of.1).unwrap();
            let found = self.vm.host().active.lock().unwrap().contains(&physical);
            if !latch && !active {
                self.meddled.remove(&of);
                assert!(
                    !found,
                    "{physical:?} is still active, of {of:?}, which is idle"
                );
            } else if !self.meddled.contains(&of) {
                assert!(found, "{physical:?} is not active any more, of {of:?}");
            }
        }
    }
}

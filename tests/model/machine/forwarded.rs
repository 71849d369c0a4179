//! Forwarded physical interrupts: the physical distributor's part, and their active states.

use vgic::intid::IntId;

use super::embedder::{Physical, Virtual};
use super::{Machine, Place, vcpu};
use crate::coverage::{note, note_if};
use crate::operation::{FORWARDED, PES};
use crate::reference::{Frame, Interrupt, is_private};

/// `GICD_SETSPI_NSR` and `GICD_CLRSPI_NSR`.
const MESSAGES: [u64; 2] = [0x40, 0x48];

/// Returns every forwarded interrupt: its PE (any PE for an SPI), the interrupt, and the physical
/// INTID.
fn all() -> impl Iterator<Item = (usize, Virtual, u16)> {
    FORWARDED.into_iter().flat_map(|(intid, pintid)| {
        let private = is_private(intid);
        (0..if private { PES } else { 1 }).map(move |pe| {
            let owner = private.then_some(pe);
            (pe, (owner, intid), pintid)
        })
    })
}

fn find(pe: usize, intid: u32) -> Option<(Virtual, u16)> {
    all()
        .find(|(of, (owner, n), _)| *n == intid && (owner.is_none() || *of == pe))
        .map(|(_, of, pintid)| (of, pintid))
}

/// Returns the offset in the frame, or in `SGI_base`, of an interrupt's register in the place of
/// the block `block` of SPIs, with so many `bits` for an interrupt, and the lowest of them.
fn register_of(intid: u32, block: u64, bits: u64) -> (u64, u64) {
    let intid = u64::from(intid);
    let (block, number) = match intid {
        1056..1120 => (block, intid - 1056 + 32),
        4096.. if block == 0xc00 => (0x3000, intid - 4096),
        4096.. => (0x1000 + (block - 0x80) * 4, intid - 4096),
        _ => (block, intid),
    };
    (block + number * bits / 32 * 4, number * bits % 32)
}

/// Returns whether `of` is forwarded.
pub(super) fn is_forwarded(of: Virtual) -> bool {
    FORWARDED.iter().any(|(intid, _)| *intid == of.1)
}

impl Machine {
    /// Connects every forwarded interrupt with its physical interrupt.
    pub(super) fn connect(&self) {
        self.connect_those(|_| true);
    }

    /// Connects the forwarded PPIs of a PE that has been added, whose physical line is as before.
    pub(super) fn reconnect(&mut self, pe: usize) {
        self.connect_those(|owner| owner == Some(pe));
        for (_, of, _) in all().filter(|(_, of, _)| of.0 == Some(pe)) {
            // The addition has lowered the line that was shown.
            self.shown.remove(&of);
            self.meddled.remove(&of);
            let high = self.vm.host().lines.lock().unwrap().contains(&of);
            self.reference.interrupt(pe, of.1).unwrap().line = high;
        }
    }

    /// Notes that no forwarded interrupt has its physical interrupt any more: the VM is a new one.
    pub(super) fn forget_physical(&mut self) {
        self.meddled.extend(all().map(|(_, of, _)| of));
    }

    fn connect_those(&self, wanted: impl Fn(Option<usize>) -> bool) {
        let pin = self.pin();
        for (pe, (owner, intid), pintid) in all().filter(|(_, of, _)| wanted(of.0)) {
            let pintid = IntId::new(pintid.into()).unwrap();
            match owner {
                Some(_) => {
                    let ppi = IntId::ppi(intid).unwrap();
                    self.vm.connect_ppi(&pin, vcpu(pe), ppi, pintid).unwrap();
                }
                None => {
                    let spi = IntId::spi(intid).unwrap();
                    self.vm.connect_spi(&pin, spi, pintid).unwrap();
                }
            }
        }
    }

    /// Returns the physical interrupt behind `of`: a PPI of the CPU that has the PE, or of none.
    fn physical(&self, (owner, intid): Virtual) -> Option<Physical> {
        let (_, pintid) = *FORWARDED.iter().find(|(n, _)| *n == intid)?;
        match owner.map(|pe| self.places[pe]) {
            None => Some((None, pintid)),
            Some(Place::InGuest(cpu) | Place::Waiting(cpu)) => Some((Some(cpu), pintid)),
            Some(Place::Away | Place::Off) => None,
        }
    }

    /// Sets the line of the physical interrupt behind `intid`. Returns false without one.
    pub(super) fn physical_line(&mut self, pe: usize, intid: u32, high: bool) -> bool {
        let Some((of, _)) = find(pe, intid) else {
            return false;
        };
        let mut lines = self.vm.host().lines.lock().unwrap();
        match high {
            true => lines.insert(of),
            false => lines.remove(&of),
        };
        drop(lines);
        self.reference.interrupt(pe, intid).unwrap().line = high;
        if !high {
            // The library samples a line that has fallen at the next exit.
            self.quiesce();
            self.bounce_everybody();
        }
        true
    }

    /// Raises an edge of the physical interrupt behind `intid`. Returns false without one.
    pub(super) fn physical_edge(&mut self, pe: usize, intid: u32) -> bool {
        let Some((of, _)) = find(pe, intid) else {
            return false;
        };
        let interrupt = *self.reference.interrupt(pe, intid).unwrap();
        if !interrupt.level
            && let Some(physical) = self.open(of)
        {
            note("an edge is forwarded");
            self.forward(pe, of, physical);
            self.reference.interrupt(pe, intid).unwrap().latch = true;
        }
        true
    }

    /// Forwards every pending and open physical interrupt. Returns whether one was forwarded.
    ///
    /// The reference knows nothing of it: a level-sensitive interrupt is pending while its line is
    /// high (IHI 0069, 4.1: the pending state of a level-sensitive interrupt follows the signal),
    /// whoever carries it.
    pub(super) fn forward_all(&mut self) -> bool {
        let mut any = false;
        for (pe, of, _) in all() {
            let interrupt = *self.reference.interrupt(pe, of.1).unwrap();
            if interrupt.level
                && interrupt.line
                && let Some(physical) = self.open(of)
            {
                note(if of.0.is_some() {
                    "a PPI is forwarded"
                } else {
                    "an SPI is forwarded"
                });
                note_if(
                    of.0.is_some() && interrupt.active,
                    "a PPI is forwarded while active, its PE having come from another CPU",
                );
                self.forward(pe, of, physical);
                any = true;
            }
        }
        any
    }

    /// Shows the line of a PPI whose PE is on no CPU to the library: the PPI of no CPU has it. Call
    /// after a change of place, line or trigger.
    pub(super) fn show_lines_of_absent(&mut self) {
        let present = |owner: Option<usize>| owner.is_some() && owner != self.absent;
        let present: Vec<_> = all().filter(|(_, of, _)| present(of.0)).collect();
        for (pe, of, _) in present {
            let Interrupt { level, line, .. } = *self.reference.interrupt(pe, of.1).unwrap();
            let high = level && line && matches!(self.places[pe], Place::Away | Place::Off);
            if high != self.shown.contains(&of) {
                self.show_line(of, high);
            }
        }
    }

    /// Sets the line of a PPI for the library.
    fn show_line(&mut self, of: Virtual, high: bool) {
        let (Some(pe), intid) = of else { return };
        let ppi = IntId::ppi(intid).unwrap();
        (self.vm.set_ppi_line(&self.pin(), vcpu(pe), ppi, high)).unwrap();
        match high {
            true => self.shown.insert(of),
            false => self.shown.remove(&of),
        };
    }

    /// Takes back the lines shown for PE `pe`, which is about to come onto a CPU.
    pub(super) fn hide_lines(&mut self, pe: usize) {
        for (_, of, _) in all().filter(|(_, of, _)| of.0 == Some(pe)) {
            if self.shown.contains(&of) {
                note("a PE comes onto a CPU with the line of its PPI high");
                self.show_line(of, false);
            }
        }
    }

    /// Returns the physical interrupt behind `of` if it would be taken: enabled as by the guest,
    /// not active, and (for a PPI) with its PE on a CPU.
    fn open(&self, of: Virtual) -> Option<Physical> {
        let host = self.vm.host();
        let physical = self.physical(of)?;
        let enabled = host.enabled.lock().unwrap().get(&of) == Some(&true);
        let active = host.active.lock().unwrap().contains(&physical);
        (enabled && !active).then_some(physical)
    }

    fn forward(&mut self, pe: usize, of: Virtual, physical: Physical) {
        self.vm.host().active.lock().unwrap().insert(physical);
        let pin = self.cpus[physical.0.unwrap_or(0)].pin();
        let _ = match of {
            (Some(_), intid) => {
                let ppi = IntId::ppi(intid).unwrap();
                self.vm.forward_ppi(&pin, vcpu(pe), ppi)
            }
            (None, intid) => self.vm.forward_spi(&pin, IntId::spi(intid).unwrap()),
        }
        .unwrap();
    }

    /// Returns whether `of` is forwarded, with an active physical interrupt.
    pub(super) fn is_physically_active(&self, of: Virtual) -> bool {
        let active = self.vm.host().active.lock().unwrap();
        self.physical(of)
            .is_some_and(|physical| active.contains(&physical))
    }

    /// Returns every interrupt with an active physical interrupt.
    pub(super) fn physically_active(&self) -> Vec<Virtual> {
        let forwarded = all().map(|(_, of, _)| of);
        forwarded
            .filter(|of| self.is_physically_active(*of))
            .collect()
    }

    /// Returns whether `intid` is a forwarded interrupt with an active physical interrupt.
    pub(super) fn physical_is_active(&self, pe: usize, intid: u32) -> bool {
        find(pe, intid).is_some_and(|(of, _)| self.is_physically_active(of))
    }

    /// Returns `word`, written to `ISPENDR` or `ICFGR` at `at`, without the forwarded
    /// level-sensitive interrupts, or without a new trigger for those whose physical interrupt is
    /// active: see the module docs.
    pub(super) fn without_forwarded_levels(&mut self, frame: Frame, at: u64, word: u64) -> u64 {
        let (owner, at) = match frame {
            Frame::Distributor => (None, at),
            Frame::Redistributor(pe) => (Some(pe), at.wrapping_sub(0x1_0000)),
        };
        let mut word = word;
        for (pe, of, _) in all().filter(|(_, of, _)| of.0 == owner) {
            let level = self.reference.interrupt(pe, of.1).unwrap().level;
            let (register, bit) = register_of(of.1, 0x200, 1);
            if at == register && level {
                word &= !(1 << bit);
            }
            let (register, bit) = register_of(of.1, 0xc00, 2);
            if at == register && self.is_physically_active(of) {
                word = word & !(1 << (bit + 1)) | u64::from(!level) << (bit + 1);
            }
        }
        word
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

        if bytes != 4 {
            return;
        }

        for (_, of, _) in all().filter(|(_, of, _)| of.0 == owner) {
            for block in [0x200, 0x300] {
                let (register, bit) = register_of(of.1, block, 1);
                if at == register && value >> bit & 1 != 0 {
                    self.meddled.insert(of);
                    note("a forwarded one is made pending or active by the guest");
                }
            }
        }
    }

    /// Compares the physical active states with the guest's. A physical interrupt is active while
    /// the VM owns it:
    /// * it is pending in the guest and enabled, or active in the guest: it is active. An edge of a
    ///   PPI, and an active state of a PPI, are exceptions: the PE may have come from another CPU;
    /// * it is idle in the guest: it is inactive. A level that is disabled, or waits outside the
    ///   list registers, is found low only when it is asked for: it is inactive after the guest has
    ///   read the pending states (`asked`), or once a PE that sleeps with it in a list register
    ///   wakes up;
    /// * no PE is on the CPU of a PPI: it is inactive.
    pub(super) fn compare_physical(&mut self, asked: bool) {
        let sleeps = |place: &Place| matches!(place, Place::Waiting(_));
        let settled = asked && !self.places.iter().any(sleeps);
        for (pe, of, pintid) in all() {
            let interrupt = *self.reference.interrupt(pe, of.1).unwrap();
            let found = self.is_physically_active(of);
            if !interrupt.pending() && !interrupt.active {
                self.meddled.remove(&of);
                assert!(
                    !found || interrupt.level && !settled,
                    "{pintid} is still active, of {of:?}, which is idle"
                );
            } else if !self.meddled.contains(&of) && self.physical(of).is_some() {
                let stays = of.0.is_none() || interrupt.level;
                let pending = interrupt.pending() && !interrupt.active;
                let carried = pending && interrupt.enabled && stays;
                let held = interrupt.active && of.0.is_none();
                assert!(
                    found || !carried && !held,
                    "{pintid} is not active any more, of {of:?}"
                );
            }
        }

        let loaded = *self.vm.host().loaded.lock().unwrap();
        for (cpu, pintid) in &*self.vm.host().active.lock().unwrap() {
            assert!(
                cpu.is_none_or(|cpu| loaded[cpu].is_some()),
                "PPI {pintid} of CPU {cpu:?}, which no PE is on, is active"
            );
        }
    }
}

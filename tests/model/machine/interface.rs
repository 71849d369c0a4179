//! The guest's CPU interface: acknowledgement, end, deactivation.

use vgic::intid::IntId;
use vgic::sysreg::SysReg;

use super::{Machine, vcpu};
use crate::coverage::{note, note_if};
use crate::reference::{FIRST_LPI, SPURIOUS, is_private};

impl Machine {
    pub(super) fn acknowledge(&mut self, pe: usize, group1: bool) {
        let allowed = self.reference.acknowledgeable(pe, group1);
        let (intid, by_hardware) = self.read_iar(pe, group1);

        assert!(
            allowed.allows(intid),
            "PE {pe} acknowledges {intid} of Group {}, not one of {allowed:?}",
            u8::from(group1)
        );

        self.note_acknowledgement(pe, intid, group1);
        if intid != SPURIOUS {
            self.reference.acknowledge(pe, intid);
            if intid < FIRST_LPI {
                let kind = IntId::new(intid).unwrap().kind();
                self.acknowledged[kind as usize] += 1;
            } else {
                self.acknowledged_lpi(intid, by_hardware);
            }
            note_if(
                by_hardware && !self.handling[pe].is_empty(),
                "a virtual LPI preempts another",
            );
            self.handling[pe].push((intid, group1));
            if intid < FIRST_LPI && !is_private(intid) {
                self.taker.insert(intid, pe);
            }
        }
    }

    /// Returns whether an end of interrupt has a defined outcome: see the module docs.
    fn may_end(&self, pe: usize, intid: u32) -> bool {
        if self.reference.interfaces[pe].splits || intid >= FIRST_LPI {
            return true;
        }

        // An interrupt deactivated by this PE and taken by another PE since is not this PE's to
        // end.
        let spis = || self.reference.distributor.all();
        let elsewhere =
            spis().any(|(n, spi)| n == intid && spi.active && self.taker.get(&intid) != Some(&pe));
        if elsewhere {
            return false;
        }

        // Active interrupts possibly on the library's list of this PE, because of an
        // acknowledgement or of a routing, and in no list register. The last entry has filled the
        // list registers: an interrupt may be outside although fewer are left by now.
        let private = self.reference.redistributors[pe].all();
        let outside: Vec<(u32, u8)> = private
            .chain(spis().filter(|(n, _)| self.taker.get(n).is_none_or(|by| *by == pe)))
            .filter(|(n, irq)| irq.active && !self.is_in_register(pe, *n))
            .map(|(n, irq)| (n, irq.priority))
            .collect();

        // EOIcount has no INTID: the library ends the most urgent one outside.
        let others = || outside.iter().filter(|(n, _)| *n != intid);
        let comes_first = outside
            .iter()
            .any(|(n, mine)| *n == intid && others().all(|(_, other)| mine < other));
        self.is_in_register(pe, intid) || outside.is_empty() || comes_first
    }

    pub(super) fn end(&mut self, pe: usize) {
        let Some(&(intid, group1)) = self.handling[pe].last() else {
            return;
        };
        if !self.may_end(pe, intid) {
            return;
        }

        self.handling[pe].pop();
        self.note_end(pe, intid);
        match group1 {
            false => self.guest(pe).write_eoir0(intid),
            true => self.guest(pe).write_eoir1(intid),
        }

        for pintid in self.guest(pe).take_deactivations() {
            let owner = is_private(pintid).then(|| self.cpu_of(pe));
            self.vm.host().deactivated((owner, pintid as u16));
        }

        self.reference.end(pe, intid);
    }

    pub(super) fn deactivate(&mut self, pe: usize, nth: usize) {
        if !self.reference.interfaces[pe].splits {
            return;
        }

        let private = self.reference.redistributors[pe].all();
        let all = private.chain(self.reference.distributor.all());
        let active: Vec<u32> = all
            .filter(|(_, i)| i.active)
            .map(|(intid, _)| intid)
            .collect();
        let Some(&intid) = active.get(nth % active.len().max(1)) else {
            return;
        };

        self.note_deactivation(pe, intid);
        assert!(
            self.guest(pe).write_dir(intid).is_err(),
            "ICC_DIR_EL1 traps"
        );
        self.trap(pe, |vm, cpu| {
            vm.sysreg_write(cpu, vcpu(pe), SysReg::Dir, intid.into())
                .unwrap();
        });

        self.reference.deactivate(pe, intid);
    }

    /// Writes a system register whose access traps.
    pub(super) fn write_trapped(&mut self, pe: usize, register: SysReg, value: u64) {
        self.trap(pe, |vm, cpu| {
            vm.sysreg_write(cpu, vcpu(pe), register, value).unwrap();
        });
    }

    // --- situations ------------------------------------------------------------------------------

    fn note_acknowledgement(&self, pe: usize, intid: u32, group1: bool) {
        let handled = self.handling[pe].len();
        note(match intid {
            0..16 => "an SGI is acknowledged",
            16..32 => "a PPI is acknowledged",
            32..1020 => "an SPI is acknowledged",
            1056..1120 => "an extended PPI is acknowledged",
            4096..5120 => "an extended SPI is acknowledged",
            FIRST_LPI.. => "an LPI is acknowledged",
            _ => "nothing is acknowledged",
        });

        if intid == SPURIOUS {
            let mask = self.reference.interfaces[pe].mask;
            let all = self.reference.highest_pending(pe, group1);
            note_if(
                !all.allows(SPURIOUS) && mask < 0xf8 && handled == 0,
                "nothing is acknowledged while the mask holds something back",
            );
            return;
        }

        note_if(!group1, "Group 0 is acknowledged");
        note_if(handled > 0, "one preempts another");
        note_if(handled > 1, "three or more are handled at once");

        let maps = |its: usize| self.reference.itses[its].mappings(intid).next().is_some();
        note_if(
            intid >= FIRST_LPI && maps(0) && maps(1),
            "an LPI of two ITSes is acknowledged",
        );
    }

    /// Returns whether an interrupt is active in a list register of this PE.
    fn is_in_register(&self, pe: usize, intid: u32) -> bool {
        let mut registers = self.guest(pe).list_registers();
        registers.any(|lr| lr.is_active() && lr.vintid() == intid)
    }

    fn is_routed_to(&self, pe: usize, intid: u32) -> bool {
        let mut here = self.reference.routed_to(pe);
        here.any(|(other, _)| other == intid)
    }

    fn note_end(&mut self, pe: usize, intid: u32) {
        let loaded = self.is_in_register(pe, intid);
        let elsewhere = !self.is_routed_to(pe, intid);
        let physical = self.physical_is_active(pe, intid);

        if self.reference.interfaces[pe].splits {
            note("a priority drop with EOImode 1");
            return;
        }

        if intid >= FIRST_LPI {
            note_if(!loaded, "an end of an LPI outside the list registers");
            return;
        }

        let interrupt = *self.reference.interrupt(pe, intid).unwrap();
        if !interrupt.active {
            note("an end of what is inactive");
            return;
        }

        note(match loaded {
            true => "an end in a list register",
            false => "an end outside the list registers",
        });

        if physical {
            note(match loaded {
                true => "a forwarded one is ended in a list register",
                false => "a forwarded one is ended outside the list registers",
            });
            note_if(
                interrupt.level && interrupt.line && interrupt.enabled,
                "it is forwarded again, its line still being high",
            );
        }

        note_if(elsewhere, "an end of what is routed elsewhere by now");
        note_if(
            interrupt.level && interrupt.line,
            "an end with the line still high",
        );
        note_if(interrupt.latch, "an end with another edge pending");
    }

    fn note_deactivation(&self, pe: usize, intid: u32) {
        note("a deactivation with EOImode 1");
        let handles = |of: usize| self.handling[of].iter().any(|(other, _)| *other == intid);
        let by_another = (0..self.handling.len()).any(|of| of != pe && handles(of));
        note_if(
            !is_private(intid) && by_another && !handles(pe),
            "a deactivation by another PE",
        );
        note_if(
            !self.is_in_register(pe, intid),
            "a deactivation outside the list registers",
        );
        note_if(
            self.physical_is_active(pe, intid),
            "a forwarded one is deactivated by a trap",
        );
    }
}

//! The guest's CPU interface: acknowledgement, end, deactivation.

use vgic::sysreg::SysReg;

use super::{LIST_REGISTERS, Machine, vcpu};
use crate::reference::{FIRST_LPI, SPURIOUS};

impl Machine {
    pub(super) fn acknowledge(&mut self, pe: usize, group1: bool) {
        let allowed = self.reference.acknowledgeable(pe, group1);
        let intid = match group1 {
            false => self.guest(pe).read_iar0(),
            true => self.guest(pe).read_iar1(),
        };
        assert!(
            allowed.allows(intid),
            "PE {pe} acknowledges {intid} of Group {}, not one of {allowed:?}",
            u8::from(group1)
        );
        if intid != SPURIOUS {
            self.reference.acknowledge(pe, intid);
            self.handling[pe].push((intid, group1));
        }
    }

    /// Whether an end of interrupt has a defined outcome: module docs.
    pub(super) fn may_end(&mut self, pe: usize, intid: u32) -> bool {
        if self.reference.interfaces[pe].splits {
            return true;
        }
        let handling: Vec<u32> = self.handling[pe].iter().map(|(intid, _)| *intid).collect();
        let private = self.reference.redistributors[pe].private;
        let all = (0..)
            .zip(&private)
            .chain((32..).zip(&self.reference.distributor.spis));
        if intid >= FIRST_LPI {
            return true;
        }
        let lpis = self
            .reference
            .lpis
            .mapped
            .values()
            .filter(|lpi| lpi.interrupt.latch)
            .count()
            + handling.iter().filter(|intid| **intid >= FIRST_LPI).count();
        let (mut valid, mut foreign) = (lpis, false);
        for (other, interrupt) in all {
            valid += usize::from(interrupt.active || interrupt.pending());
            foreign |= interrupt.active && !handling.contains(&other);
        }
        let still_active = self
            .reference
            .interrupt(pe, intid)
            .is_some_and(|i| i.active);
        valid <= LIST_REGISTERS || still_active && !foreign
    }

    pub(super) fn end(&mut self, pe: usize) {
        let Some(&(intid, group1)) = self.handling[pe].last() else {
            return;
        };
        if !self.may_end(pe, intid) {
            return;
        }
        self.handling[pe].pop();
        match group1 {
            false => self.guest(pe).write_eoir0(intid),
            true => self.guest(pe).write_eoir1(intid),
        }
        for pintid in self.guest(pe).take_deactivations() {
            let owner = (pintid < 32).then_some(pe);
            self.vm.host().deactivated((owner, pintid as u16));
        }
        self.reference.end(pe, intid);
    }

    pub(super) fn deactivate(&mut self, pe: usize, nth: usize) {
        if !self.reference.interfaces[pe].splits {
            return;
        }
        let private = self.reference.redistributors[pe].private;
        let all = (0..)
            .zip(&private)
            .chain((32..).zip(&self.reference.distributor.spis));
        let active: Vec<u32> = all
            .filter(|(_, i)| i.active)
            .map(|(intid, _)| intid)
            .collect();
        let Some(&intid) = active.get(nth % active.len().max(1)) else {
            return;
        };
        assert!(
            self.guest(pe).write_dir(intid).is_err(),
            "ICC_DIR_EL1 traps"
        );
        self.trap(pe, |vm, cpu, pin| {
            vm.sysreg_write(cpu, pin, vcpu(pe), SysReg::Dir, intid.into())
        });
        self.reference.deactivate(pe, intid);
    }
}

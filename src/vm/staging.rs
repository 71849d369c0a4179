//! Staging: an interrupt goes straight into a free list register.

use crate::cpu::BASE_HCR;
use crate::cpu_interface::CpuInterface;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::lr::ListRegister;
use crate::trace::Counters;
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

impl IchShadow {
    /// The first free register, while nothing waits outside the registers or is watched for: with any other
    /// HCR there is more to an interrupt than to put it into one.
    #[inline]
    pub(crate) fn free_lr(&self) -> Option<usize> {
        let free = self.usable & !self.in_use;
        let simple = self.stale == 0 && self.hcr == BASE_HCR;
        (free != 0 && simple).then_some(free.trailing_zeros() as usize)
    }

    /// Notes that register `index`, which is free, is to hold an interrupt that is pending; it is written on
    /// the way into the guest.
    #[inline]
    pub(crate) fn stage(&mut self, index: usize, image: ListRegister, irq: &Irq) {
        self.check(index, image);
        self.irqs[index] = irq;
        self.in_use |= 1 << index;
        self.restage(index, image);
    }

    /// As [`IchShadow::stage`], for the interrupt that the register held last.
    #[inline]
    pub(crate) fn restage(&mut self, index: usize, image: ListRegister) {
        debug_assert!(!image.wants_eoi(), "{image:?} is not a plain one");
        // What is left of the last one in the register is not pending.
        self.images[index] = image;
        self.due.0 |= 1 << index;
    }

    /// Writes what has been staged.
    #[inline]
    pub(crate) fn write_staged(&mut self, interface: &impl CpuInterface, counters: &Counters) {
        while self.due.staged() != 0 {
            let index = self.due.staged().trailing_zeros() as usize;
            self.due.0 &= self.due.0 - 1;
            interface.write_lr(index, self.images[index]);
            counters.ich_lr_writes.add(1);
        }
    }
}

/// Puts `irq` straight into a free list register, if `vcpu` is the one that the calling CPU has and is
/// out of the guest, nothing more urgent waits, and there is nothing special about it. The list's lock
/// is held; the list takes its reference as ever.
#[inline(always)]
pub(crate) fn stage<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &ApList,
    irq: &Irq,
) -> bool {
    if list.waiting() != 0 {
        return false;
    }
    let Some(mut shadow) = vcpu.shadow_out_of_guest(pin.local()) else {
        return false;
    };
    let Some(index) = shadow.free_lr() else {
        return false;
    };
    let groups = vm.groups_open_to(vcpu, irq);
    let Some(image) = irq.link_and_fill_lr(vcpu.id, groups) else {
        return false;
    };
    shadow.stage(index, image, irq);
    true
}

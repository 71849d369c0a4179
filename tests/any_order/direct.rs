//! Calls about direct injection, and the machine's GICv4 beside the CPUs.

use vgic::intid::{DeviceId, EventId, ItsId, VcpuId};

use super::{Actor, Choices, Pins};

impl<C: Choices> Actor<'_, C> {
    /// Makes a call about direct injection, or has a device send an MSI of an event that may be
    /// direct.
    pub(super) fn direct(&mut self, pins: &Pins<'_, '_>) {
        let Some(vm) = self.vm() else { return };
        let (vcpu, on) = (self.vcpu(), self.choices.below(4) != 0);
        let its = ItsId(self.choices.below(3) as u8);
        let device = DeviceId(self.choices.below(3) as u32);
        let event = EventId(self.choices.below(9) as u32);
        let call = self.choices.below(16);
        let left = [(); 2].map(|()| Some(self.choices.below(16)));
        let stops = self.choices.below(256) == 0;
        self.with_pin(pins, |_, domain, pin| match (call, &vm.host().gicv4) {
            (0..4, _) => vm.check(domain, vm.set_direct_vcpu(pin, vcpu, on)),
            (4, _) => vm.check(domain, vm.direct_events(pin, vcpu)),
            (5 | 6, _) => vm.check(domain, vm.doorbell(pin, vcpu)),
            (7..10, Some(part)) => {
                part.set_device(its, device, on);
                vm.check(domain, vm.settle_direct(pin, its));
            }
            (10, Some(part)) => {
                // Of any VM of the domain: the doorbell may ring in vain.
                for rung in part.model.ring() {
                    let vcpu = VcpuId::new(usize::from(rung) % 4).unwrap();
                    vm.check(domain, vm.doorbell(pin, vcpu));
                }
            }
            // From now on the ITS executes nothing.
            (11, Some(part)) if stops => part.model.stop(),
            (11, Some(part)) => {
                let [vpes, tables] = left;
                part.model.leave(vpes, tables, None);
            }
            (_, Some(part)) => {
                if !part.sends_directly(its, device, event) {
                    vm.check(domain, vm.inject_msi(pin, its, device, event));
                }
            }
            (_, None) => vm.check(domain, vm.settle_direct(pin, its)),
        });
    }
}

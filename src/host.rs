//! Services that the library requires of its embedder.

use alloc::sync::Arc;

use crate::error::CommandError;
use crate::gicv4::Gicv4;
use crate::intid::{CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use crate::trace::TracePoint;

/// An access to a guest-physical address outside the guest's readable or writable RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAddress;

/// A physical interrupt that is connected to an interrupt of a guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PhysicalInterrupt {
    /// The PPI `intid`, 16-31 or 1056-1119, of a physical CPU.
    Ppi {
        /// CPU whose PPI is meant.
        cpu: CpuId,
        /// Physical INTID.
        intid: IntId,
    },
    /// The SPI `intid`, 32-1019 or 4096-5119.
    Spi {
        /// Physical INTID.
        intid: IntId,
    },
}

impl PhysicalInterrupt {
    /// Returns the physical interrupt with the number `pintid`, a PPI's or an SPI's; `cpu` is the
    /// CPU of a PPI.
    pub(crate) fn new(pintid: u16, cpu: CpuId) -> Self {
        let intid = IntId::wired(pintid);
        if intid.is_private() {
            Self::Ppi { cpu, intid }
        } else {
            Self::Spi { intid }
        }
    }

    /// Returns the physical INTID.
    #[must_use]
    pub fn intid(self) -> IntId {
        match self {
            Self::Ppi { intid, .. } | Self::Spi { intid } => intid,
        }
    }
}

/// The embedder's services to one VM's vGIC.
///
/// The library calls each method on the CPU that called into the library. A method must not block.
/// A method must not call back into the same VM's vGIC, except for calls that only look at the VM,
/// such as [`Vgic::dump`](crate::Vgic::dump), and for calls that the method's documentation allows.
///
/// Some methods may run under a lock of the library, and must not wait for a CPU that may wait for
/// the lock:
/// * [`Host::trace`] may run under any lock, that of a vCPU's ap_list too, and no other method runs
///   under that one;
/// * [`Host::device_mapped`], [`Host::device_unmapped`], [`Host::event_mapped`],
///   [`Host::event_unmapped`] and [`Host::command_failed`] always run under the command lock of the
///   ITS;
/// * [`Host::read_memory`], [`Host::kick`] and [`Host::wake`] may run under the command lock of an
///   ITS;
/// * [`Host::routed`], [`Host::deactivate`], [`Host::is_pending`], [`Host::kick`] and
///   [`Host::wake`] may run under the lock of [`Vgic::add_vcpu`](crate::Vgic::add_vcpu).
///
/// A method under one of these locks makes no call that takes such a lock, of this VM or another:
/// the call panics.
pub trait Host: Send + Sync {
    /// Sends an IPI to physical CPU `cpu`, so that `vcpu` leaves the guest soon.
    ///
    /// The library kicks a vCPU at most once until its next entry. The vCPU is in the guest, or out
    /// for an exit. `cpu` may be the calling CPU, if the work comes after
    /// [`Vgic::enter`](crate::Vgic::enter), or in the middle of the call. The IPI is needed in any
    /// case: the IPI stays pending, and the CPU leaves the guest right after the exception return.
    ///
    /// After the IPI, the CPU must see the caller's earlier stores: on Arm, by a `DSB ISHST` before
    /// the write of `ICC_SGI1R_EL1`. The call sees all stores of `cpu` before the vCPU's first
    /// entry since the load, or since the last [`Vgic::block`](crate::Vgic::block).
    fn kick(&self, cpu: CpuId, vcpu: VcpuId);

    /// Makes `vcpu` run, or check for work again: the vCPU is blocked ([`crate::Vgic::block`]) and
    /// has work.
    ///
    /// The library wakes a vCPU at most once per blocking. A vCPU put while blocked is woken too. A
    /// vCPU put without blocking is not woken. The call sees what the vCPU's CPU had written before
    /// it called [`Vgic::block`](crate::Vgic::block).
    fn wake(&self, vcpu: VcpuId);

    /// Reads guest memory at guest-physical address `gpa` into `buffer`.
    ///
    /// # Errors
    /// [`BadAddress`] if any byte of the range is not RAM of this guest.
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress>;

    /// Writes `bytes` to guest memory at guest-physical address `gpa`.
    ///
    /// A VM writes a redistributor's LPI pending table when the guest clears
    /// `GICR_CTLR.EnableLPIs`, and nothing else: up to 64 bytes a call, within a table that the
    /// guest has given in `GICR_PENDBASER`. A save or a freeze completes a table that is due
    /// ([`Vgic::save`](crate::Vgic::save)). If the write fails, the vGIC keeps the pending states.
    ///
    /// Commands of [`kvm::Devices`](crate::kvm::Devices) write pending tables and the guest's ITS
    /// tables, up to 256 bytes a call. If a write fails, the command fails with
    /// [`Errno::Fault`](crate::kvm::Errno::Fault).
    ///
    /// # Errors
    /// [`BadAddress`] if any byte of the range is not RAM of this guest that the guest may write.
    /// Nothing has been written then.
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress>;

    /// Deactivates a physical interrupt that was forwarded (`GICD_ICACTIVER<n>`,
    /// `GICR_ICACTIVER0`).
    ///
    /// A list register has not passed on the end of the interrupt, and will not:
    /// * the guest has cleared the pending or the active state by a register;
    /// * with more active interrupts than list registers, a guest with EOImode 0 has ended an
    ///   interrupt outside the list registers (`EOIcount`);
    /// * the line of a level has fallen before the guest took the interrupt;
    /// * a physical PPI's vCPU leaves the CPU ([`crate::Vgic::vcpu_put`],
    ///   [`crate::Vgic::power_off`]);
    /// * the interrupt is disconnected ([`crate::Vgic::disconnect_spi`],
    ///   [`crate::Vgic::disconnect_ppi`]), or the VM ends;
    /// * the guest has a GICv2, and ends the interrupt.
    ///
    /// A PPI is one of the calling CPU. One exception: a VM that is dropped with a vCPU on a CPU
    /// deactivates the PPIs of that CPU, and interrupts that are perhaps inactive already.
    ///
    /// Not by `ICC_DIR_EL1`, whose deactivation of an interrupt that is not active stops the
    /// delivery of interrupts on AmpereOne (AC03_CPU_57, AC04_CPU_29), and whose deactivation of an
    /// SPI does not wake the SPI's CPU on GIC-700 (2941627).
    fn deactivate(&self, physical: PhysicalInterrupt);

    /// Returns true if a physical interrupt, connected to a level-sensitive interrupt of the guest,
    /// is pending (`GICD_ISPENDR<n>`, `GICR_ISPENDR0`).
    ///
    /// A pending interrupt has a high line, even if the interrupt is disabled, or active on the
    /// guest's behalf. A line that is low withdraws a forwarded interrupt that the guest has not
    /// taken yet. The library asks
    /// * when the guest reads the pending state. A PPI may be one of another CPU, which has the
    ///   vCPU; the PPIs of a vCPU on no CPU are not asked for;
    /// * when a forwarded interrupt has waited: at an exit with the interrupt pending in a list
    ///   register, at an entry that fills list registers with what has waited, at the end of a
    ///   sleep, when the guest ends its active state by `ICACTIVER` or `ICC_DIR_EL1`, and when the
    ///   guest enables or routes the interrupt, or changes its trigger. The entry that follows the
    ///   arrival does not ask.
    ///
    /// A call that has begun before a disconnection may still ask after it, once.
    fn is_pending(&self, physical: PhysicalInterrupt) -> bool;

    /// Samples the line of the level-sensitive interrupt `intid`, an SPI or a PPI of `vcpu`, after
    /// the guest has deactivated the interrupt.
    ///
    /// For an SPI, `vcpu` is the vCPU whose ap_list had the interrupt, or else the target.
    ///
    /// The method may call [`crate::Vgic::set_spi_line`] or [`crate::Vgic::set_ppi_line`] if the
    /// line has changed. The embedder keeps the `Vgic` and the [`Cpu`](crate::Cpu) within reach:
    /// the library passes neither. A new pin of the calling CPU ([`Cpu::pin`](crate::Cpu::pin)) is
    /// allowed inside the pin of the caller. No lock of the library is held.
    fn resample(&self, vcpu: VcpuId, intid: IntId) {
        let _ = (vcpu, intid);
    }

    /// Reports that the guest, or a reset or restore of the VM, enabled or disabled the SPI `intid`
    /// or, with a `vcpu`, the PPI of the vCPU.
    ///
    /// Two CPUs may report one interrupt at the same time. Afterwards the library reports once
    /// more if the value may be the older one: the last report agrees with the register. An effect
    /// on the physical controller has to be complete when the method returns.
    /// [`Host::configured`] and [`Host::routed`] are reported in the same way.
    ///
    /// An embedder with a forwarded physical interrupt enables or disables the physical interrupt.
    fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
        let _ = (vcpu, intid, on);
    }

    /// Reports that the guest, or a reset or restore of the VM, configured the SPI `intid` or, with
    /// a `vcpu`, the PPI of the vCPU as edge-triggered or as level-sensitive (`GICD_ICFGR<n>`,
    /// `GICR_ICFGR1`, or the register of an extended interrupt).
    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        let _ = (vcpu, intid, edge);
    }

    /// Reports that the guest, or a reset or restore of the VM, routed the SPI `intid` to `target`,
    /// or to no vCPU of the VM.
    ///
    /// [`Vgic::add_vcpu`](crate::Vgic::add_vcpu) also routes SPIs, and calls this method with the
    /// lock of `Vgic::add_vcpu` held.
    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        let _ = (intid, target);
    }

    /// Reports that the guest (`MAPD`), or a restore of the VM, mapped `device` with room for
    /// `2^event_bits` events.
    ///
    /// Called with the ITS's command lock held, before any [`Host::event_mapped`] of the device.
    fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
        let _ = (its, device, event_bits);
    }

    /// Reports that the guest unmapped `device` (`MAPD`, or a device table taken away), or that the
    /// teardown, a reset or a restore of the VM did; after every [`Host::event_unmapped`] of the
    /// device.
    ///
    /// Called with the ITS's command lock held.
    fn device_unmapped(&self, its: ItsId, device: DeviceId) {
        let _ = (its, device);
    }

    /// Reports that the guest mapped (`MAPTI`, `MAPI`) or moved (`MOVI`, `MAPC`, or a collection
    /// table taken away) an event of a device, or that a restore of the VM mapped the event.
    ///
    /// The event goes to `target`, or to no vCPU while the event's collection is unmapped. The
    /// embedder of a passed-through device mirrors the mapping in the physical ITS. `MOVALL` is
    /// not reported: the command moves pending interrupts, not mappings. Before an event is mapped
    /// to another LPI, the library calls [`Host::event_unmapped`]. Called with the ITS's command
    /// lock held.
    fn event_mapped(
        &self,
        its: ItsId,
        device: DeviceId,
        event: EventId,
        lpi: IntId,
        target: Option<VcpuId>,
    ) {
        let _ = (its, device, event, lpi, target);
    }

    /// Reports that the guest unmapped `event` (`DISCARD`, `MAPD`, or a device table taken away),
    /// or that the teardown, a reset or a restore of the VM did.
    ///
    /// Called with the ITS's command lock held.
    fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
        let _ = (its, device, event);
    }

    /// Reports that an ITS command of the guest, with command number `number`, failed and was
    /// skipped.
    ///
    /// The guest gets no sign of the failure, as on hardware that reports no SEIs. Called with the
    /// ITS's command lock held.
    fn command_failed(&self, its: ItsId, number: u8, error: CommandError) {
        let _ = (its, number, error);
    }

    /// Returns the machine's GICv4, for direct injection
    /// ([`Vgic::set_direct_vcpu`](crate::Vgic::set_direct_vcpu)), or `None`. The answer stays the
    /// same in the life of a VM.
    fn gicv4(&self) -> Option<&dyn Gicv4> {
        None
    }

    /// Receives every trace point, perhaps with a lock of the library held. The default
    /// implementation is empty.
    #[inline]
    fn trace(&self, point: TracePoint) {
        let _ = point;
    }
}

/// Implements [`Host`] for a pointer to a host.
macro_rules! host_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<H: Host + ?Sized> Host for $pointer {
            #[inline]
            fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
                (**self).kick(cpu, vcpu)
            }

            #[inline]
            fn wake(&self, vcpu: VcpuId) {
                (**self).wake(vcpu)
            }

            #[inline]
            fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
                (**self).read_memory(gpa, buffer)
            }

            #[inline]
            fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
                (**self).write_memory(gpa, bytes)
            }

            #[inline]
            fn deactivate(&self, physical: PhysicalInterrupt) {
                (**self).deactivate(physical)
            }

            #[inline]
            fn is_pending(&self, physical: PhysicalInterrupt) -> bool {
                (**self).is_pending(physical)
            }

            #[inline]
            fn resample(&self, vcpu: VcpuId, intid: IntId) {
                (**self).resample(vcpu, intid)
            }

            #[inline]
            fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
                (**self).enabled(vcpu, intid, on)
            }

            #[inline]
            fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
                (**self).configured(vcpu, intid, edge)
            }

            #[inline]
            fn routed(&self, intid: IntId, target: Option<VcpuId>) {
                (**self).routed(intid, target)
            }

            #[inline]
            fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
                (**self).device_mapped(its, device, event_bits)
            }

            #[inline]
            fn device_unmapped(&self, its: ItsId, device: DeviceId) {
                (**self).device_unmapped(its, device)
            }

            #[inline]
            fn event_mapped(
                &self,
                its: ItsId,
                device: DeviceId,
                event: EventId,
                lpi: IntId,
                target: Option<VcpuId>,
            ) {
                (**self).event_mapped(its, device, event, lpi, target)
            }

            #[inline]
            fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
                (**self).event_unmapped(its, device, event)
            }

            #[inline]
            fn command_failed(&self, its: ItsId, number: u8, error: CommandError) {
                (**self).command_failed(its, number, error)
            }

            #[inline]
            fn gicv4(&self) -> Option<&dyn Gicv4> {
                (**self).gicv4()
            }

            #[inline]
            fn trace(&self, point: TracePoint) {
                (**self).trace(point)
            }
        }
    )*};
}

host_by_pointer!(&H, Arc<H>);

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Mutex;
    use std::vec::Vec;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<&'static str>>);

    impl Log {
        fn called(&self, method: &'static str) {
            self.0.lock().unwrap().push(method);
        }
    }

    impl Host for Log {
        fn kick(&self, _: CpuId, _: VcpuId) {
            self.called("kick");
        }
        fn wake(&self, _: VcpuId) {
            self.called("wake");
        }
        fn read_memory(&self, _: u64, _: &mut [u8]) -> Result<(), BadAddress> {
            self.called("read_memory");
            Ok(())
        }
        fn write_memory(&self, _: u64, _: &[u8]) -> Result<(), BadAddress> {
            self.called("write_memory");
            Ok(())
        }
        fn deactivate(&self, _: PhysicalInterrupt) {
            self.called("deactivate");
        }
        fn is_pending(&self, _: PhysicalInterrupt) -> bool {
            self.called("is_pending");
            true
        }
        fn resample(&self, _: VcpuId, _: IntId) {
            self.called("resample");
        }
        fn enabled(&self, _: Option<VcpuId>, _: IntId, _: bool) {
            self.called("enabled");
        }
        fn configured(&self, _: Option<VcpuId>, _: IntId, _: bool) {
            self.called("configured");
        }
        fn routed(&self, _: IntId, _: Option<VcpuId>) {
            self.called("routed");
        }
        fn device_mapped(&self, _: ItsId, _: DeviceId, _: u8) {
            self.called("device_mapped");
        }
        fn device_unmapped(&self, _: ItsId, _: DeviceId) {
            self.called("device_unmapped");
        }
        fn event_mapped(&self, _: ItsId, _: DeviceId, _: EventId, _: IntId, _: Option<VcpuId>) {
            self.called("event_mapped");
        }
        fn event_unmapped(&self, _: ItsId, _: DeviceId, _: EventId) {
            self.called("event_unmapped");
        }
        fn command_failed(&self, _: ItsId, _: u8, _: CommandError) {
            self.called("command_failed");
        }
        fn trace(&self, _: TracePoint) {
            self.called("trace");
        }
    }

    /// Calls every method, and returns what the host has heard.
    fn call_all(host: impl Host, log: &Log) -> Vec<&'static str> {
        host.kick(CpuId(1), VcpuId(1));
        host.wake(VcpuId(1));
        let _ = host.read_memory(1, &mut []);
        let _ = host.write_memory(1, &[]);
        host.deactivate(PhysicalInterrupt::new(40, CpuId(1)));
        let _ = host.is_pending(PhysicalInterrupt::new(40, CpuId(1)));
        host.resample(VcpuId(1), IntId::wired(40));
        host.enabled(None, IntId::wired(40), true);
        host.configured(None, IntId::wired(40), true);
        host.routed(IntId::wired(40), None);
        host.device_mapped(ItsId(0), DeviceId(1), 1);
        host.device_unmapped(ItsId(0), DeviceId(1));
        host.event_mapped(ItsId(0), DeviceId(1), EventId(1), IntId::wired(40), None);
        host.event_unmapped(ItsId(0), DeviceId(1), EventId(1));
        host.command_failed(ItsId(0), 1, CommandError::Unknown);
        host.trace(TracePoint::MappingGet(IntId::wired(40)));
        log.0.lock().unwrap().drain(..).collect()
    }

    #[test]
    fn a_pointer_passes_every_call_on() {
        let log = Arc::new(Log::default());
        let itself = call_all(&*log, &log);
        assert_eq!(itself.len(), 16);
        assert_eq!(call_all(log.clone(), &log), itself);
        assert_eq!(call_all(&log, &log), itself);
    }
}

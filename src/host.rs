//! What the library asks of its embedder.

use crate::CommandError;
use crate::intid::{CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use crate::trace::TracePoint;

/// A guest-physical address that is not (readable or writable) RAM of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAddress;

/// The embedder, as one VM's vGIC sees it.
///
/// Methods are called on the CPU that called into the library, with no ap_list lock held, and must not
/// call back into the same VM's vGIC unless they say so. They must not block.
pub trait Host: Send + Sync {
    /// Make physical CPU `cpu`, which is in the guest with `vcpu`, leave the guest soon: send it an
    /// IPI. At most one such call is made per exit of that vCPU.
    fn kick(&self, cpu: CpuId, vcpu: VcpuId);

    /// `vcpu` is blocked ([`crate::Vgic::block`]) and has something to do: make it run, or look again.
    /// At most one such call is made per blocking.
    fn wake(&self, vcpu: VcpuId);

    /// Reads guest memory at guest-physical address `gpa` into `buffer`.
    ///
    /// # Errors
    /// [`BadAddress`] if any byte of the range is not RAM of this guest.
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress>;

    /// Deactivates physical interrupt `pintid` (`GICD_ICACTIVER<n>`, `GICR_ICACTIVER0`): the guest ended a
    /// forwarded interrupt in a way that the list registers do not pass on. For a PPI, `vcpu` is the
    /// one it was forwarded to, whose CPU it is active on; else `None`.
    fn deactivate(&self, vcpu: Option<VcpuId>, pintid: u16);

    /// Whether physical interrupt `pintid`, which forwards a level-sensitive interrupt
    /// ([`crate::Vgic::connect_spi`], [`crate::Vgic::connect_ppi`]), is pending (`GICD_ISPENDR<n>`,
    /// `GICR_ISPENDR0`): its line is high, though it may be disabled, or active on the guest's behalf. For
    /// a PPI, `vcpu` is the one it is forwarded to. Asked when the guest reads whether it is pending.
    fn is_pending(&self, vcpu: Option<VcpuId>, pintid: u16) -> bool {
        let _ = (vcpu, pintid);
        false
    }

    /// The guest has deactivated the level-sensitive interrupt `intid`, an SPI or a PPI of `vcpu`.
    /// Lower or raise its line now if it has changed; the call may be made from here.
    fn resample(&self, vcpu: VcpuId, intid: IntId) {
        let _ = (vcpu, intid);
    }

    /// The guest enabled or disabled the SPI `intid` or, with a vCPU, that vCPU's PPI. An embedder that
    /// forwards a physical interrupt follows suit.
    fn enabled(&self, vcpu: Option<VcpuId>, intid: IntId, on: bool) {
        let _ = (vcpu, intid, on);
    }

    /// The guest configured the SPI `intid` or, with a vCPU, that vCPU's PPI as edge-triggered or as
    /// level-sensitive (`ICFGR`).
    fn configured(&self, vcpu: Option<VcpuId>, intid: IntId, edge: bool) {
        let _ = (vcpu, intid, edge);
    }

    /// The guest routed the SPI `intid` to `target`, or to no vCPU of the VM.
    fn routed(&self, intid: IntId, target: Option<VcpuId>) {
        let _ = (intid, target);
    }

    /// The guest mapped a device with room for `2^event_bits` events (`MAPD`). Called with the ITS's
    /// command lock held, before any [`Host::event_mapped`] of the device.
    fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
        let _ = (its, device, event_bits);
    }

    /// The guest unmapped the device; its events have been unmapped before. Called with the command lock
    /// held.
    fn device_unmapped(&self, its: ItsId, device: DeviceId) {
        let _ = (its, device);
    }

    /// The guest mapped (`MAPTI`, `MAPI`) or moved (`MOVI`, `MAPC`, or a collection table taken away) an
    /// event of a device, which now goes to `target`, or nowhere while its collection is unmapped. An
    /// embedder that passes the device through mirrors it in the physical ITS. `MOVALL` moves what is
    /// pending, not where events lead, and is not reported. An event mapped to another LPI is mapped
    /// again after a call of `event_unmapped`. Called with the ITS's command lock held.
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

    /// The guest unmapped the event (`DISCARD`, `MAPD`, or a device table taken away), or the VM is being
    /// torn down. Called with the command lock held.
    fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
        let _ = (its, device, event);
    }

    /// An ITS command of the guest, with this command number, failed and was skipped. The guest gets no
    /// sign of it, as on hardware that reports no SEIs; a log might want one. Called with the command
    /// lock held.
    fn command_failed(&self, its: ItsId, number: u8, error: CommandError) {
        let _ = (its, number, error);
    }

    /// Receives every trace point; empty unless the embedder wants them.
    #[inline]
    fn trace(&self, point: TracePoint) {
        let _ = point;
    }
}

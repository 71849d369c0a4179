//! ITS commands for virtual LPIs and virtual SGIs (IHI 0069, 5.3).

use super::PhysicalDevice;
use crate::intid::EventId;

/// A command, as the four double words of the command queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command([u64; 4]);

/// Configuration of a virtual SGI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VsgiConfig {
    pub(crate) enabled: bool,
    pub(crate) group1: bool,
    /// Bits 7:4 count.
    pub(crate) priority: u8,
}

impl Command {
    const INT: u64 = 0x03;
    const CLEAR: u64 = 0x04;
    const INV: u64 = 0x0c;
    const DISCARD: u64 = 0x0f;
    const VMOVI: u64 = 0x21;
    const VMOVP: u64 = 0x22;
    const VSGI: u64 = 0x23;
    const VSYNC: u64 = 0x25;
    const VMAPP: u64 = 0x29;
    const VMAPTI: u64 = 0x2a;
    const VINVALL: u64 = 0x2d;
    const INVDB: u64 = 0x2e;

    /// V bit of `VMAPP`.
    const VALID: u64 = 1 << 63;
    /// Alloc bit of a `VMAPP` of GICv4.1: the first that maps a virtual PE, and the last that
    /// unmaps it.
    const ALLOC: u64 = 1 << 8;
    /// DB bit of a `VMOVP` of GICv4.1: the default doorbell of the command counts.
    const DB: u64 = 1 << 63;
    /// Bits 51:16 of an address.
    const ADDRESS: u64 = 0x000f_ffff_ffff_0000;
    /// Bits 50:16: RDbase.
    const RDBASE: u64 = 0x0007_ffff_ffff_0000;

    /// Returns the command as the double words of the queue.
    #[must_use]
    pub const fn words(self) -> [u64; 4] {
        self.0
    }

    const fn of_event(code: u64, device: PhysicalDevice, event: EventId) -> Self {
        Self([code | (device.device as u64) << 32, event.0 as u64, 0, 0])
    }

    const fn of_vpe(code: u64, vpe: u16) -> Self {
        Self([code, (vpe as u64) << 32, 0, 0])
    }

    /// Returns an `INT`.
    pub(crate) const fn int(device: PhysicalDevice, event: EventId) -> Self {
        Self::of_event(Self::INT, device, event)
    }

    /// Returns a `CLEAR`.
    pub(crate) const fn clear(device: PhysicalDevice, event: EventId) -> Self {
        Self::of_event(Self::CLEAR, device, event)
    }

    /// Returns an `INV`.
    pub(crate) const fn inv(device: PhysicalDevice, event: EventId) -> Self {
        Self::of_event(Self::INV, device, event)
    }

    /// Returns a `DISCARD`.
    pub(crate) const fn discard(device: PhysicalDevice, event: EventId) -> Self {
        Self::of_event(Self::DISCARD, device, event)
    }

    /// Returns a `VMAPTI`: `event` makes the virtual LPI `vintid` of `vpe` pending.
    pub(crate) const fn vmapti(
        device: PhysicalDevice,
        event: EventId,
        vintid: u32,
        vpe: u16,
        doorbell: u32,
    ) -> Self {
        let Self([code, event, ..]) = Self::of_event(Self::VMAPTI, device, event);
        let target = event | (vpe as u64) << 32;
        Self([code, target, vintid as u64 | (doorbell as u64) << 32, 0])
    }

    /// Returns a `VMOVI`: `event`, pending or not, goes to `vpe`, with this doorbell.
    pub(crate) const fn vmovi(
        device: PhysicalDevice,
        event: EventId,
        vpe: u16,
        doorbell: u32,
    ) -> Self {
        /// The doorbell of the command counts.
        const D: u64 = 1;
        let Self([code, event, ..]) = Self::of_event(Self::VMOVI, device, event);
        let target = event | (vpe as u64) << 32;
        Self([code, target, D | (doorbell as u64) << 32, 0])
    }

    /// Returns a `VMAPP` with V set. `table` is the virtual LPI pending table, for INTIDs of
    /// `id_bits` bits.
    pub(crate) const fn vmapp(vpe: u16, rdbase: u64, table: u64, id_bits: u32) -> Self {
        let Self([code, vpe, ..]) = Self::of_vpe(Self::VMAPP, vpe);
        let size = id_bits.saturating_sub(1) as u64;
        Self([
            code,
            vpe,
            Self::VALID | rdbase & Self::RDBASE,
            table & Self::ADDRESS | size,
        ])
    }

    /// Returns a `VMAPP` of GICv4.0 with V clear.
    pub(crate) const fn vunmapp(vpe: u16) -> Self {
        Self::of_vpe(Self::VMAPP, vpe)
    }

    /// Returns the `VMAPP` of GICv4.1 for a [`Command::vmapp`], with the virtual PE's configuration
    /// table and its default doorbell. `alloc` is true on the first ITS that maps the virtual PE.
    pub(crate) const fn with_vpe_of_v4_1(
        self,
        configuration: u64,
        doorbell: u32,
        alloc: bool,
    ) -> Self {
        let Self([code, vpe, target, table]) = self;
        let alloc = if alloc { Self::ALLOC } else { 0 };
        Self([
            code | alloc | configuration & Self::ADDRESS,
            vpe | doorbell as u64,
            target,
            table,
        ])
    }

    /// Returns a `VMAPP` of GICv4.1 with V clear, which needs no `VSYNC`. `alloc` is true on the
    /// last ITS that unmaps the virtual PE.
    pub(crate) const fn vunmapp_of_v4_1(vpe: u16, alloc: bool) -> Self {
        let Self([code, vpe, ..]) = Self::vunmapp(vpe);
        let alloc = if alloc { Self::ALLOC } else { 0 };
        Self([code | alloc, vpe, 0, 0])
    }

    /// Returns the `VMOVP` of GICv4.1 for a [`Command::vmovp`], with the default doorbell.
    pub(crate) const fn with_doorbell(self, doorbell: u32) -> Self {
        let Self([code, vpe, target, _]) = self;
        Self([code, vpe, target | Self::DB, doorbell as u64])
    }

    /// Returns an `INVDB`: the configuration of the default doorbell of `vpe` is read again.
    pub(crate) const fn invdb(vpe: u16) -> Self {
        Self::of_vpe(Self::INVDB, vpe)
    }

    /// Returns a `VSGI`, which configures virtual SGI `sgi` of `vpe`, and leaves its pending state
    /// alone.
    pub(crate) const fn vsgi(vpe: u16, sgi: u8, config: VsgiConfig) -> Self {
        const ENABLE: u64 = 1 << 8;
        const GROUP1: u64 = 1 << 10;

        let Self([code, vpe, ..]) = Self::of_vpe(Self::VSGI, vpe);
        let enable = if config.enabled { ENABLE } else { 0 };
        let group1 = if config.group1 { GROUP1 } else { 0 };
        let priority = (config.priority as u64 >> 4) << 20;
        let sgi = (sgi as u64 & 0xf) << 32;
        Self([code | sgi | priority | group1 | enable, vpe, 0, 0])
    }

    /// Returns the `VSGI` that clears the pending state, for a [`Command::vsgi`] with the
    /// configuration as it is.
    pub(crate) const fn clearing(self) -> Self {
        const CLEAR: u64 = 1 << 9;
        let Self([code, vpe, ..]) = self;
        Self([code | CLEAR, vpe, 0, 0])
    }

    /// Returns a `VMOVP` for ITSes of which one informs the others (`GITS_TYPER.VMOVP`).
    pub(crate) const fn vmovp(vpe: u16, rdbase: u64) -> Self {
        let Self([code, vpe, ..]) = Self::of_vpe(Self::VMOVP, vpe);
        Self([code, vpe, rdbase & Self::RDBASE, 0])
    }

    /// Returns a `VSYNC`: earlier commands for `vpe` have their effect.
    pub(crate) const fn vsync(vpe: u16) -> Self {
        Self::of_vpe(Self::VSYNC, vpe)
    }

    /// Returns a `VINVALL`: the configuration of all virtual LPIs of `vpe` is read again.
    pub(crate) const fn vinvall(vpe: u16) -> Self {
        Self::of_vpe(Self::VINVALL, vpe)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PhysicalIts;
    use super::*;

    const DEVICE: PhysicalDevice = PhysicalDevice {
        its: PhysicalIts(0),
        device: 0x1234_5678,
    };

    // Field by field as in the figures of 5.3.
    #[test]
    fn fields_are_where_the_architecture_has_them() {
        let [code, event, intids, rest] =
            Command::vmapti(DEVICE, EventId(7), 0x2345, 0xabcd, 0x9876).words();
        assert_eq!(code, 0x1234_5678_0000_002a);
        assert_eq!(event, 0x0000_abcd_0000_0007);
        assert_eq!(intids, 0x0000_9876_0000_2345);
        assert_eq!(rest, 0);

        let [code, event, doorbell, _] = Command::vmovi(DEVICE, EventId(7), 0xabcd, 0x9876).words();
        assert_eq!(code, 0x1234_5678_0000_0021);
        assert_eq!(event, 0x0000_abcd_0000_0007);
        assert_eq!(doorbell, 0x0000_9876_0000_0001);

        let [code, vpe, rdbase, table] =
            Command::vmapp(0xabcd, 0x5_0000, 0x4_8001_0000, 16).words();
        assert_eq!(code, 0x29);
        assert_eq!(vpe, 0x0000_abcd_0000_0000);
        let rdbase_of_vmapp = rdbase;
        assert_eq!(rdbase, 1 << 63 | 0x5_0000);
        assert_eq!(table, 0x4_8001_0000 | 15);
        assert_eq!(Command::vunmapp(1).words(), [0x29, 1 << 32, 0, 0]);

        let [code, vpe, rdbase, _] = Command::vmovp(0xabcd, 0x5_0000).words();
        assert_eq!(code, 0x22);
        assert_eq!(vpe, 0x0000_abcd_0000_0000);
        assert_eq!(rdbase, 0x5_0000);

        let vmapp = Command::vmapp(0xabcd, 0x5_0000, 0x4_8001_0000, 16);
        let vmapp = vmapp.with_vpe_of_v4_1(0x6_8002_0000, 0x9876, true);
        assert_eq!(vmapp.words()[0], 0x6_8002_0129);
        assert_eq!(vmapp.words()[1], 0x0000_abcd_0000_9876);
        assert_eq!(vmapp.words()[2..], [rdbase_of_vmapp, table]);
        let unmap = |alloc| Command::vunmapp_of_v4_1(1, alloc).words();
        assert_eq!(unmap(true), [0x129, 1 << 32, 0, 0]);
        assert_eq!(unmap(false), [0x29, 1 << 32, 0, 0]);
        let vmovp = Command::vmovp(1, 0x5_0000).with_doorbell(0x9876).words();
        assert_eq!(vmovp, [0x22, 1 << 32, 1 << 63 | 0x5_0000, 0x9876]);
        assert_eq!(Command::invdb(5).words(), [0x2e, 5 << 32, 0, 0]);

        let config = VsgiConfig {
            enabled: true,
            group1: true,
            priority: 0xa8,
        };
        let vsgi = Command::vsgi(5, 0xc, config);
        assert_eq!(vsgi.words(), [0x0c_00a0_0523, 5 << 32, 0, 0]);
        assert_eq!(vsgi.clearing().words()[0], 0x0c_00a0_0723);

        assert_eq!(Command::vsync(5).words(), [0x25, 5 << 32, 0, 0]);
        assert_eq!(Command::vinvall(5).words(), [0x2d, 5 << 32, 0, 0]);
        let of_event = |code: u64| [0x1234_5678 << 32 | code, 7, 0, 0];
        assert_eq!(Command::int(DEVICE, EventId(7)).words(), of_event(0x03));
        assert_eq!(Command::clear(DEVICE, EventId(7)).words(), of_event(0x04));
        assert_eq!(Command::inv(DEVICE, EventId(7)).words(), of_event(0x0c));
        assert_eq!(Command::discard(DEVICE, EventId(7)).words(), of_event(0x0f));
    }
}

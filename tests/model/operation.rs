//! Operations on a GIC by its guest, its devices and its hypervisor.
//!
//! The VM has three PEs on two physical CPUs, a few dozen SPIs, and two ITSes with a few LPIs.
//! [`crate::machine`] leaves out UNPREDICTABLE operations. [`crate::strategies`] draws at random.

use crate::reference::{Frame, Wired, its::Size};

/// PEs of the VM, on [`CPUS`] physical CPUs.
pub const PES: usize = 3;
/// Physical CPUs: fewer than PEs, for PEs taking turns.
pub const CPUS: usize = 2;
/// SPIs of the VM: INTIDs 32-95.
pub const SPIS: u32 = 64;
/// Extended SPIs and PPIs of the VM: INTIDs 4096-4127 and 1056-1087.
pub const EXTENDED: u32 = 32;
/// Wired interrupts of the VM.
pub const WIRED: Wired = Wired {
    spis: SPIS,
    extended_spis: EXTENDED,
    extended_ppis: EXTENDED,
};
/// Forwarded interrupts, as INTID and physical INTID: two PPIs of each PE, and SPIs. Extended ones
/// stand in the place of others, on either side.
pub const FORWARDED: [(u32, u16); 6] = [
    (30, 27),
    (33, 64),
    (34, 4100),
    (38, 38),
    (1058, 1119),
    (4097, 101),
];
/// Bits for 32 LPIs. The first [`LPIS`] are used often.
pub const LPI_BITS: u32 = 5;
pub const LPIS: u32 = 12;
/// A pending table of [`Operation::EnableLpis`] that the guest leaves as the GIC has written it.
pub const KEPT_TABLE: u32 = 1 << LPIS;
/// The ITSes: a few DeviceIDs, and quotas within easy reach.
pub const ITSES: [Size; 2] = [
    Size {
        device_bits: 4,
        event_bits: 5,
        collections: 4,
        devices: 3,
        events: 48,
        pes: PES,
    },
    Size {
        device_bits: 3,
        // MAPI uses an EventID as the INTID.
        event_bits: 14,
        collections: 5,
        devices: 2,
        events: (1 << 14) + 24,
        pes: PES,
    },
];

/// An MSI's way at a change of paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Early {
    /// Sent while the MSIs of its device are held.
    Held,
    /// Pending as a physical LPI that no CPU has taken.
    Busy,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A guest's read of a register.
    Read(usize, Frame, u64, u64),
    /// A guest's write of a register.
    Write(usize, Frame, u64, u64, u64),
    /// `ICC_SGI1R_EL1` (true) or `ICC_SGI0R_EL1`.
    Sgi(usize, u64, bool),
    /// `ICC_IAR1_EL1` (true) or `ICC_IAR0_EL1`.
    Acknowledge(usize, bool),
    /// End of the last acknowledged interrupt.
    End(usize),
    /// `ICC_DIR_EL1` of one of the active interrupts.
    Deactivate(usize, usize),
    /// `ICC_IGRPEN<n>_EL1`.
    Enable(usize, bool, bool),
    /// `ICC_PMR_EL1`.
    Mask(usize, u8),
    /// `ICC_BPR<n>_EL1`.
    BinaryPoint(usize, bool, u8),
    /// `ICC_CTLR_EL1`.
    Control(usize, u64),
    /// The line of a PPI (of the PE) or an SPI, driven by a device. A forwarded interrupt's
    /// physical line.
    Line(usize, u32, bool),
    /// An edge of a PPI (of the PE) or an SPI. A forwarded interrupt's physical edge.
    Edge(usize, u32),
    /// A device's write of `GITS_TRANSLATER` of an ITS: DeviceID, EventID.
    Msi(usize, u64, u64),
    /// An MSI of an emulated device, which the hypervisor injects, whatever the event's path.
    SoftMsi(usize, u64, u64),
    /// The hypervisor's wish that a PE be direct, or not.
    Direct(usize, bool),
    /// The hypervisor's wish that a device of an ITS be direct, or not, with an MSI of an event
    /// shortly before.
    DirectDevice(usize, u64, bool, Option<(u64, Early)>),
    /// A freeze, and a thaw, with an MSI in between.
    Freeze(Option<(usize, u64, u64)>),
    /// A guest's command to an ITS.
    Command(usize, usize, [u64; 4]),
    /// `GITS_CTLR.Enabled` of an ITS.
    EnableIts(usize, usize, bool),
    /// `GICR_CTLR.EnableLPIs` of the second PE: cleared, or set with the given bits in the pending
    /// table from LPI 8192 on, or with [`KEPT_TABLE`].
    EnableLpis(usize, usize, Option<u32>),
    /// A change of an LPI's configuration, made effective in one of several ways.
    Configure(usize, u32, u8, u8),
    /// WFI of the PE.
    Wait(usize),
    /// A run of the PE on the given CPU.
    Move(usize, usize),
    /// A PE put off its CPU.
    Away(usize),
    /// PSCI.
    PowerOff(usize),
    PowerOn(usize),
    /// The removal of a PE, and its addition and set-up.
    Replug(usize),
    /// A save, and a restore to a new VM on CPUs with so many list registers.
    Restore(u8),
    /// A comparison of every register, as read by the given PE.
    Compare(usize),
}

//! What may happen to a GIC: operations of its guest, its devices and its hypervisor.
//!
//! Three PEs on two physical CPUs, a few dozen SPIs, two ITSes with a few LPIs. [`crate::machine`] leaves out
//! what the architecture makes UNPREDICTABLE, [`crate::strategies`] draws at random.

use crate::reference::{Frame, its::Size};

/// PEs of the VM; physical CPUs are [`CPUS`].
pub const PES: usize = 3;
/// Fewer than PEs, so that they take turns.
pub const CPUS: usize = 2;
/// SPIs of the VM: INTIDs 32-95.
pub const SPIS: u32 = 64;
/// Interrupts that forward physical ones, as INTID and physical INTID: a PPI of each PE, and SPIs.
pub const FORWARDED: [(u32, u16); 4] = [(30, 27), (33, 64), (34, 100), (38, 38)];
/// 32 LPIs, of which the first [`LPIS`] are used often.
pub const LPI_BITS: u32 = 5;
pub const LPIS: u32 = 12;
/// The ITSes: a few DeviceIDs, and quotas that are soon reached.
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
        // MAPI takes an EventID for an INTID.
        event_bits: 14,
        collections: 5,
        devices: 2,
        events: (1 << 14) + 24,
        pes: PES,
    },
];

/// One of them.
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
    /// End of what was acknowledged last.
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
    /// A device drives the line of a PPI (of that PE) or an SPI; of a physical one if it is forwarded.
    Line(usize, u32, bool),
    /// A device sends an edge, likewise.
    Edge(usize, u32),
    /// A device writes `GITS_TRANSLATER` of an ITS: DeviceID, EventID.
    Msi(usize, u64, u64),
    /// The guest gives an ITS a command.
    Command(usize, usize, [u64; 4]),
    /// `GITS_CTLR.Enabled` of an ITS.
    EnableIts(usize, usize, bool),
    /// `GICR_CTLR.EnableLPIs` of the second PE; set with these bits in the pending table, from LPI 8192 on.
    EnableLpis(usize, usize, Option<u32>),
    /// The guest changes the configuration of an LPI, and has it read again in one of several ways.
    Configure(usize, u32, u8, u8),
    /// The PE executes WFI.
    Wait(usize),
    /// The hypervisor runs the PE on this CPU.
    Move(usize, usize),
    /// The hypervisor takes the PE off its CPU.
    Away(usize),
    /// PSCI.
    PowerOff(usize),
    PowerOn(usize),
    /// Every register, as this PE reads it.
    Compare(usize),
}

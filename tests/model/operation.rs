//! What may happen to a GIC: operations of its guest, its devices and its hypervisor, at random.
//!
//! Numbers are drawn from small ranges, so that operations meet: three PEs on two physical CPUs, a few
//! dozen SPIs, two devices. [`crate::machine`] leaves out what the architecture makes UNPREDICTABLE.

use proptest::prelude::*;

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
        event_bits: 4,
        collections: 5,
        devices: 2,
        events: 24,
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

/// A sequence of at most `length` of them.
pub fn sequence(length: usize) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 1..length)
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let pe = || 0..PES;
    let group = any::<bool>;
    prop_oneof![
        12 => write(),
        4 => read(),
        4 => (pe(), sgi(), group()).prop_map(|(pe, value, group1)| Sgi(pe, value, group1)),
        14 => (pe(), prop::bool::weighted(0.8)).prop_map(|(pe, group1)| Acknowledge(pe, group1)),
        10 => pe().prop_map(End),
        3 => (pe(), 0..8_usize).prop_map(|(pe, nth)| Deactivate(pe, nth)),
        1 => (pe(), group(), prop::bool::weighted(0.8)).prop_map(|(pe, g, on)| Enable(pe, g, on)),
        1 => (pe(), any::<u8>()).prop_map(|(pe, mask)| Mask(pe, mask | 0x40)),
        1 => (pe(), group(), 0..8_u8).prop_map(|(pe, group1, point)| BinaryPoint(pe, group1, point)),
        1 => (pe(), 0..4_u64).prop_map(|(pe, value)| Control(pe, value)),
        6 => (pe(), wired(), group()).prop_map(|(pe, intid, high)| Line(pe, intid, high)),
        6 => (pe(), wired()).prop_map(|(pe, intid)| Edge(pe, intid)),
        12 => (its(), device(), event()).prop_map(|(its, device, event)| Msi(its, device, event)),
        14 => (pe(), its(), command()).prop_map(|(pe, its, command)| Command(pe, its, command)),
        1 => (pe(), its(), prop::bool::weighted(0.7)).prop_map(|(pe, its, on)| EnableIts(pe, its, on)),
        2 => (pe(), pe(), table()).prop_map(|(pe, of, table)| EnableLpis(pe, of, table)),
        4 => (pe(), 8192..8192 + LPIS, any::<u8>(), 0..5_u8)
            .prop_map(|(pe, intid, byte, how)| Configure(pe, intid, byte | byte >> 7, how)),
        3 => pe().prop_map(Wait),
        2 => (pe(), 0..CPUS).prop_map(|(pe, cpu)| Move(pe, cpu)),
        1 => pe().prop_map(Away),
        1 => pe().prop_map(PowerOff),
        2 => pe().prop_map(PowerOn),
        1 => pe().prop_map(Compare),
    ]
}

/// PPIs and SPIs, a few of them often.
fn wired() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 28..40_u32, 1 => 16..32 + SPIS]
}

fn its() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0_usize), 2 => Just(1)]
}

/// LPIs off; or on, with nothing in the pending table or with something.
fn table() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 2 => Just(Some(0)), 1 => (0..1_u32 << LPIS).prop_map(Some)]
}

fn sgi() -> impl Strategy<Value = u64> {
    let list = prop_oneof![any::<u16>(), (0..PES as u16).prop_map(|n| 1 << n)];
    let range = prop_oneof![9 => Just(0_u64), 1 => 0..16_u64];
    let cluster = prop_oneof![9 => Just(0_u64), 1 => Just(1 << 16), 1 => Just(1 << 48)];
    (list, 0..16_u64, range, cluster, prop::bool::weighted(0.2)).prop_map(
        |(list, intid, range, cluster, others)| {
            u64::from(list) | intid << 24 | u64::from(others) << 40 | range << 44 | cluster
        },
    )
}

/// DeviceIDs: two of them often, some that are out of range.
fn device() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..2_u64, 2 => 2..5_u64, 1 => Just(100)]
}

fn event() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..8_u64, 1 => 8..40_u64]
}

/// Commands whose numbers are mostly in range.
fn command() -> impl Strategy<Value = [u64; 4]> {
    let lpi = prop_oneof![12 => 8192..8192 + u64::from(LPIS), 1 => 8191..8300_u64];
    let icid = prop_oneof![12 => 0..3_u64, 1 => 3..6_u64];
    let pe = prop_oneof![12 => 0..PES as u64, 1 => Just(PES as u64)];
    let valid = prop::bool::weighted(0.85).prop_map(|valid| u64::from(valid) << 63);
    let mapd = (
        device(),
        prop_oneof![9 => 2..5_u64, 1 => 0..32_u64],
        valid.clone(),
    )
        .prop_map(|(device, size, valid)| [0x08 | device << 32, size, valid, 0]);
    let mapc = (icid.clone(), pe.clone(), valid)
        .prop_map(|(icid, pe, valid)| [0x09, 0, valid | pe << 16 | icid, 0]);
    let mapti = (device(), event(), lpi.clone(), icid.clone())
        .prop_map(|(device, event, lpi, icid)| [0x0a | device << 32, event | lpi << 32, icid, 0]);
    let mapi = (device(), lpi, icid.clone())
        .prop_map(|(device, lpi, icid)| [0x0b | device << 32, lpi, icid, 0]);
    let of_event = (
        prop::sample::select(vec![0x01, 0x01, 0x03, 0x04, 0x0c, 0x0f_u64]),
        device(),
        event(),
        icid.clone(),
    )
        .prop_map(|(number, device, event, icid)| [number | device << 32, event, icid, 0]);
    let movall = (pe.clone(), pe).prop_map(|(from, to)| [0x0e, 0, from << 16, to << 16]);
    prop_oneof![
        2 => mapd,
        4 => mapc,
        8 => mapti,
        1 => mapi,
        6 => of_event,
        2 => movall,
        1 => icid.prop_map(|icid| [0x0d, 0, icid, 0]),
        1 => (0..256_u64).prop_map(|number| [number, 0, 0, 0]),
    ]
    .prop_filter("out of range on purpose is done by the fields", |c| {
        c[0] & 0xff != 0x08 || c[1] < 32
    })
}

/// An offset with the accesses that it is for, and now and then another one.
fn place() -> impl Strategy<Value = (Frame, u64, u64)> {
    let bits = prop::sample::select(vec![0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380_u64]);
    let of_a_pe = |offset| {
        (0..PES)
            .prop_map(Frame::Redistributor)
            .prop_map(move |f| (f, offset))
    };
    prop_oneof![
        8 => (bits.clone(), 0..4_u64).prop_map(|(block, n)| (Frame::Distributor, block + 4 * n, 4)),
        6 => (bits, 0..PES).prop_map(|(block, pe)| (Frame::Redistributor(pe), 0x1_0000 + block, 4)),
        3 => (0..0x60_u64).prop_map(|n| (Frame::Distributor, 0x400 + n, 1)),
        2 => (0..0x18_u64).prop_map(|n| (Frame::Distributor, 0x400 + 4 * n, 4)),
        2 => (0..0x20_u64, 0..PES).prop_map(|(n, pe)| (Frame::Redistributor(pe), 0x1_0400 + n, 1)),
        1 => (0..8_u64, 0..PES).prop_map(|(n, pe)| (Frame::Redistributor(pe), 0x1_0400 + 4 * n, 4)),
        2 => (0..7_u64).prop_map(|n| (Frame::Distributor, 0xc00 + 4 * n, 4)),
        1 => (0..2_u64, 0..PES).prop_map(|(n, pe)| (Frame::Redistributor(pe), 0x1_0c00 + 4 * n, 4)),
        4 => (32..100_u64).prop_map(|n| (Frame::Distributor, 0x6000 + 8 * n, 8)),
        1 => (64..200_u64).prop_map(|n| (Frame::Distributor, 0x6000 + 4 * n, 4)),
        2 => Just((Frame::Distributor, 0, 4)),
        1 => Just((Frame::Distributor, 4, 4)),
        2 => prop::sample::select(vec![0x40, 0x48_u64]).prop_map(|at| (Frame::Distributor, at, 4)),
        1 => of_a_pe(0x14).prop_map(|(frame, at)| (frame, at, 4)),
        1 => of_a_pe(0x8).prop_map(|(frame, at)| (frame, at, 8)),
        1 => of_a_pe(0xc).prop_map(|(frame, at)| (frame, at, 4)),
        // Anything at all.
        2 => (0..0x1000_u64, width()).prop_map(|(at, bytes)| (Frame::Distributor, at, bytes)),
        1 => (0..PES, 0x1_0000..0x1_0e00_u64, width())
            .prop_map(|(pe, at, bytes)| (Frame::Redistributor(pe), at, bytes)),
    ]
    .prop_filter(
        "identification is the implementation's",
        |(frame, at, _)| {
            !matches!(
                (frame, at & !3),
                (Frame::Distributor, 8) | (Frame::Redistributor(_), 4)
            )
        },
    )
}

fn width() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![1, 2, 4, 8_u64])
}

fn read() -> impl Strategy<Value = Operation> {
    (0..PES, place()).prop_map(|(pe, (frame, at, bytes))| Operation::Read(pe, frame, at, bytes))
}

fn write() -> impl Strategy<Value = Operation> {
    let value = prop_oneof![
        3 => any::<u64>(),
        2 => (0..32_u32).prop_map(|bit| 1 << bit),
        // Many at once, as it takes to have more than there are list registers.
        1 => Just(u64::MAX),
        // An affinity; an SPI.
        4 => 0..PES as u64,
        1 => 30..100_u64,
        1 => Just(0),
    ];
    (0..PES, place(), value)
        .prop_map(|(pe, (frame, at, bytes), value)| Operation::Write(pe, frame, at, bytes, value))
}

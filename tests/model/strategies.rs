//! Random operations: mostly those of ordinary guests and devices, for interrupts to get through,
//! and now and then arbitrary ones.
//!
//! Numbers come from small ranges: operations often concern one interrupt. An imbalance shows in
//! [`crate::coverage`].

use proptest::prelude::*;

use crate::operation::{
    CPUS, EXTENDED, Early, FORWARDED, ITSES, KEPT_TABLE, LPIS, Operation, PES, SPIS,
};
use crate::reference::Frame;

/// Returns a sequence of at most `length` operations.
pub fn sequence(length: usize) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 1..length)
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let pe = || 0..PES;
    let group = || prop::bool::weighted(0.85);
    let on = prop::bool::weighted;
    prop_oneof![
        12 => write(),
        4 => read(),
        4 => (pe(), sgi(), group()).prop_map(|(pe, value, group1)| Sgi(pe, value, group1)),
        18 => (pe(), group()).prop_map(|(pe, group1)| Acknowledge(pe, group1)),
        14 => pe().prop_map(End),
        4 => (pe(), 0..8_usize).prop_map(|(pe, nth)| Deactivate(pe, nth)),
        1 => (pe(), group(), on(0.9)).prop_map(|(pe, group1, on)| Enable(pe, group1, on)),
        1 => (pe(), mask()).prop_map(|(pe, mask)| Mask(pe, mask)),
        1 => (pe(), group(), 0..8_u8)
            .prop_map(|(pe, group1, point)| BinaryPoint(pe, group1, point)),
        1 => (pe(), 0..4_u64).prop_map(|(pe, value)| Control(pe, value)),
        7 => (pe(), wired(), any::<bool>()).prop_map(|(pe, intid, high)| Line(pe, intid, high)),
        6 => (pe(), wired()).prop_map(|(pe, intid)| Edge(pe, intid)),
        10 => (its(), device(), event()).prop_map(|(its, device, event)| Msi(its, device, event)),
        2 => (its(), device(), event())
            .prop_map(|(its, device, event)| SoftMsi(its, device, event)),
        1 => (pe(), on(0.8)).prop_map(|(pe, on)| Direct(pe, on)),
        2 => (its(), device(), on(0.7), early())
            .prop_map(|(its, device, on, early)| DirectDevice(its, device, on, early)),
        1 => prop::option::of((its(), device(), event())).prop_map(Freeze),
        14 => (pe(), its(), command()).prop_map(|(pe, its, command)| Command(pe, its, command)),
        1 => (pe(), its(), on(0.85)).prop_map(|(pe, its, on)| EnableIts(pe, its, on)),
        2 => (pe(), pe(), table()).prop_map(|(pe, of, table)| EnableLpis(pe, of, table)),
        3 => (pe(), 8192..8192 + LPIS, configuration(), 0..5_u8)
            .prop_map(|(pe, intid, byte, how)| Configure(pe, intid, byte, how)),
        3 => pe().prop_map(Wait),
        2 => (pe(), 0..CPUS).prop_map(|(pe, cpu)| Move(pe, cpu)),
        1 => pe().prop_map(Away),
        1 => pe().prop_map(PowerOff),
        4 => pe().prop_map(PowerOn),
        1 => pe().prop_map(Replug),
        2 => prop::sample::select(vec![1_u8, 2, 4, 16]).prop_map(Restore),
        1 => pe().prop_map(Compare),
    ]
}

/// Returns PPIs and SPIs, a few often.
fn wired() -> impl Strategy<Value = u32> {
    let forwarded = prop::sample::select(FORWARDED.map(|(intid, _)| intid).to_vec());
    prop_oneof![4 => 28..40_u32, 2 => forwarded, 1 => 16..32 + SPIS, 2 => extended()]
}

/// Returns extended PPIs and SPIs, a few often.
fn extended() -> impl Strategy<Value = u32> {
    let [ppi, spi] = [1056_u32, 4096];
    prop_oneof![
        4 => ppi..ppi + 4,
        4 => spi..spi + 4,
        1 => ppi..ppi + EXTENDED,
        1 => spi..spi + EXTENDED,
    ]
}

fn mask() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(0xf8), 1 => any::<u8>().prop_map(|mask| mask | 0x40)]
}

/// Returns a byte of the LPI configuration table, mostly enabled.
fn configuration() -> impl Strategy<Value = u8> {
    (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(byte, on)| byte & !1 | u8::from(on))
}

fn its() -> impl Strategy<Value = usize> {
    0..ITSES.len()
}

/// Returns `None` for LPIs off, or a pending table, empty or not, for LPIs on.
fn table() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(0)),
        2 => Just(Some(KEPT_TABLE)),
        2 => (0..1_u32 << LPIS).prop_map(Some),
    ]
}

fn sgi() -> impl Strategy<Value = u64> {
    let list = prop_oneof![any::<u16>(), (0..PES as u16).prop_map(|n| 1 << n)];
    let intid = prop_oneof![3 => 4..8_u64, 1 => 0..16_u64];
    let range = prop_oneof![12 => Just(0_u64), 1 => 0..16_u64];
    let cluster = prop_oneof![12 => Just(0_u64), 1 => Just(1 << 16), 1 => Just(1 << 48)];
    (list, intid, range, cluster, prop::bool::weighted(0.2)).prop_map(
        |(list, intid, range, cluster, others)| {
            u64::from(list) | intid << 24 | u64::from(others) << 40 | range << 44 | cluster
        },
    )
}

/// Returns DeviceIDs: two often, some out of range.
fn device() -> impl Strategy<Value = u64> {
    prop_oneof![16 => Just(0_u64), 8 => Just(1), 2 => 2..5_u64, 1 => Just(100)]
}

fn event() -> impl Strategy<Value = u64> {
    prop_oneof![16 => 0..8_u64, 1 => 8..40_u64, 1 => lpi()]
}

fn early() -> impl Strategy<Value = Option<(u64, Early)>> {
    let how = prop_oneof![Just(Early::Held), Just(Early::Busy)];
    prop::option::of((event(), how))
}

fn lpi() -> impl Strategy<Value = u64> {
    prop_oneof![16 => 8192..8192 + u64::from(LPIS), 1 => 8191..8300_u64]
}

/// Returns commands with operands mostly in range.
fn command() -> impl Strategy<Value = [u64; 4]> {
    let icid = prop_oneof![16 => 0..3_u64, 1 => 3..6_u64];
    let pe = prop_oneof![16 => 0..PES as u64, 1 => Just(PES as u64)];
    let valid = prop::bool::weighted(0.9).prop_map(|valid| u64::from(valid) << 63);

    // Enough events for the INTIDs of LPIs: MAPI maps EventIDs as INTIDs.
    let bits = prop_oneof![6 => 2..5_u64, 3 => Just(13), 1 => 0..32_u64];

    let mapd = (device(), bits, valid.clone())
        .prop_map(|(device, size, valid)| [0x08 | device << 32, size, valid, 0]);
    let mapc = (icid.clone(), pe.clone(), valid)
        .prop_map(|(icid, pe, valid)| [0x09, 0, valid | pe << 16 | icid, 0]);
    let mapti = (device(), event(), lpi(), icid.clone())
        .prop_map(|(device, event, lpi, icid)| [0x0a | device << 32, event | lpi << 32, icid, 0]);
    let mapi = (device(), lpi(), icid.clone())
        .prop_map(|(device, lpi, icid)| [0x0b | device << 32, lpi, icid, 0]);

    let of_event = (
        prop::sample::select(vec![0x01, 0x01, 0x03, 0x03, 0x04, 0x0c, 0x0f_u64]),
        device(),
        event(),
        icid.clone(),
    )
        .prop_map(|(number, device, event, icid)| [number | device << 32, event, icid, 0]);

    let movall = (pe.clone(), pe).prop_map(|(from, to)| [0x0e, 0, from << 16, to << 16]);
    prop_oneof![
        1 => mapd,
        3 => mapc,
        10 => mapti,
        4 => mapi,
        10 => of_event,
        2 => movall,
        1 => icid.prop_map(|icid| [0x0d, 0, icid, 0]),
        1 => prop_oneof![Just(5_u64), 0..256_u64].prop_map(|number| [number, 0, 0, 0]),
    ]
    .prop_filter("out of range on purpose is done by the fields", |c| {
        c[0] & 0xff != 0x08 || c[1] < 32
    })
}

// --- registers -----------------------------------------------------------------------------------

type Place = (Frame, u64, u64);

/// Returns the register of a block with one or two `bits` for an interrupt, and the interrupt's
/// place in the register.
fn field(intid: u32, pe: usize, block: u64, bits: u64) -> (Place, u64) {
    let (frame, base, number) = block_of(intid, pe, block);
    let at = number * bits / 32 * 4;
    ((frame, base + at, 4), number * bits % 32)
}

/// Returns the frame of an interrupt's registers, the block in place of `block`, of the SPIs, and
/// the interrupt's number there.
fn block_of(intid: u32, pe: usize, block: u64) -> (Frame, u64, u64) {
    let number = u64::from(intid);
    match intid {
        0..32 => (Frame::Redistributor(pe), 0x1_0000 + block, number),
        1056..1120 => (
            Frame::Redistributor(pe),
            0x1_0000 + block,
            number - 1056 + 32,
        ),
        4096.. => {
            let block = match block {
                0x400 => 0x2000,
                0xc00 => 0x3000,
                bits => 0x1000 + (bits - 0x80) * 4,
            };
            (Frame::Distributor, block, number - 4096)
        }
        _ => (Frame::Distributor, block, number),
    }
}

/// Returns SGIs, PPIs and SPIs, a few often.
fn any_intid() -> impl Strategy<Value = u32> {
    prop_oneof![1 => 4..8_u32, 6 => wired(), 1 => 0..32 + SPIS]
}

/// Returns a write of one interrupt's bit, or now and then of all bits, in a register with an
/// effect of ones only.
fn single_bit() -> impl Strategy<Value = (Place, u64)> {
    let block = prop_oneof![
        8 => Just(0x100_u64),
        5 => Just(0x180),
        6 => Just(0x200),
        4 => Just(0x280),
        1 => Just(0x300),
        4 => Just(0x380),
    ];

    let all = prop::bool::weighted(0.08);

    (block, any_intid(), 0..PES, all).prop_map(|(block, intid, pe, all)| {
        let (place, bit) = field(intid, pe, block, 1);
        // Few interrupts recover from a write of all bits of ICENABLER or ISACTIVER.
        let all = all && !matches!(block, 0x180 | 0x300);
        (place, if all { u64::MAX } else { 1 << bit })
    })
}

/// Returns writes of `IGROUPR`: almost all interrupts in Group 1.
fn groups() -> impl Strategy<Value = (Place, u64)> {
    (any_intid(), 0..PES, prop::bool::ANY).prop_map(|(intid, pe, group1)| {
        let (place, bit) = field(intid, pe, 0x80, 1);
        (place, if group1 { u64::MAX } else { !(1 << bit) })
    })
}

/// Returns writes of `ICFGR`: some edges, some levels.
fn triggers() -> impl Strategy<Value = (Place, u64)> {
    (any_intid(), 0..PES, any::<u64>()).prop_map(|(intid, pe, value)| {
        let (place, _) = field(intid, pe, 0xc00, 2);
        (place, value)
    })
}

/// Returns accesses of `IPRIORITYR`, a byte or a word.
fn priorities() -> impl Strategy<Value = (Place, u64)> {
    let bytes = prop_oneof![3 => Just(1_u64), 1 => Just(4)];
    (any_intid(), 0..PES, bytes, any::<u64>()).prop_map(|(intid, pe, bytes, value)| {
        let (frame, block, number) = block_of(intid, pe, 0x400);
        ((frame, block + (number & !(bytes - 1)), bytes), value)
    })
}

/// Returns accesses of `IROUTER`, whole or half, with a PE's affinity or another.
fn router() -> impl Strategy<Value = (Place, u64)> {
    let affinity = prop_oneof![10 => 0..PES as u64, 1 => Just(PES as u64), 1 => any::<u64>()];
    // The registers of extended SPIs follow those of INTIDs up to 1023.
    let spi = prop_oneof![6 => 32..40_u64, 1 => 32..100_u64, 2 => 1024..1030_u64];
    let half = prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)];
    (spi, half, affinity).prop_map(|(spi, half, affinity)| {
        let at = 0x6000 + 8 * spi;
        match half {
            None => ((Frame::Distributor, at, 8), affinity),
            Some(false) => ((Frame::Distributor, at, 4), affinity),
            Some(true) => ((Frame::Distributor, at + 4, 4), affinity >> 32),
        }
    })
}

/// Returns accesses of `GICD_CTLR`, messages, `GICR_WAKER` and `GICR_TYPER`.
fn control() -> impl Strategy<Value = (Place, u64)> {
    let groups = prop_oneof![3 => Just(3_u64), 1 => any::<u64>()];
    let message = prop::sample::select(vec![0x40, 0x48_u64]);
    let spi = prop_oneof![
        6 => 32..40_u64,
        1 => 30..100_u64,
        1 => 4094..4140_u64,
        1 => 1054..1060_u64,
    ];
    let of_a_pe = prop::sample::select(vec![(0x14, 4), (0x8, 8), (0xc, 4_u64)]);
    let sleep = prop_oneof![1 => Just(2), 2 => Just(0_u64)];
    prop_oneof![
        1 => (0..PES, sleep)
            .prop_map(|(pe, value)| ((Frame::Redistributor(pe), 0x14, 4), value)),
        2 => groups.prop_map(|value| ((Frame::Distributor, 0, 4), value)),
        4 => (message, spi).prop_map(|(at, spi)| ((Frame::Distributor, at, 4), spi)),
        1 => (of_a_pe, 0..PES, any::<u64>())
            .prop_map(|((at, bytes), pe, value)| ((Frame::Redistributor(pe), at, bytes), value)),
        1 => any::<u64>().prop_map(|value| ((Frame::Distributor, 4, 4), value)),
    ]
}

/// Returns any access except to the identification registers, to `GICR_CTLR`, and to registers not
/// to be written with LPIs enabled: separate operations cover those.
fn anything() -> impl Strategy<Value = (Place, u64)> {
    let width = || prop::sample::select(vec![1, 2, 4, 8_u64]);
    let place = prop_oneof![
        2 => (0..0x1000_u64, width()).prop_map(|(at, bytes)| (Frame::Distributor, at, bytes)),
        1 => (0x1000..0x3400_u64, width()).prop_map(|(at, bytes)| (Frame::Distributor, at, bytes)),
        1 => (0..PES, 0x1_0000..0x1_0e00_u64, width())
            .prop_map(|(pe, at, bytes)| (Frame::Redistributor(pe), at, bytes)),
    ];
    let place = place.prop_filter(
        "identification is the implementation's",
        |(frame, at, _)| !matches!((frame, at & !3), (Frame::Distributor, 8)),
    );
    let value = prop_oneof![any::<u64>(), (0..32_u32).prop_map(|bit| 1 << bit), Just(0)];
    (place, value)
}

fn access() -> impl Strategy<Value = (Place, u64)> {
    prop_oneof![
        14 => single_bit(),
        2 => groups(),
        2 => triggers(),
        4 => priorities(),
        5 => router(),
        3 => control(),
        1 => anything(),
    ]
}

fn read() -> impl Strategy<Value = Operation> {
    (0..PES, access())
        .prop_map(|(pe, ((frame, at, bytes), _))| Operation::Read(pe, frame, at, bytes))
}

fn write() -> impl Strategy<Value = Operation> {
    (0..PES, access())
        .prop_map(|(pe, ((frame, at, bytes), value))| Operation::Write(pe, frame, at, bytes, value))
}

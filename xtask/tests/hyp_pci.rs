//! PCI functions as the hypervisor finds them and gives them to VMs, on a model of the hardware.

extern crate alloc;

#[path = "../../hyp/src/pci/mod.rs"]
#[expect(
    dead_code,
    reason = "memory-mapped configuration space needs the hardware"
)]
mod pci;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use pci::config_space::ConfigSpace;
use pci::function::{Function, MsiX, enumerate};
use pci::id_map::IdMap;
use pci::window::{NoRoom, Window, assign};
use pci::{Access, Bdf, Width};

const COMMAND: u16 = 0x04;
const BAR: u16 = 0x10;
const ROM: u16 = 0x30;

/// Function with 4 KiB of registers: their values, and the bits of them that software can write.
#[derive(Clone)]
struct Registers {
    values: [u8; 4096],
    writable: [u8; 4096],
}

impl Registers {
    /// Returns a function that is there, with these bits of the BARs writable.
    fn new(id: u32, header: u8, bars: [(u32, u32); 6]) -> Self {
        let mut registers = Self {
            values: [0; 4096],
            writable: [0; 4096],
        };
        registers.word(0, id, 0);
        registers.word(8, 0x0200_0001, 0);
        registers.word(0xc, u32::from(header) << 16, 0xff);
        registers.word(COMMAND, 0x0010_0001, 0x0000_07ff);
        for (index, (flags, writable)) in (0_u16..).zip(bars) {
            registers.word(BAR + 4 * index, flags, writable);
        }
        registers.word(ROM, 1, 0xffff_0001);
        registers.word(0x3c, 0x0000_0100, 0xff);
        registers
    }

    fn word(&mut self, offset: u16, value: u32, writable: u32) {
        let place = usize::from(offset)..usize::from(offset) + 4;
        self.values[place.clone()].copy_from_slice(&value.to_le_bytes());
        self.writable[place].copy_from_slice(&writable.to_le_bytes());
    }

    fn reset(&mut self) {
        for byte in [4, 5].into_iter().chain(0x10..0x28) {
            self.values[byte] &= !self.writable[byte];
        }
    }
}

/// Root bus.
#[derive(Default)]
struct Bus(RefCell<BTreeMap<u16, Registers>>);

impl Access for Bus {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        let bus = self.0.borrow();
        let Some(function) = bus.get(&bdf.0) else {
            return width.ones();
        };
        assert_eq!(offset % width.bytes(), 0);
        let bytes = usize::from(offset)..usize::from(offset + width.bytes());
        let add = |value, byte: &u8| value << 8 | u32::from(*byte);
        function.values[bytes].iter().rev().fold(0, add)
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        assert_eq!(offset % width.bytes(), 0);
        assert_eq!(
            value & !width.ones(),
            0,
            "{value:#x} is wider than {width:?}"
        );
        let mut bus = self.0.borrow_mut();
        let function = bus.get_mut(&bdf.0).expect("a function is written");
        for (byte, new) in (0..width.bytes()).zip(value.to_le_bytes()) {
            let byte = usize::from(offset + byte);
            let writable = function.writable[byte];
            // A one clears a bit of the status register.
            let kept = if byte == 6 || byte == 7 {
                new
            } else {
                writable
            };
            let set = if byte == 6 || byte == 7 {
                0
            } else {
                new & writable
            };
            function.values[byte] = function.values[byte] & !kept | set;
        }
    }
}

const NIC: Bdf = Bdf::new(0, 1, 0);
const DISK: Bdf = Bdf::new(0, 2, 0);
const SECOND: Bdf = Bdf::new(0, 2, 3);
const BRIDGE: Bdf = Bdf::new(0, 3, 0);
const BIG: Bdf = Bdf::new(0, 31, 0);

/// Offset of the NIC's MSI-X capability, behind one of vendors.
const MSI_X: u16 = 0x70;

/// Returns a bus with: a NIC with BARs of 16 KiB (32 bits), I/O, and 1 MiB (64 bits), capabilities
/// and extended capabilities; a disk with two functions, each with a BAR of 256 bytes; a bridge; a
/// device with a BAR of 8 GiB.
fn bus() -> Bus {
    const NONE: (u32, u32) = (0, 0);
    let pair = [(0xc, 0xfff0_0000), (0, u32::MAX)];
    let mut nic = Registers::new(
        0x1234_8086,
        0,
        [
            (0, 0xffff_c000),
            (1, 0xffff_ffe0),
            pair[0],
            pair[1],
            NONE,
            NONE,
        ],
    );
    nic.word(0x34, 0x41, 0);
    nic.word(0x40, 0x0010_7009, 0xffff_0000);
    nic.word(MSI_X, 0x0007_0011, 0xc000_0000);
    nic.word(MSI_X + 4, 0x0000_2002, 0);
    // Errors, virtual functions, resizable BARs directly behind, a serial number.
    nic.word(0x100, 0x1402_0001, u32::MAX);
    nic.word(0x104, 0x11, u32::MAX);
    nic.word(0x140, 0x1601_0010, u32::MAX);
    nic.word(0x148, 0x22, u32::MAX);
    nic.word(0x160, 0x1701_0015, u32::MAX);
    nic.word(0x168, 0x33, u32::MAX);
    nic.word(0x170, 0x0001_0003, u32::MAX);
    nic.word(0x174, 0x44, u32::MAX);

    let small = [(0, 0xffff_ff00), NONE, NONE, NONE, NONE, NONE];
    let disk = Registers::new(0x0001_1af4, 0x80, small);
    let bridge = Registers::new(0x0002_1b36, 1, [NONE; 6]);
    let big = [(4, 0), (0, 0xffff_fffe), NONE, NONE, NONE, (4, 0xffff_0000)];
    let big = Registers::new(0x0003_1b36, 0, big);
    let functions = [
        (NIC, nic),
        (DISK, disk.clone()),
        (SECOND, disk),
        (BRIDGE, bridge),
        (BIG, big),
    ];
    Bus(RefCell::new(
        functions.map(|(bdf, function)| (bdf.0, function)).into(),
    ))
}

const LOW: Window = Window {
    bus: 0x1000_0000,
    cpu: 0x1000_0000,
    size: 0x2eff_0000,
};
const HIGH: Window = Window {
    bus: 0x80_0000_0000,
    cpu: 0x180_0000_0000,
    size: 1 << 39,
};

/// Returns the functions of the bus, with their BARs placed.
fn placed(bus: &Bus) -> Vec<Function> {
    let mut functions = enumerate(bus, 0);
    assign(&mut functions, &[LOW, HIGH]).unwrap();
    functions
}

/// Returns the configuration space of a VM with the NIC.
fn nic_alone(bus: &Bus) -> ConfigSpace {
    let functions = placed(bus);
    ConfigSpace::new(
        functions
            .into_iter()
            .filter(|found| found.bdf == NIC)
            .collect(),
        bus,
    )
}

/// Returns the offset of a register in an ECAM.
fn at(bdf: Bdf, offset: u16) -> u64 {
    u64::from(bdf.0) << 12 | u64::from(offset)
}

#[test]
fn functions_are_found_with_their_bars_and_capabilities() {
    let bus = bus();
    let functions = enumerate(&bus, 0);
    let found: Vec<_> = functions.iter().map(|function| function.bdf).collect();
    assert_eq!(found, [NIC, DISK, SECOND, BIG], "a bridge is left out");
    assert_eq!(SECOND.to_string(), "00:02.3");

    let nic = &functions[0];
    assert_eq!(
        (nic.vendor, nic.device, nic.class),
        (0x8086, 0x1234, 0x02_0000)
    );
    let bars: Vec<_> = nic
        .bars
        .iter()
        .map(|bar| (bar.index, bar.size, bar.is_64()))
        .collect();
    assert_eq!(
        bars,
        [(0, 16 << 10, false), (2, 1 << 20, true)],
        "the BAR of I/O is left out"
    );
    let msi_x = MsiX {
        offset: MSI_X,
        vectors: 8,
        bar: 2,
    };
    assert_eq!(nic.msi_x, Some(msi_x));
    assert_eq!(functions[1].msi_x, None);
    let big: Vec<_> = functions[3]
        .bars
        .iter()
        .map(|bar| (bar.index, bar.size))
        .collect();
    assert_eq!(
        big,
        [(0, 8 << 30)],
        "BAR 5 has no register for its upper half"
    );
}

#[test]
fn functions_that_are_found_decode_nothing() {
    let bus = bus();
    for function in enumerate(&bus, 0) {
        assert_eq!(bus.read(function.bdf, COMMAND, Width::Half) & 7, 0);
        assert_eq!(bus.read_word(function.bdf, BAR) & !0xf, 0);
        assert_eq!(bus.read_word(function.bdf, ROM) & 1, 0);
    }
}

#[test]
fn a_list_of_capabilities_in_a_circle_ends() {
    let bus = bus();
    let mut functions = bus.0.borrow_mut();
    let nic = functions.get_mut(&NIC.0).unwrap();
    nic.word(0x40, 0x0010_4009, 0);
    nic.word(0x100, 0x1002_0001, 0);
    drop(functions);
    assert_eq!(enumerate(&bus, 0)[0].msi_x, None);
    assert_eq!(nic_alone(&bus).read(&bus, at(NIC, 0x100), 4), 0x1002_0001);
}

#[test]
fn ids_at_controllers_are_those_of_the_map() {
    let entries = vec![(0x8, 0x1000, 0x10), (0x100, 0, 0x100)];
    let map = IdMap::new(u32::MAX, entries.clone());
    let id = |bdf: u16| map.id_of(Bdf(bdf));
    assert_eq!([id(0x7), id(0x18), id(0xff), id(0x200)], [None; 4]);
    assert_eq!([id(0x8), id(0x17)], [Some(0x1000), Some(0x100f)]);
    assert_eq!([id(0x100), id(0x1ff)], [Some(0), Some(0xff)]);

    // The functions of a device are one requester.
    let map = IdMap::new(0xfff8, entries);
    let id = |bdf: u16| map.id_of(Bdf(bdf));
    assert_eq!(
        [id(0x8), id(0xf), id(0x10)],
        [Some(0x1000), Some(0x1000), Some(0x1008)]
    );
}

#[test]
fn bars_have_pages_of_their_own_where_they_fit() {
    let functions = placed(&bus());
    let bars = || functions.iter().flat_map(|function| &function.bars);
    let mut pages: Vec<_> = bars().map(|bar| bar.mmio.clone()).collect();
    pages.sort_by_key(|range| range.start);
    assert!(
        pages.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "{pages:x?}"
    );

    for bar in bars() {
        assert_eq!(bar.mmio.len() as u64, bar.size.max(4096));
        assert_eq!(bar.address % bar.size.max(4096), 0);
        let window = if bar.is_64() { HIGH } else { LOW };
        assert!((window.bus..window.bus + window.size).contains(&bar.address));
        assert_eq!(bar.mmio.start as u64 - window.cpu, bar.address - window.bus);
    }
}

#[test]
fn bars_without_room_are_told() {
    let mut functions = enumerate(&bus(), 0);
    assert_eq!(
        assign(&mut functions, &[LOW]),
        Err(NoRoom { size: 8 << 30 })
    );
    let high = Window {
        size: (8 << 30) + (1 << 20),
        ..HIGH
    };
    assert_eq!(
        assign(&mut functions, &[high]),
        Err(NoRoom { size: 16 << 10 })
    );
    assert_eq!(assign(&mut functions, &[LOW, high]), Ok(()));
}

#[test]
fn a_bar_with_64_bits_takes_the_low_window_if_there_is_no_other() {
    let mut functions = enumerate(&bus(), 0);
    functions.retain(|function| function.bdf == NIC);
    assert_eq!(assign(&mut functions, &[LOW]), Ok(()));
}

#[test]
fn bars_are_written_while_nothing_is_decoded() {
    let bus = bus();
    let nic = &placed(&bus)[0];
    nic.write_bars(&bus);
    assert_eq!(u64::from(bus.read_word(NIC, BAR)), nic.bars[0].address);
    assert_eq!(
        u64::from(bus.read_word(NIC, BAR + 8)),
        nic.bars[1].address & 0xffff_fff0 | 0xc
    );
    assert_eq!(
        u64::from(bus.read_word(NIC, BAR + 12)),
        nic.bars[1].address >> 32
    );
    assert_eq!(bus.read(NIC, COMMAND, Width::Half) & 7, 0);
}

#[test]
fn other_functions_are_not_there() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    assert_eq!(space.read(&bus, at(NIC, 0), 4), 0x1234_8086);
    for bdf in [DISK, SECOND, BRIDGE, Bdf::new(0, 0, 0), Bdf::new(1, 1, 0)] {
        for (bytes, ones) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
            assert_eq!(space.read(&bus, at(bdf, 0), bytes), ones, "{bdf}");
        }
        space.write(&bus, at(bdf, COMMAND), 2, 7);
    }
    assert_eq!(bus.read(DISK, COMMAND, Width::Half) & 7, 0);
    assert_eq!(space.read(&bus, 1 << 28, 4), 0xffff_ffff, "beyond bus 255");
}

#[test]
fn registers_are_read_at_every_width() {
    let bus = bus();
    let space = nic_alone(&bus);
    assert_eq!(space.read(&bus, at(NIC, 0), 1), 0x86);
    assert_eq!(space.read(&bus, at(NIC, 1), 1), 0x80);
    assert_eq!(space.read(&bus, at(NIC, 2), 2), 0x1234);
    assert_eq!(space.read(&bus, at(NIC, 0xb), 1), 0x02);
    assert_eq!(space.read(&bus, at(NIC, 6), 2), 0x0010);
}

#[test]
fn accesses_that_cross_a_register_or_are_not_aligned_reach_nothing() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    for (offset, bytes, ones) in [
        (1, 2, 0xffff),
        (3, 2, 0xffff),
        (1, 4, 0xffff_ffff),
        (2, 4, 0xffff_ffff),
        (0, 8, u64::MAX),
        (4, 8, u64::MAX),
        (0xfff, 2, 0xffff),
        (0, 3, u64::MAX),
    ] {
        assert_eq!(
            space.read(&bus, at(NIC, offset), bytes),
            ones,
            "{bytes} at {offset:#x}"
        );
    }
    let before = bus.0.borrow()[&NIC.0].values;
    for (offset, bytes) in [(3, 2), (5, 2), (2, 4), (6, 4), (0, 8), (0x3b, 2)] {
        space.write(&bus, at(NIC, offset), bytes, 0);
        space.write(&bus, at(NIC, offset), bytes, u64::MAX);
    }
    assert_eq!(bus.0.borrow()[&NIC.0].values, before);
}

#[test]
fn bars_answer_the_sizing_protocol_and_stay() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    let before = bus.0.borrow()[&NIC.0].values;
    for (index, mask) in [
        (0, 0xffff_c000),
        (1, 0),
        (2, 0xfff0_000c),
        (3, 0xffff_ffff),
        (4, 0),
        (5, 0),
    ] {
        let bar = at(NIC, BAR + 4 * index);
        let address = space.read(&bus, bar, 4);
        // As Linux and as EDK2 do it, and by halves.
        for sizing in [
            &[(0, 4, 0xffff_ffff)][..],
            &[(0, 2, 0xffff), (2, 2, 0xffff)],
        ] {
            for (offset, bytes, ones) in sizing {
                space.write(&bus, bar + offset, *bytes, *ones);
            }
            assert_eq!(space.read(&bus, bar, 4), mask, "BAR {index}");
            assert_eq!(space.read(&bus, bar + 2, 2), mask >> 16);
            space.write(&bus, bar, 4, address);
            assert_eq!(space.read(&bus, bar, 4), address, "BAR {index}");
        }
        // No other value moves it.
        space.write(&bus, bar, 4, 0x1234_5678);
        assert_eq!(space.read(&bus, bar, 4), address, "BAR {index}");
        space.write(&bus, bar, 4, 0xffff_0000);
        assert_eq!(space.read(&bus, bar, 4), address, "BAR {index}");
    }
    assert_eq!(
        bus.0.borrow()[&NIC.0].values,
        before,
        "the hardware is not written"
    );
}

#[test]
fn a_bar_is_sized_by_ones_in_the_bits_of_its_address() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    space.write(&bus, at(NIC, BAR), 4, 0xffff_fff0);
    assert_eq!(space.read(&bus, at(NIC, BAR), 4), 0xffff_c000);
    let upper = at(NIC, BAR + 12);
    let address = space.read(&bus, upper, 4);
    space.write(&bus, upper, 4, 0xffff_fff0);
    assert_eq!(
        space.read(&bus, upper, 4),
        address,
        "all bits of an upper half are address"
    );
}

#[test]
fn addresses_are_those_of_the_placement() {
    let bus = bus();
    let space = nic_alone(&bus);
    let nic = &placed(&bus)[0];
    let low = space.read(&bus, at(NIC, BAR + 8), 4);
    let high = space.read(&bus, at(NIC, BAR + 12), 4);
    assert_eq!(high << 32 | low & !0xf, nic.bars[1].address);
    assert_eq!(low & 0xf, 0xc, "64 bits, prefetchable");
}

#[test]
fn the_command_register_has_three_bits() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    space.write(&bus, at(NIC, COMMAND), 2, 0xffff);
    assert_eq!(space.read(&bus, at(NIC, COMMAND), 2), 0x0406);
    assert_eq!(bus.read(NIC, COMMAND, Width::Half), 0x0406);
    space.write(&bus, at(NIC, COMMAND), 1, 0);
    assert_eq!(space.read(&bus, at(NIC, COMMAND), 2), 0x0400);
    space.write(&bus, at(NIC, COMMAND + 1), 1, 0);
    assert_eq!(space.read(&bus, at(NIC, COMMAND), 2), 0);
    space.write(&bus, at(NIC, COMMAND), 4, 0x0000_0007);
    assert_eq!(space.read(&bus, at(NIC, COMMAND), 4), 0x0010_0006);
}

#[test]
fn ones_clear_bits_of_the_status_register() {
    let set = |bus: &Bus| bus.0.borrow_mut().get_mut(&NIC.0).unwrap().values[7] = 0xf0;
    for (offset, bytes, value, left) in [
        (COMMAND, 4, 0x3000_0000_u64, 0xc0),
        (6, 2, 0x3000, 0xc0),
        (7, 1, 0x30, 0xc0),
        (COMMAND, 2, 0x0006, 0xf0),
        (6, 1, 0, 0xf0),
    ] {
        let bus = bus();
        let mut space = nic_alone(&bus);
        set(&bus);
        space.write(&bus, at(NIC, offset), bytes, value);
        assert_eq!(
            space.read(&bus, at(NIC, 7), 1),
            left,
            "{bytes} at {offset:#x}"
        );
    }
}

#[test]
fn a_function_that_was_reset_gets_its_bars_before_it_decodes() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    let nic = &placed(&bus)[0];
    for _ in 0..2 {
        bus.0.borrow_mut().get_mut(&NIC.0).unwrap().reset();
        space.write(&bus, at(NIC, COMMAND), 2, 4);
        assert_eq!(bus.read_word(NIC, BAR), 0, "memory space is off");
        space.write(&bus, at(NIC, COMMAND), 2, 6);
        assert_eq!(u64::from(bus.read_word(NIC, BAR)), nic.bars[0].address);
        assert_eq!(
            u64::from(bus.read_word(NIC, BAR + 12)),
            nic.bars[1].address >> 32
        );
    }
}

/// A bus on which a reset of the NIC, begun earlier, ends before an access.
struct Resetting<'b> {
    bus: &'b Bus,
    accesses_left: Cell<u32>,
}

impl Resetting<'_> {
    fn count(&self) {
        let left = self.accesses_left.get();
        if left == 0 {
            self.bus.0.borrow_mut().get_mut(&NIC.0).unwrap().reset();
        }
        self.accesses_left.set(left.wrapping_sub(1));
    }
}

impl Access for Resetting<'_> {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        self.count();
        self.bus.read(bdf, offset, width)
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        self.count();
        self.bus.write(bdf, offset, width, value);
    }
}

#[test]
fn a_reset_that_ends_at_any_time_leaves_no_function_that_decodes_elsewhere() {
    let mut cleared = 0;
    for accesses in 0..40 {
        for before in [4, 6] {
            let bus = bus();
            let mut space = nic_alone(&bus);
            space.write(&bus, at(NIC, COMMAND), 2, before);
            let resetting = Resetting {
                bus: &bus,
                accesses_left: Cell::new(accesses),
            };
            space.write(&resetting, at(NIC, COMMAND), 2, 6);

            let bars = [BAR, BAR + 8, BAR + 12].map(|bar| bus.read_word(NIC, bar));
            let nic = &placed(&self::bus())[0];
            let [low, [high, higher]] = [0, 1].map(|n| nic.bars[n].registers(nic.bars[n].address));
            let decodes = bus.read(NIC, COMMAND, Width::Half) & 2 != 0;
            assert!(
                !decodes || bars == [low[0], high, higher],
                "{accesses} {before}: {bars:x?}"
            );
            cleared += u32::from(!decodes);
        }
    }
    assert!(cleared > 0, "no reset came too late for the BARs");
}

#[test]
fn a_function_in_the_middle_of_a_reset_is_given_no_command() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    let mut absent = Registers::new(u32::MAX, 0, [(0, 0); 6]);
    absent.word(COMMAND, u32::MAX, u32::MAX);
    let nic = bus.0.borrow_mut().insert(NIC.0, absent).unwrap();
    space.write(&bus, at(NIC, COMMAND + 1), 1, 0);
    assert_eq!(
        bus.read(NIC, COMMAND, Width::Half),
        0xffff,
        "nothing is written"
    );
    bus.0.borrow_mut().insert(NIC.0, nic);
    assert_eq!(bus.read(NIC, COMMAND, Width::Half) & 7, 0);
}

#[test]
fn a_bridge_decodes_nothing() {
    let bus = bus();
    bus.write(BRIDGE, COMMAND, Width::Half, 7);
    let _ = enumerate(&bus, 0);
    assert_eq!(bus.read(BRIDGE, COMMAND, Width::Half) & 7, 0);
}

#[test]
fn the_rest_of_the_header_is_read_only() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    assert_eq!(space.read(&bus, at(NIC, ROM), 4), 0);
    space.write(&bus, at(NIC, ROM), 4, 0xffff_ffff);
    assert_eq!(space.read(&bus, at(NIC, ROM), 4), 0);
    assert_eq!(
        bus.read_word(NIC, ROM) & 1,
        0,
        "the expansion ROM is not decoded"
    );
    (bus.0.borrow_mut().get_mut(&NIC.0).unwrap()).word(ROM, 0xfff0_0000, 0);
    assert_eq!(space.read(&bus, at(NIC, ROM), 4), 0);
    space.write(&bus, at(NIC, 0xc), 4, 0xffff_ffff);
    assert_eq!(space.read(&bus, at(NIC, 0xc), 4), 0);

    space.write(&bus, at(NIC, 0x3c), 4, 0xffff_ff2a);
    assert_eq!(
        space.read(&bus, at(NIC, 0x3c), 4),
        0x0000_002a,
        "the line, and not the pin, which no function of a VM has"
    );
    space.write(&bus, at(NIC, 0x3c), 1, 0x17);
    assert_eq!(space.read(&bus, at(NIC, 0x3c), 2), 0x0017);
    assert_eq!(bus.read(NIC, 0x3c, Width::Half), 0x0117);
}

#[test]
fn capabilities_are_the_functions() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    assert_eq!(space.read(&bus, at(NIC, 0x34), 1), 0x41);
    // MSI-X enable and function mask.
    space.write(&bus, at(NIC, MSI_X + 2), 2, 0xc000);
    assert_eq!(
        bus.read_word(NIC, MSI_X),
        0xc007_0011 & !0x7_0000 | 0x7_0000
    );
    space.write(&bus, at(NIC, 0x43), 1, 0x5a);
    assert_eq!(space.read(&bus, at(NIC, 0x40), 4), 0x5a10_7009);
    space.write(&bus, at(NIC, 0x104), 4, 0x99);
    assert_eq!(bus.read_word(NIC, 0x104), 0x99);
}

#[test]
fn capabilities_that_place_bars_are_empty() {
    let bus = bus();
    let mut space = nic_alone(&bus);
    for (header, next, register, value) in
        [(0x140, 0x160, 0x148, 0x22), (0x160, 0x170, 0x168, 0x33)]
    {
        assert_eq!(space.read(&bus, at(NIC, header), 4), next << 20);
        assert_eq!(space.read(&bus, at(NIC, register), 4), 0);
        for bytes in [1, 2, 4] {
            space.write(&bus, at(NIC, register), bytes, 0xffff_ffff);
            space.write(&bus, at(NIC, header), bytes, 0);
        }
        assert_eq!(bus.read_word(NIC, register), value);
    }
    assert_eq!(
        space.read(&bus, at(NIC, 0x170), 4),
        0x0001_0003,
        "the next one is there"
    );
    assert_eq!(space.read(&bus, at(NIC, 0x174), 4), 0x44);
}

//! The operations on a VM, and their decoding from an input.

use vgic::mmio::Width;
use vgic::sysreg::SysReg;

use crate::guest::Guest;
use crate::input::Input;

/// The subject of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// Register frames.
    Mmio,
    /// ITS commands and tables.
    Its,
    /// System registers and the CPU interface.
    Sysreg,
}

/// One ITS command.
pub type Command = [u64; 4];

/// One operation.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A trapped access: a write of `write`, or a read.
    Access {
        /// The accessing vCPU.
        vcpu: u8,
        /// The frame.
        frame: u8,
        /// Offset in the frame, modulo its size.
        offset: u64,
        /// Access width.
        width: Width,
        /// The value to write.
        write: Option<u64>,
    },
    /// A trapped access to a system register.
    SysReg(u8, SysReg, u64),
    /// Commands put into an ITS's queue, with a write of GITS_CWRITER at the end if the flag is
    /// set.
    Commands(u8, Vec<Command>, bool),
    /// An ITS's whole queue filled with two commands in turn.
    FillQueue(u8, [Command; 2]),
    /// A write of an ITS's table register, with the ITS disabled before and enabled after.
    Table(u8, u8, u64),
    /// A vCPU's LPIs disabled, its tables possibly written, and its LPIs enabled.
    ToggleLpis(u8, Option<(u64, u64)>),
    /// A write to guest memory.
    Poke(u32, u64),
    /// Guest memory changing with each read from now on.
    Disturb(u8),
    /// A page of guest memory removed or restored.
    FlipPage(u8),
    /// A device's write of `GITS_TRANSLATER`, of the ITS in bit 0. On a machine with a GICv4 and
    /// with 5 to 7 in bits 3:1, a call about direct injection instead.
    Msi(u8, u32, u32),
    /// An SPI's edge. With the flag, a forwarded physical interrupt.
    Spi(u16, bool),
    /// An SPI's line.
    SpiLine(u16, bool),
    /// A PPI's line.
    PpiLine(u8, u8, bool),
    /// A PPI's edge. With the flag, a forwarded physical interrupt.
    Ppi(u8, u8, bool),
    /// A vCPU's run on a CPU, with the guest's accesses. With the flag, the vCPU stays in the
    /// guest.
    Run(u8, u8, Vec<Guest>, bool),
    /// A vCPU put off its CPU.
    Put(u8),
    /// A vCPU powered off or on.
    Power(u8, bool),
    /// A vCPU added.
    AddVcpu(u8),
    /// A call of `Vgic::advance`.
    Advance,
}

/// A choice among operations, each with a share.
type Menu = &'static [(u8, fn(&mut Input<'_>) -> Operation)];

/// The operations of all targets.
const COMMON: Menu = &[
    (6, run),
    (4, msi),
    (2, |input| Operation::Spi(input.id() as u16, input.flag())),
    (2, |input| {
        Operation::SpiLine(input.id() as u16, input.flag())
    }),
    (2, |input| {
        Operation::PpiLine(input.byte(), input.byte(), input.flag())
    }),
    (1, |input| {
        Operation::Ppi(input.byte(), input.byte(), input.flag())
    }),
    (1, |input| Operation::Put(input.byte())),
    (1, |input| Operation::Power(input.byte(), input.flag())),
    (1, |input| Operation::AddVcpu(input.byte())),
    (3, |_| Operation::Advance),
];

/// The operations on guest memory.
const MEMORY: Menu = &[
    (2, |input| {
        Operation::Poke(u32::from(input.half()) << 3, input.value())
    }),
    (1, |input| Operation::Disturb(input.byte())),
    (1, |input| Operation::FlipPage(input.byte())),
    (2, |input| {
        let tables = input.flag().then(|| (input.table(), input.table()));
        Operation::ToggleLpis(input.byte(), tables)
    }),
];

const MMIO: Menu = &[(24, |input| access(input, u8::MAX))];

const ITS: Menu = &[
    (20, |input| {
        let count = 1 + input.byte() % 8;
        let commands = (0..count).map(|_| command(input)).collect();
        Operation::Commands(input.byte(), commands, input.flag())
    }),
    (2, |input| {
        Operation::FillQueue(input.byte(), [command(input), command(input)])
    }),
    (2, |input| {
        Operation::Table(input.byte(), input.byte(), input.table())
    }),
    (4, |input| access(input, 2)),
];

const SYSREG: Menu = &[(12, |input| {
    let register = input.pick(&[
        SysReg::Sgi1r,
        SysReg::Sgi1r,
        SysReg::Sgi0r,
        SysReg::Asgi1r,
        SysReg::Dir,
        SysReg::Dir,
        SysReg::Sre,
    ]);
    let value = match register {
        SysReg::Dir => u64::from(intid(input)),
        _ if input.flag() => sgi(input),
        _ => input.value(),
    };
    Operation::SysReg(input.byte(), register, value)
})];

impl Operation {
    /// Reads the next operation from the input.
    pub fn read(input: &mut Input<'_>, attack: Attack) -> Self {
        let menus: &[Menu] = match attack {
            Attack::Mmio => &[MMIO, COMMON, MEMORY, SYSREG],
            Attack::Its => &[ITS, COMMON, MEMORY],
            Attack::Sysreg => &[SYSREG, COMMON],
        };
        let entries = || menus.iter().flat_map(|menu| menu.iter());
        let all: u8 = entries().map(|(share, _)| share).sum();
        let mut chosen = input.byte() % all;
        for (share, read) in entries() {
            match chosen.checked_sub(*share) {
                Some(left) => chosen = left,
                None => return read(input),
            }
        }
        Self::Advance
    }
}

/// Reads an access to one of the first `frames` frames.
fn access(input: &mut Input<'_>, frames: u8) -> Operation {
    // Registers of GICD and of GICR's SGI_base, registers of GICR's RD_base and GITS, and the
    // blocks of 64-bit registers.
    const SINGLE: [u64; 22] = [
        0x00, 0x04, 0x08, 0x0c, 0x14, 0x40, 0x48, 0x70, 0x74, 0x78, 0x7c, 0x80, 0x84, 0x88, 0x90,
        0xa0, 0xb0, 0xc0, 0x100, 0x108, 0xffe8, 0x1_0040,
    ];
    const BLOCKS: [u64; 20] = [
        0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xc00, 0x6000, 0x1000, 0x1200,
        0x1400, 0x1600, 0x1800, 0x1a00, 0x1c00, 0x2000, 0x3000, 0x8000,
    ];
    let (vcpu, frame) = (input.byte(), input.byte() % frames.max(1));
    let kind = input.byte();
    let offset = match kind & 7 {
        0..3 => input.pick(&SINGLE),
        3 => input.pick(&BLOCKS) + u64::from(input.byte()) * 4,
        // The blocks in the SGI_base frame are the first nine.
        4 | 5 => 0x1_0000 + input.pick(&BLOCKS[..9]) + u64::from(input.byte() & 0x1f) * 4,
        6 => u64::from(input.half()),
        _ => u64::from(input.half()) << 1,
    };
    let width = match kind >> 3 & 7 {
        0..4 => Width::Word,
        4 | 5 => Width::Double,
        6 => Width::Byte,
        _ => Width::Half,
    };
    Operation::Access {
        vcpu,
        frame,
        offset,
        width,
        write: (kind >> 6 != 0).then(|| input.value()),
    }
}

/// Reads a command, mostly a defined one, with mostly valid operands.
fn command(input: &mut Input<'_>) -> Command {
    const NUMBERS: [u8; 16] = [
        0x0a, 0x0a, 0x0a, 0x08, 0x08, 0x09, 0x01, 0x03, 0x04, 0x05, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
        0xff,
    ];

    let number = input.pick(&NUMBERS);
    if number == 0xff {
        return std::array::from_fn(|_| input.value());
    }

    let first = u64::from(number) | u64::from(input.id()) << 32;
    let second = match number {
        0x08 => match input.byte() {
            few @ 0..0xe0 => u64::from(few & 7),
            many => u64::from(many & 0x1f),
        },
        0x0b => 8192 + u64::from(input.id()),
        _ => u64::from(input.id()),
    };
    let lpi = if number == 0x0a {
        8192 + u64::from(input.id())
    } else {
        0
    };

    let valid = u64::from(input.byte() & 7 != 7) << 63;
    let icid = u64::from(input.id() & 0xffff);
    let target = rdbase(input);
    let third = match number {
        0x08 => valid | input.table(),
        0x09 => valid | target | icid,
        0x0e => target,
        _ => icid,
    };
    let fourth = if number == 0x0e { rdbase(input) } else { 0 };

    [first, second | lpi << 32, third, fourth]
}

/// Reads a redistributor, mostly of an existing vCPU.
fn rdbase(input: &mut Input<'_>) -> u64 {
    let processor = match input.byte() {
        few @ 0..0xe0 => u32::from(few & 3),
        _ => input.id(),
    };
    u64::from(processor) << 16
}

/// Reads a value for an SGI register, naming existing vCPUs.
fn sgi(input: &mut Input<'_>) -> u64 {
    let targets = u64::from(input.half());
    let intid = u64::from(input.byte() & 0xf) << 24;
    let affinity = u64::from(input.byte() & 3) << 16;
    let range = u64::from(input.byte() & 3) << 44;
    let all = u64::from(input.byte() & 7 == 7) << 40;
    targets | intid | affinity | range | all
}

/// Reads an INTID, mostly of an existing interrupt.
pub(crate) fn intid(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        small @ 0..0x60 => u32::from(small & 0x3f),
        0x60..0x90 => u32::from(input.half() & 0x3ff),
        0x90..0x98 => 1056 + u32::from(input.byte() & 0x3f),
        0x98..0xa0 => 4096 + u32::from(input.half() & 0x3ff),
        0xa0..0xe0 => 8192 + u32::from(input.byte()),
        0xe0.. => input.id(),
    }
}

fn run(input: &mut Input<'_>) -> Operation {
    let (cpu, vcpu) = (input.byte(), input.byte());
    let count = input.byte();
    let guest = (0..count % 16).map(|_| Guest::read(input)).collect();
    Operation::Run(cpu, vcpu, guest, count & 0x80 != 0)
}

fn msi(input: &mut Input<'_>) -> Operation {
    Operation::Msi(input.byte(), input.id(), input.id())
}

//! The machine but for its interrupt controller, as its device tree describes it.
#![expect(unsafe_code)]
// UNSAFETY: reads the tree at the address that the boot loader gives.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::cpus::MAX_CPUS;
use crate::mmio::{read_32, write_32};
use crate::{console, psci};

/// Bytes of the longest command line.
const TEXT: usize = 256;

/// CPUs, a clock and the command line.
#[derive(Debug)]
pub struct Board {
    affinities: [u64; MAX_CPUS],
    /// Number of CPUs, at most [`MAX_CPUS`].
    pub cpus: usize,
    /// A device whose interrupt line cases can drive, if there is one.
    pub clock: Option<Clock>,
    arguments: [u8; TEXT],
}

/// Returns the device tree at an address.
pub fn tree(address: usize) -> Fdt<'static> {
    // SAFETY: the boot loader has put a tree there, and nobody writes it.
    unsafe { Fdt::from_raw(address as *const u8) }
        .expect("x0 is the address of a well-formed device tree")
}

impl Board {
    /// Reads the tree. The console and PSCI are used as it says from then on.
    pub fn read(tree: &Fdt<'_>) -> Self {
        if let Some(uart) = compatible(&tree.root(), "arm,pl011") {
            console::use_uart(frame(&uart, 0));
        }
        let by_smc = tree
            .find_node("/psci")
            .and_then(|node| node.property("method"))
            .is_some_and(|method| method.value().starts_with(b"smc"));
        if by_smc {
            psci::use_smc();
        }

        let mut board = Self {
            affinities: [0; MAX_CPUS],
            cpus: 0,
            clock: compatible(&tree.root(), "arm,pl031").and_then(|node| Clock::read(&node)),
            arguments: [0; TEXT],
        };

        for node in tree
            .find_node("/cpus")
            .into_iter()
            .flat_map(|cpus| cpus.children())
        {
            if node.name_without_address() == "cpu" && board.cpus < MAX_CPUS {
                let reg = node.reg().ok().flatten().and_then(|mut regs| regs.next());
                let affinity = reg.and_then(|reg| reg.address().ok());
                board.affinities[board.cpus] = affinity.expect("a CPU has an affinity");
                board.cpus += 1;
            }
        }

        let arguments = tree
            .find_node("/chosen")
            .and_then(|chosen| chosen.property("bootargs"));
        if let Some(arguments) = arguments {
            let value = arguments.value();
            let value = &value[..value.len().min(TEXT)];
            board.arguments[..value.len()].copy_from_slice(value);
        }
        board
    }

    /// Returns the affinity of a CPU, as in `MPIDR_EL1`.
    pub fn affinity(&self, cpu: usize) -> u64 {
        self.affinities[cpu]
    }

    /// Returns the value of `name=value` on the command line, or an empty value for `name` alone.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let end = self.arguments.iter().position(|&byte| byte == 0)?;
        let text = core::str::from_utf8(&self.arguments[..end]).ok()?;
        text.split(' ').find_map(|word| {
            let rest = word.strip_prefix(name)?;
            if rest.is_empty() {
                Some(rest)
            } else {
                rest.strip_prefix('=')
            }
        })
    }
}

/// Returns the first child of a node that is compatible with `kind`.
pub fn compatible<'a>(parent: &FdtNode<'a>, kind: &str) -> Option<FdtNode<'a>> {
    let mut children = parent.children();
    children.find(|node| is_compatible(node, kind))
}

/// Tells whether a node's device is compatible with `kind`.
pub fn is_compatible(node: &FdtNode<'_>, kind: &str) -> bool {
    node.compatible()
        .is_some_and(|mut kinds| kinds.any(|known| known == kind))
}

/// Returns the address of a device's frame `index`.
pub fn frame(node: &FdtNode<'_>, index: usize) -> usize {
    let reg = node
        .reg()
        .ok()
        .flatten()
        .and_then(|mut regs| regs.nth(index));
    let address: Option<u64> = reg.and_then(|reg| reg.address().ok());
    address.expect("a device has registers") as usize
}

/// Alarm of the machine's real-time clock, a PL031. Drives the line of an SPI.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: usize,
    /// The SPI.
    pub intid: u32,
}

impl Clock {
    const DATA: usize = 0x0;
    const MATCH: usize = 0x4;
    const MASK: usize = 0x10;
    const RAW_STATUS: usize = 0x14;
    const CLEAR: usize = 0x1c;

    /// Reads its node, whose interrupt is a kind (0 for SPIs), a number, and flags.
    fn read(node: &FdtNode<'_>) -> Option<Self> {
        const FIRST_SPI: u32 = 32;
        let interrupts = node.property("interrupts")?;
        let cells = interrupts.value();
        let number = u32::from_be_bytes(cells.get(4..8)?.try_into().ok()?);
        Some(Self {
            base: frame(node, 0),
            intid: FIRST_SPI + number,
        })
    }

    /// Raises the line: sets the alarm to the present second, and unmasks it.
    pub fn raise(self) {
        while read_32(self.base + Self::RAW_STATUS) & 1 == 0 {
            write_32(self.base + Self::MATCH, read_32(self.base + Self::DATA));
        }
        write_32(self.base + Self::MASK, 1);
    }

    /// Lowers the line.
    pub fn lower(self) {
        write_32(self.base + Self::MASK, 0);
        write_32(self.base + Self::CLEAR, 1);
    }
}

//! The machine, as its device tree describes it.
#![expect(unsafe_code)]
// UNSAFETY: reads the tree at the address that the boot loader gives.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::cpus::MAX_CPUS;
use crate::gic::its::gits;
use crate::gic::{FREE_SPI, bank, gicd, gicr, interface};
use crate::mmio::{read_32, read_64, write_32};
use crate::{console, psci};

/// Bytes of the longest command line.
const TEXT: usize = 256;

/// Description of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    affinities: [u64; MAX_CPUS],
    /// Base of each CPU's redistributor.
    redistributors: [usize; MAX_CPUS],
    /// `GICR_TYPER.Processor_Number` of each CPU.
    numbers: [u16; MAX_CPUS],
    /// Number of CPUs, at most [`MAX_CPUS`].
    pub(crate) cpus: usize,
    /// Base of `GICD`.
    pub(crate) gicd: usize,
    /// Base of the first ITS, if there is one.
    pub(crate) gits: Option<usize>,
    /// Base of the second ITS, if there is one.
    pub(crate) second_gits: Option<usize>,
    /// A device whose interrupt line cases can drive, if there is one.
    pub(crate) clock: Option<Clock>,
    /// Values of registers before the first write.
    pub(crate) at_reset: AtReset,
    arguments: [u8; TEXT],
}

/// Values of registers before the first write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtReset {
    pub(crate) gicd_ctlr: u32,
    pub(crate) isenabler: u32,
    pub(crate) icfgr: u32,
    pub(crate) gicr_ctlr: u32,
    pub(crate) waker: u32,
    pub(crate) gits_ctlr: u32,
    pub(crate) gits_cbaser: u64,
    pub(crate) igrpen_0: u64,
    pub(crate) igrpen_1: u64,
    pub(crate) pmr: u64,
    /// Values that the architecture leaves UNKNOWN.
    pub(crate) unknown: Unknown,
}

/// Values before the first write that the architecture leaves UNKNOWN, or to the implementation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unknown {
    pub(crate) igroupr: u32,
    pub(crate) ipriorityr: u32,
    pub(crate) irouter: u64,
    pub(crate) gicr_igroupr0: u32,
    pub(crate) gicr_ipriorityr: [u32; 2],
    pub(crate) gicr_icfgr1: u32,
    pub(crate) propbaser: u64,
    pub(crate) pendbaser: u64,
    pub(crate) gits_cwriter: u64,
    pub(crate) gits_creadr: u64,
    pub(crate) gits_basers: [u64; 8],
    pub(crate) interface: interface::Control,
}

impl Unknown {
    /// Reads the registers of an SPI that no device drives, of CPU 0's redistributor and interface,
    /// and of the first ITS.
    fn read(machine: &Machine) -> Self {
        let spi = FREE_SPI as usize;
        let its = |offset| machine.gits.map_or(0, |gits| read_64(gits + offset));
        Self {
            igroupr: read_32(machine.gicd(bank::IGROUPR + spi / 32 * 4)),
            ipriorityr: read_32(machine.gicd(bank::IPRIORITYR + spi)),
            irouter: read_64(machine.gicd(gicd::IROUTER + 8 * spi)),
            gicr_igroupr0: read_32(machine.sgi_base(0, bank::IGROUPR)),
            gicr_ipriorityr: [0, 16].map(|at| read_32(machine.sgi_base(0, bank::IPRIORITYR + at))),
            gicr_icfgr1: read_32(machine.sgi_base(0, bank::ICFGR + 4)),
            propbaser: read_64(machine.gicr(0, gicr::PROPBASER)),
            pendbaser: read_64(machine.gicr(0, gicr::PENDBASER)),
            gits_cwriter: its(gits::CWRITER),
            gits_creadr: its(gits::CREADR),
            gits_basers: core::array::from_fn(|n| its(gits::BASER + 8 * n)),
            interface: interface::Control::read(),
        }
    }
}

impl AtReset {
    fn read(machine: &Machine) -> Self {
        interface::set_sre(7);
        Self {
            gicd_ctlr: read_32(machine.gicd(gicd::CTLR)),
            isenabler: read_32(machine.gicd(bank::ISENABLER + 4)),
            icfgr: read_32(machine.gicd(bank::ICFGR + 8)),
            gicr_ctlr: read_32(machine.gicr(0, gicr::CTLR)),
            waker: read_32(machine.gicr(0, gicr::WAKER)),
            gits_ctlr: machine.gits.map_or(0, read_32),
            gits_cbaser: machine.gits.map_or(0, |gits| read_64(gits + 0x80)),
            igrpen_0: interface::igrpen_0(),
            igrpen_1: interface::igrpen_1(),
            pmr: interface::pmr(),
            unknown: Unknown::read(machine),
        }
    }
}

impl Machine {
    /// Reads the clock's node. The interrupt is a kind (0 for SPIs), a number, and flags.
    pub(crate) fn read(tree: usize) -> Self {
        // SAFETY: the boot loader has put a tree there, and nobody writes it.
        let tree = unsafe { Fdt::from_raw(tree as *const u8) }
            .expect("x0 is the address of a well-formed device tree");
        let root = tree.root();
        let compatible = |kind: &'static str| {
            let mut children = root.children();
            children.find(move |node| is_compatible(node, kind))
        };

        if let Some(uart) = compatible("arm,pl011") {
            console::use_uart(frame(&uart, 0));
        }
        let by_smc = tree
            .find_node("/psci")
            .and_then(|node| node.property("method"))
            .is_some_and(|method| method.value().starts_with(b"smc"));
        if by_smc {
            psci::use_smc();
        }

        let gic = compatible("arm,gic-v3").expect("the machine has a GICv3");
        let mut itses = gic
            .children()
            .filter(|node| is_compatible(node, "arm,gic-v3-its"))
            .map(|its| frame(&its, 0));

        let mut machine = Self {
            affinities: [0; MAX_CPUS],
            redistributors: [0; MAX_CPUS],
            numbers: [0; MAX_CPUS],
            cpus: 0,
            gicd: frame(&gic, 0),
            gits: itses.next(),
            second_gits: itses.next(),
            clock: compatible("arm,pl031").and_then(|node| Clock::read(&node)),
            at_reset: AtReset::default(),
            arguments: [0; TEXT],
        };

        for node in tree
            .find_node("/cpus")
            .into_iter()
            .flat_map(|cpus| cpus.children())
        {
            if node.name_without_address() == "cpu" && machine.cpus < MAX_CPUS {
                let reg = node.reg().ok().flatten().and_then(|mut regs| regs.next());
                let affinity = reg.and_then(|reg| reg.address().ok());
                machine.affinities[machine.cpus] = affinity.expect("a CPU has an affinity");
                machine.cpus += 1;
            }
        }

        let mut frames = redistributors(&gic);
        for cpu in 0..machine.cpus {
            let base = frames.next().expect("each CPU has a redistributor");
            machine.redistributors[cpu] = base;
            machine.numbers[cpu] = (read_64(base + gicr::TYPER) >> 8) as u16;
        }

        let arguments = tree
            .find_node("/chosen")
            .and_then(|chosen| chosen.property("bootargs"));
        if let Some(arguments) = arguments {
            let value = arguments.value();
            let value = &value[..value.len().min(TEXT)];
            machine.arguments[..value.len()].copy_from_slice(value);
        }

        machine.at_reset = AtReset::read(&machine);
        machine
    }

    /// Returns the affinity of a CPU, as in `MPIDR_EL1`.
    pub(crate) fn affinity(&self, cpu: usize) -> u64 {
        self.affinities[cpu]
    }

    /// Returns the base of a CPU's redistributor.
    pub(crate) fn redistributor(&self, cpu: usize) -> usize {
        self.redistributors[cpu]
    }

    /// Returns a CPU's `GICR_TYPER.Processor_Number`.
    pub(crate) fn number(&self, cpu: usize) -> u16 {
        self.numbers[cpu]
    }

    /// Returns the value of `name=value` on the command line, or an empty value for `name` alone.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
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

fn is_compatible(node: &FdtNode<'_>, kind: &str) -> bool {
    node.compatible()
        .is_some_and(|mut kinds| kinds.any(|known| known == kind))
}

/// Returns the address of a device's frame `index`.
fn frame(node: &FdtNode<'_>, index: usize) -> usize {
    let reg = node
        .reg()
        .ok()
        .flatten()
        .and_then(|mut regs| regs.nth(index));
    let address: Option<u64> = reg.and_then(|reg| reg.address().ok());
    address.expect("a device has registers") as usize
}

/// Returns the bases of all redistributors, of one region of contiguous frames after the other.
fn redistributors(gic: &FdtNode<'_>) -> impl Iterator<Item = usize> {
    let regions = gic.property("#redistributor-regions");
    let regions = regions.and_then(|regions| regions.value_as::<u32>().ok());
    let frames = gic.reg().ok().flatten().into_iter().flatten();
    // The first frame is the distributor's.
    let regions = frames.skip(1).take(regions.unwrap_or(1) as usize);
    regions.flat_map(|region| {
        let start: u64 = region.address().expect("a region has an address");
        let size: u64 = region.size().expect("a region has a size");
        (start as usize..(start + size) as usize).step_by(gicr::STRIDE)
    })
}

/// Alarm of the machine's real-time clock, a PL031. Drives the line of an SPI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: usize,
    /// The SPI.
    pub(crate) intid: u32,
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
    pub(crate) fn raise(self) {
        while read_32(self.base + Self::RAW_STATUS) & 1 == 0 {
            write_32(self.base + Self::MATCH, read_32(self.base + Self::DATA));
        }
        write_32(self.base + Self::MASK, 1);
    }

    /// Lowers the line.
    pub(crate) fn lower(self) {
        write_32(self.base + Self::MASK, 0);
        write_32(self.base + Self::CLEAR, 1);
    }
}

//! Options of a VM, on the command line that the boot loader passes with its kernel: words that
//! begin with `hyp.`. The other words are the guest's own command line. `docs/hyp.md` has the table
//! of all options.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

/// Prefix of the options.
const PREFIX: &str = "hyp.";

/// Beginnings of the options that a VM with the whole machine may have too.
const DIRECT: &str = "hyp.direct=";
const GIC: &str = "hyp.gic=";
const SAVED: &str = "hyp.saved=";
const SEED: &str = "hyp.seed=";
const EXTENDED_SPIS: &str = "hyp.espis=";
const EXTENDED_PPIS: &str = "hyp.eppis=";
const EXTENDED_RANGE: &str = "hyp.extrange=";

/// Most vCPUs of a VM: the library has room for no more.
const MOST_VCPUS: u32 = 4095;

/// Weight of a VM that does not say how much of the CPUs' time it is to have.
pub(crate) const USUAL_WEIGHT: u32 = 100;

/// Direct injection of a VM's MSIs, on a machine with a GICv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direct {
    /// None: every MSI goes through list registers.
    Off,
    /// All the time.
    On,
    /// For vCPUs that earn it. A VM with the whole machine has a CPU for each vCPU, and cannot hold
    /// its devices' MSIs back for a change: for all its vCPUs, all the time.
    Auto,
    /// On and off, at random, for vCPUs and PCI functions.
    Switch,
}

/// The support of INTIDs 1024-8191 by the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum ExtendedRange {
    /// As each CPU says in `ICC_CTLR_EL1.ExtRange`.
    AsSaid,
    /// Taken for granted.
    Assumed,
    /// Taken for granted, and shown to guests.
    Shown,
}

/// Options of a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    /// RAM, in MiB.
    pub(crate) memory: u32,
    pub(crate) vcpus: Option<u32>,
    /// Quota of the ITS.
    pub(crate) events: u32,
    /// Share of the CPUs' time, relative to other VMs'.
    pub(crate) weight: u32,
    /// Seconds of the machine that are one to the guest.
    pub(crate) slowdown: u32,
    /// PCI functions: bus in bits 15:8, device in 7:3, function in 2:0.
    pub(crate) functions: Vec<u16>,
    pub(crate) is_daemon: bool,
    /// True if the VM has the hypervisor's entropy device.
    pub(crate) has_entropy: bool,
    pub(crate) direct: Direct,
    /// True if the guest's interrupt controller is a GICv2, and not a GICv3. Of the VM with the
    /// whole machine only.
    pub(crate) has_gicv2: bool,
    /// Milliseconds between saves in place, on average.
    pub(crate) saved: Option<u32>,
    /// Seed of the moments of those saves, and of changes of direct injection.
    pub(crate) seed: u32,
    /// File of the host's for moves to Linux KVM and back.
    pub(crate) kvm: Option<String>,
    /// Numbers of extended SPIs, and of extended PPIs of each vCPU.
    pub(crate) extended_spis: u32,
    pub(crate) extended_ppis: u32,
    /// True if the hypervisor's console and the virtual timer have extended interrupts.
    pub(crate) is_wired_by_extended: bool,
    pub(crate) extended_range: ExtendedRange,
    /// File of the host's for snapshots.
    pub(crate) snapshot: Option<String>,
    /// File of the host's that the VM comes from, and that is waited for.
    pub(crate) incoming: Option<String>,
    /// The guest's own command line.
    pub(crate) arguments: String,
}

/// Option that is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadOption {
    word: String,
    fault: Fault,
}

/// Reason for refusing an option.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fault {
    /// Unknown option, or one with a malformed value.
    Malformed,
    /// Option of a VM with a part of the machine, for the VM with the whole machine.
    OfPart,
    /// Value other than a number in this range.
    Number(RangeInclusive<u32>),
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.word;
        match &self.fault {
            Fault::Malformed => write!(f, "cannot understand {word}"),
            Fault::OfPart => write!(
                f,
                "{word}: only a VM with a part of the machine can hold its devices' MSIs back"
            ),
            Fault::Number(range) => {
                let (first, last) = (range.start(), range.end());
                write!(f, "{word}: give a number from {first} to {last}")
            }
        }
    }
}

/// Returns true if the command line has options.
pub(crate) fn are_in(text: &str) -> bool {
    text.split(' ').any(|word| word.starts_with(PREFIX))
}

/// Returns true if the command line of a VM with the whole machine wants it saved in place.
pub(crate) fn are_saves_in(text: &str) -> bool {
    text.split(' ').any(|word| word.starts_with(SAVED))
}

impl Options {
    /// Reads a command line.
    pub(crate) fn parse(text: &str) -> Result<Self, BadOption> {
        let mut options = Self {
            name: None,
            memory: 16,
            vcpus: None,
            events: 4096,
            weight: USUAL_WEIGHT,
            slowdown: 1,
            functions: Vec::new(),
            is_daemon: false,
            has_entropy: false,
            direct: Direct::Auto,
            has_gicv2: false,
            saved: None,
            seed: 1,
            kvm: None,
            extended_spis: 0,
            extended_ppis: 0,
            is_wired_by_extended: false,
            extended_range: ExtendedRange::AsSaid,
            snapshot: None,
            incoming: None,
            arguments: String::new(),
        };
        for word in text.split(' ') {
            let Some(option) = word.strip_prefix(PREFIX) else {
                options.add_argument(word);
                continue;
            };
            options.read(option).map_err(|fault| BadOption {
                word: word.to_string(),
                fault,
            })?;
        }
        Ok(options)
    }

    /// Reads the options of a VM with the whole machine among the words of its command line.
    pub(crate) fn of_machine(text: &str) -> Result<Self, BadOption> {
        const OURS: [&str; 7] = [
            DIRECT,
            GIC,
            SAVED,
            SEED,
            EXTENDED_SPIS,
            EXTENDED_PPIS,
            EXTENDED_RANGE,
        ];
        let is_ours = |word: &&str| OURS.iter().any(|ours| word.starts_with(ours));
        let ours: Vec<&str> = text.split(' ').filter(is_ours).collect();
        let options = Self::parse(&ours.join(" "))?;
        match options.direct {
            Direct::Off | Direct::On | Direct::Auto => Ok(options),
            Direct::Switch => Err(BadOption {
                word: [DIRECT, "switch"].concat(),
                fault: Fault::OfPart,
            }),
        }
    }

    /// Adds a word to the guest's command line.
    fn add_argument(&mut self, word: &str) {
        if !self.arguments.is_empty() {
            self.arguments.push(' ');
        }
        self.arguments.push_str(word);
    }

    /// Reads one option, without its prefix.
    fn read(&mut self, option: &str) -> Result<(), Fault> {
        match option.split_once('=') {
            None if option == "daemon" => self.is_daemon = true,
            None if option == "rng" => self.has_entropy = true,
            Some(("name", name)) if is_name(name) => self.name = Some(name.to_string()),
            Some(("memory", value)) => self.memory = number(value, 1..=1 << 20)?,
            Some(("vcpus", value)) => self.vcpus = Some(number(value, 1..=MOST_VCPUS)?),
            Some(("events", value)) => self.events = number(value, 1..=1 << 16)?,
            Some(("weight", value)) => self.weight = number(value, 1..=10_000)?,
            Some(("slowdown", value)) => self.slowdown = number(value, 1..=64)?,
            Some(("direct", "off")) => self.direct = Direct::Off,
            Some(("direct", "on")) => self.direct = Direct::On,
            Some(("direct", "auto")) => self.direct = Direct::Auto,
            Some(("direct", "switch")) => self.direct = Direct::Switch,
            Some(("gic", "2")) => self.has_gicv2 = true,
            Some(("gic", "3")) => self.has_gicv2 = false,
            Some(("saved", value)) => self.saved = Some(number(value, 1..=1 << 20)?),
            Some(("seed", value)) => self.seed = number(value, 0..=u32::MAX)?,
            Some(("espis", value)) => self.extended_spis = number(value, 0..=1024)?,
            Some(("eppis", value)) => self.extended_ppis = number(value, 0..=64)?,
            Some(("wired", "extended")) => self.is_wired_by_extended = true,
            // For QEMU, which has no extended interrupts of its own and says ExtRange = 0, although
            // its list registers treat a virtual INTID in the range as any other.
            Some(("extrange", "assume")) => self.extended_range = ExtendedRange::Assumed,
            Some(("extrange", "show")) => self.extended_range = ExtendedRange::Shown,
            Some(("kvm", path)) if !path.is_empty() => self.kvm = Some(path.to_string()),
            Some(("snapshot", path)) if !path.is_empty() => self.snapshot = Some(path.to_string()),
            Some(("incoming", path)) if !path.is_empty() => self.incoming = Some(path.to_string()),
            Some(("pci", list)) => {
                let functions: Option<Vec<u16>> = list.split(',').map(function).collect();
                self.functions = functions.ok_or(Fault::Malformed)?;
            }
            _ => return Err(Fault::Malformed),
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.bytes().all(is_plain)
}

fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, Fault> {
    let number = text.parse().ok();
    number
        .filter(|number| range.contains(number))
        .ok_or(Fault::Number(range))
}

/// Reads a function, such as `00:1f.7`.
fn function(text: &str) -> Option<u16> {
    let (bus, rest) = text.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let bus = u8::from_str_radix(bus, 16).ok()?;
    let device = u8::from_str_radix(device, 16).ok().filter(|it| *it < 32)?;
    let function = function.parse::<u8>().ok().filter(|it| *it < 8)?;
    Some(u16::from(bus) << 8 | u16::from(device) << 3 | u16::from(function))
}

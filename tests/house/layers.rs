//! Rooms of `src/` and their ranks. A room is a file or folder directly under `src/`.

/// Ranks of rooms, lowest first. A room names only rooms of lower rank, and itself.
pub(crate) type Ranks = &'static [(&'static str, u32)];

/// Lowest rank above the foundations.
pub(crate) const VM: u32 = 30;

/// Ranks that `arrows-down` holds the tree to. The floors of the house: foundations, which have an
/// order of their own; the state of a VM; the moves of interrupts; entry and exit; the operations
/// that guests and embedders ask for; and the page that offers them.
pub(crate) const RANKS: Ranks = &[
    ("sync", 10),
    ("steps", 11),
    ("fixed", 12),
    ("intid", 13),
    ("lr", 14),
    ("trace", 15),
    ("erratum", 15),
    ("error", 16),
    ("gicv4", 16),
    ("host", 17),
    ("config", 18),
    ("description", 19),
    ("epoch", 19),
    ("radix", 20),
    ("cpu_interface", 21),
    ("cpu", 22),
    ("vm", VM),
    ("direct", 35),
    ("delivery", 40),
    ("entry", 50),
    ("its", 60),
    ("mmio", 61),
    ("sysreg", 61),
    ("advance", 62),
    ("dump", 62),
    ("teardown", 62),
    ("reset", 63),
    ("state", 64),
    ("kvm", 65),
    ("vgic", 70),
    ("lib", 80),
];

/// Receivers of method calls, and the types that they may be of. `self` is known by its `impl`.
/// The names are those that the code uses throughout.
pub(crate) const RECEIVERS: &[(&str, &[&str])] = &[
    ("vgic", &["Vgic"]),
    ("vm", &["Vm", "Vgic"]),
    ("vcpu", &["Vcpu"]),
    ("irq", &["Irq"]),
    ("its", &["Its"]),
    ("list", &["ApList"]),
    ("ap_list", &["ApList"]),
    ("residency", &["Residency"]),
    ("registers", &["Registers", "IchShadow"]),
    ("shadow", &["IchShadow"]),
    ("distributor", &["Distributor"]),
    ("redistributor", &["Redistributor"]),
    ("topology", &["Topology"]),
    ("engine", &["Engine"]),
    ("queue", &["Queue"]),
    ("cpu", &["Cpu"]),
    ("local", &["CpuLocal"]),
    ("pin", &["CpuPin"]),
    ("config", &["Config"]),
    ("leaving", &["Leaving", "AfterUnlock"]),
    ("dying", &["Dying"]),
];

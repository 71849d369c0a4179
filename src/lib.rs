//! A virtual Arm GICv3, with ITS and LPIs, for EL2 hypervisors with many vCPUs.
//!
//! A [`Vgic`] is one virtual machine's interrupt controller: distributor, redistributors, ITSes,
//! and the hypervisor's side of the CPU interface (the list registers). A [`Config`] describes the
//! VM, [`Host`] has the embedder's callbacks, and a [`Cpu`] is a physical CPU that runs vCPUs.
//! Lookup and translation take no lock. On the way of an interrupt, no lock is shared by all vCPUs
//! of a VM.
//!
//! # Design principles
//! 1. **A lookup takes no lock.** Radix tables hold LPIs and translations. The epoch reclaims nodes
//!    and entries (`radix`, [`epoch`]).
//! 2. **References are symmetric.** The compare-and-swap that links an interrupt takes the
//!    ap_list's reference; the compare-and-swap that unlinks the interrupt puts the reference. Both
//!    run under the ap_list's lock. `vm::irq` lists all transitions.
//! 3. **One word, one change.** An interrupt's whole state, references included, is one atomic
//!    word. Every change is one named transition. The result names the caller's next step.
//! 4. **A register is written only to change the value.** The hypervisor keeps a shadow of `ICH_*`;
//!    an exit and entry without new work access no list register.
//! 5. **A trap does bounded work.** A guest's request beyond a bound is done in slices
//!    ([`Vgic::advance`]). The registers `CREADR`, `RWP` and `SYNCR` show the progress.
//! 6. **Injection, entry and exit allocate nothing**, except the epoch's queue node once in some
//!    100,000 pins. They read no guest memory, and never wait for a grace period.
//! 7. **A guest's numbers are claims.** A guest's mistake has the architecture's outcome;
//!    `Result`s are for the embedder.
//! 8. **Modules import only modules below.** State, then what moves interrupts, then entry and
//!    exit, then commands and register frames, on top the public API on one page.
//!
//! # Embedding
//! The embedder calls [`Vgic::enter`] and [`Vgic::exit`] around the guest, hands trapped accesses
//! to [`Vgic::mmio_read`], [`Vgic::mmio_write`] and [`Vgic::sysreg_write`], and raises interrupts
//! from any CPU with [`Vgic::inject_msi`], [`Vgic::inject_spi`], [`Vgic::set_spi_line`],
//! [`Vgic::forward_ppi`] and similar calls. On hardware the CPU interface is
//! `cpu_interface::ich::Ich`. The example has the software model, and the test plays the guest:
//!
//! ```
//! use vgic::cpu_interface::software::SoftwareInterface;
//! use vgic::epoch::Domain;
//! use vgic::intid::{Affinity, CpuId, IntId, VcpuId};
//! use vgic::mmio::Width;
//! use vgic::{BadAddress, Config, Cpu, Host, PhysicalInterrupt, Vgic};
//!
//! struct Hypervisor;
//!
//! impl Host for Hypervisor {
//!     fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) { /* send an IPI */ }
//!     fn wake(&self, _vcpu: VcpuId) { /* make the vCPU runnable */ }
//!     fn read_memory(&self, _gpa: u64, _buffer: &mut [u8]) -> Result<(), BadAddress> {
//!         Err(BadAddress) // this guest has no RAM
//!     }
//!     fn write_memory(&self, _gpa: u64, _bytes: &[u8]) -> Result<(), BadAddress> {
//!         Err(BadAddress)
//!     }
//!     fn deactivate(&self, _physical: PhysicalInterrupt) { /* GICD_ICACTIVER<n> */ }
//!     fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
//!         false
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Once per hypervisor, per VM, and per physical CPU.
//! let domain = Domain::new();
//! let vm = Vgic::new(&domain, Config::new(vec![Affinity::new(0, 0, 0, 0)]), Hypervisor)?;
//! let cpu = Cpu::new(domain.register(CpuId(0))?, SoftwareInterface::default());
//! let vcpu = VcpuId::new(0).unwrap();
//! let spi = IntId::spi(40).unwrap();
//!
//! // The guest's driver sets the distributor up; each write is a trap.
//! let gicd = vm.config().distributor;
//! for (offset, value) in [
//!     (0x000, 0x12),    // GICD_CTLR: affinity routing, Group 1
//!     (0x084, 1 << 8),  // GICD_IGROUPR1: SPI 40 is in Group 1
//!     (0xc08, 2 << 16), // GICD_ICFGR2: and edge-triggered
//!     (0x104, 1 << 8),  // GICD_ISENABLER1: and enabled
//! ] {
//!     let _ = vm.mmio_write(&cpu.pin(), gicd + offset, Width::Word, value)?;
//! }
//!
//! // A device raises the interrupt, from any CPU.
//! vm.inject_spi(&cpu.pin(), spi)?;
//!
//! // Into the guest: one pin per exit, dropped before the guest runs.
//! vm.enter(&cpu.pin(), vcpu)?;
//! let guest = cpu.interface();
//! guest.write_igrpen1(true);
//! guest.write_pmr(0xf8).unwrap();
//! assert!(guest.virq());
//! assert_eq!(guest.read_iar1(), 40);
//! guest.write_eoir1(40);
//! vm.exit(&cpu.pin(), vcpu)?;
//!
//! // The vCPU leaves the CPU, and the VM is taken apart: no reference is left.
//! vm.vcpu_put(&cpu.pin(), vcpu)?;
//! let report = vm.teardown(&cpu.pin())?;
//! assert_eq!(report.references, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules for callers
//! * Operations take a [`CpuPin`](epoch::CpuPin), for the time between an exit and the next entry.
//!   Make a pin per exit ([`Cpu::pin`]), and drop the pin before the guest runs. A pin costs
//!   nothing until the first lookup. A thread injecting in a loop keeps and renews a pin
//!   ([`CpuPin::renew`](epoch::CpuPin::renew)).
//! * The library spins on short locks and may be called from interrupt context. Call the library
//!   with interrupts masked, as EL2 handlers run anyway.
//! * Some methods of [`Host`] run under a lock of the library; [`Host`] names the methods.
//!
//! # Modules
//! Each module imports only modules below its own row.
//!
//! | module | concept |
//! |---|---|
//! | `vgic` | the public API |
//! | [`state`], [`kvm`] | a VM saved and restored, as plain data; in KVM's format |
//! | `advance`, `dump`, `reset`, `teardown` | deferred work; a VM as text; reset; the end of a VM |
//! | [`mmio`], [`sysreg`] | register frames and system registers, for trapped accesses |
//! | `its` | ITS commands |
//! | `entry` | entry and exit, vCPU load and put, WFI |
//! | `delivery` | moving interrupts: inject, queue, prune, LPI lifetime and tables, routing |
//! | `vm` | state: interrupts, ap_lists, vCPUs, distributor, redistributors, ITS tables |
//! | [`cpu_interface`], [`lr`], `cpu` | list registers, real ones and the model; a physical CPU |
//! | `radix`, [`epoch`], `sync`, [`trace`] | lookup tables, reclamation, atomics, counters |
//! | [`description`] | device tree and ACPI tables of a configuration |
//! | [`config`], [`Host`], [`intid`], `error` | choices, callbacks, identifiers, errors |
//!
//! # Features
//! * `std` (default): hosted builds. Snapshots of the topology are arc-swap's instead of
//!   epoch-protected pointers. A bare-metal target needs `default-features = false`.
//! * `serde`: `Serialize` and `Deserialize` for the types of [`state`].
//! * `counters` (default): the event counters of [`trace::Counters`]. Without the feature, the
//!   counters compile to nothing.
//!
//! `loom` and `shuttle` are for the checks of the library's own repository.
#![cfg_attr(any(not(feature = "std"), target_os = "none"), no_std)]
#![deny(missing_debug_implementations)]

#[cfg(all(feature = "std", target_os = "none"))]
compile_error!(
    "a bare-metal target has no std: depend on vgic with `default-features = false`, and with \
     `features = [\"counters\"]` to count events"
);

#[cfg(all(vgic_mutants, not(loom)))]
compile_error!("vgic_mutants is for model checking: it needs --cfg loom");

#[cfg(all(loom, not(feature = "loom")))]
compile_error!("--cfg loom needs vgic's feature `loom`");

#[cfg(all(shuttle, not(feature = "shuttle")))]
compile_error!("--cfg shuttle needs vgic's feature `shuttle`");

extern crate alloc;
// For loom: `std::thread::panicking` detects a failing model.
#[cfg(loom)]
extern crate std;

/// Runs the examples of README.md as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

/// Runs the examples of docs/embedding.md as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingExamples;

/// Runs the examples of docs/gicv2.md as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/gicv2.md")]
struct Gicv2Examples;

mod advance;
pub mod config;
mod cpu;
pub mod cpu_interface;
mod delivery;
pub mod description;
mod direct;
mod dump;
mod entry;
pub mod epoch;
mod erratum;
mod error;
mod fixed;
pub mod gicv4;
mod host;
pub mod intid;
mod its;
pub mod kvm;
pub mod lr;
pub mod mmio;
mod radix;
mod reset;
pub mod state;
mod steps;
mod sync;
pub mod sysreg;
mod teardown;
pub mod trace;
mod vgic;
mod vm;

pub use config::{Config, ConfigError};
pub use cpu::{Cpu, PinnedCpu};
pub use delivery::inject::Injected;
pub use entry::block::Blocked;
pub use entry::gicc::VirtualLines;
pub use erratum::Erratum;
pub use error::{
    AccessError, CommandError, CpuError, DirectError, EntryError, ForeignDomain, InjectError,
    RegisterError, RemoveError, RestoreError, TeardownError,
};
pub use host::{BadAddress, Host, PhysicalInterrupt};
pub use teardown::TeardownReport;
pub use vgic::Vgic;

/// Parts that the models and the measurements of this repository use. No part of the API: they
/// change without notice.
#[doc(hidden)]
pub mod internals {
    pub use crossbeam_epoch::Guard;

    use crate::Vgic;
    use crate::epoch::CpuPin;
    pub use crate::epoch::{Numbers, Releases, Seat};
    use crate::host::Host;
    pub use crate::radix::Radix;
    #[cfg(loom)]
    pub use crate::sync::make_locks_serial;
    #[cfg(vgic_mutants)]
    pub use crate::sync::{MUTANTS, Mutant, MutantRecord, select};
    pub use crate::sync::{Slices, Tickets};
    pub use crate::vm::deferred::{DEFERRED_FREE, Deferred};
    pub use crate::vm::residency::{
        BLOCKED, Kick, NEW, RECALL, RECALL_LATER, RELEASE, RERAISED, RUNNING, Residency,
        ResidencyBits, WORK,
    };
    pub use crate::vm::rwp::{
        Awaited, Control, RWP_GICD, Waiting, Write, is_being_written, is_recalled,
    };

    /// Returns the epoch guard of a pin.
    pub fn guard<'p>(pin: &'p CpuPin<'_>) -> &'p Guard {
        pin.guard()
    }

    /// Returns the number of LPIs that wait to be freed.
    pub fn waiting_frees<H: Host>(vgic: &Vgic<H>) -> usize {
        vgic.vm.free_list.len()
    }

    /// Returns the number of locks that the pin's CPU has taken so far.
    pub fn locks_taken(pin: &CpuPin<'_>) -> u64 {
        pin.locks().acquired()
    }
}

//! The physical interrupt controller: a GICv3, with ITSes if the machine has any (IHI 0069).
//!
//! Every interrupt is in Group 1 and has one priority: the virtual controller orders the guest's
//! interrupts. An interrupt of a guest's device stays active in the physical controller until the
//! guest deactivates it through a list register, so that a level that is still high does not
//! interrupt again. The CPU interface therefore drops the priority and deactivates in two steps
//! (`ICC_CTLR_EL1.EOImode` 1).
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the addresses that the device tree gives.

pub(crate) mod cpu_interface;
pub(crate) mod distributor;
pub(crate) mod its;
mod left_on;
pub(crate) mod lpi;
pub(crate) mod redistributor;
mod virtual_lpis;

use alloc::vec::Vec;

use spin::Once;

use crate::{console, machine, println};
use distributor::Distributor;
use its::Its;
use lpi::{Lpis, PendingTable};
use redistributor::Redistributor;
use virtual_lpis::VirtualLpis;

/// Alignment of the redistributors' tables, in bytes.
const TABLE_ALIGNMENT: usize = 64 << 10;

/// Priority of every interrupt but urgent ones.
const PRIORITY: u8 = 0xa0;

/// Priority of an interrupt that comes before all others.
const URGENT: u8 = 0x80;

/// [`PRIORITY`] four times, as a register holds it.
const PRIORITIES: u32 = u32::from_ne_bytes([PRIORITY; 4]);

/// SGI that makes a CPU check for work: leave the guest, wake up, stop.
pub(crate) const KICK_SGI: u32 = 0;

static GIC: Once<Gic> = Once::new();

/// Sets the machine's interrupt controller.
pub(crate) fn init(gic: Gic) {
    GIC.call_once(|| gic);
}

/// Returns the machine's interrupt controller.
///
/// # Panics
/// Before [`init`].
#[inline]
pub(crate) fn get() -> &'static Gic {
    GIC.get()
        .expect("the GIC is taken over before a CPU runs vCPUs")
}

/// The machine's interrupt controller.
pub(crate) struct Gic {
    /// The distributor.
    pub(crate) distributor: Distributor,
    /// Redistributors, by CPU number.
    redistributors: Vec<Redistributor>,
    /// ITSes, by index in the device tree. There are none on a machine without LPIs.
    pub(crate) its: Vec<Its>,
    /// All LPIs.
    pub(crate) lpis: Lpis,
    pub(crate) virtual_lpis: VirtualLpis,
    pending: Vec<PendingTable>,
    affinities: Vec<u64>,
    /// Values of `ICC_SGI1R_EL1` that kick a CPU, by CPU number.
    kick_sgis: Vec<u64>,
    maintenance: u32,
}

impl Gic {
    /// Takes the controller over, with everything disabled. Called once, on the boot CPU.
    ///
    /// # Safety
    /// The frames are those of a GICv3, mapped by identity for ever, and nobody else drives it.
    ///
    /// # Panics
    /// If a CPU has no redistributor.
    pub(crate) unsafe fn start(description: &machine::Gic, affinities: &[u64]) -> Self {
        // SAFETY: by the caller's promise, the frame is a distributor's.
        let distributor = unsafe { Distributor::start(&description.distributor) };
        let find = |affinity: &u64| {
            // SAFETY: by the caller's promise, the regions hold redistributors.
            unsafe { Redistributor::find(&description.redistributors, *affinity) }
                .unwrap_or_else(|| panic!("CPU {affinity:#x} has no redistributor"))
        };
        let redistributors: Vec<_> = affinities.iter().map(find).collect();

        // Before the redistributors lose their LPIs, nobody may send them any.
        for frame in &description.its {
            // SAFETY: by the caller's promise, the frame is an ITS's.
            unsafe { Its::stop(frame) };
        }
        let has_lpis = distributor.has_lpis()
            && !description.its.is_empty()
            && turn_lpis_off(&redistributors, affinities);
        let frames = description.its.iter().filter(|_| has_lpis);
        let its = frames.map(|frame| {
            let target = |cpu: usize, by_address| redistributors[cpu].its_target(by_address);
            // SAFETY: by the caller's promise, the frame is an ITS's.
            unsafe { Its::start(frame, affinities.len(), target) }
        });

        Self {
            its: its.collect(),
            lpis: Lpis::new(),
            virtual_lpis: VirtualLpis::new(),
            pending: affinities.iter().map(|_| PendingTable::new()).collect(),
            affinities: affinities.to_vec(),
            kick_sgis: (affinities.iter())
                .map(|&affinity| cpu_interface::sgi_value(KICK_SGI, affinity))
                .collect(),
            maintenance: description.maintenance,
            distributor,
            redistributors,
        }
    }

    /// Takes the part of CPU number `cpu` over. Called once, on that CPU, after its configuration.
    pub(crate) fn start_cpu(&self, cpu: usize) {
        let redistributor = &self.redistributors[cpu];
        redistributor.start(1 << KICK_SGI);
        if !self.its.is_empty() {
            // The registers of a redistributor without power may have read as zero before.
            let lpis = redistributor.turn_lpis_off();
            if !lpis.are_off() {
                console::stop(format_args!("CPU {:#x}: {lpis}", self.affinities[cpu]));
            }
            redistributor.start_lpis(self.lpis.base_register(), &self.pending[cpu]);
        }
        redistributor.enable(self.maintenance, true);
        cpu_interface::start();
    }

    /// Returns true if the controller is a GICv4.0: ITSes and redistributors have virtual LPIs.
    pub(crate) fn has_virtual_lpis(&self) -> bool {
        let redistributors = &mut self.redistributors.iter();
        !self.its.is_empty()
            && self.its.iter().all(Its::has_virtual_lpis)
            && redistributors.all(|one| one.virtual_lpis().is_some())
    }

    /// Returns the maintenance interrupt, a PPI.
    pub(crate) fn maintenance(&self) -> u32 {
        self.maintenance
    }

    /// Returns the redistributor of CPU number `cpu`.
    pub(crate) fn redistributor(&self, cpu: usize) -> &Redistributor {
        &self.redistributors[cpu]
    }

    /// Returns the affinity of CPU number `cpu`, in the layout of `MPIDR_EL1`.
    pub(crate) fn affinity(&self, cpu: usize) -> u64 {
        self.affinities[cpu]
    }

    /// Makes CPU number `cpu` check for work.
    #[inline]
    pub(crate) fn kick(&self, cpu: usize) {
        cpu_interface::send_sgi(self.kick_sgis[cpu]);
    }
}

/// Disables the LPIs that somebody has left enabled. Returns false if a redistributor keeps its
/// LPIs: with its old tables, none can be received.
fn turn_lpis_off(redistributors: &[Redistributor], affinities: &[u64]) -> bool {
    let mut number = 0;
    let mut kept = None;
    for (redistributor, affinity) in redistributors.iter().zip(affinities) {
        let lpis = redistributor.turn_lpis_off();
        number += u32::from(lpis == left_on::Lpis::TurnedOff);
        if !lpis.are_off() {
            kept.get_or_insert((affinity, lpis));
        }
    }

    if number > 0 {
        println!("hyp: {number} CPUs: {}", left_on::Lpis::TurnedOff);
    }
    if let Some((affinity, lpis)) = kept {
        println!("hyp: no device has MSIs: CPU {affinity:#x}: {lpis}");
    }
    kept.is_none()
}

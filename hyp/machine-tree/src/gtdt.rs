//! The generic timers (GTDT, ACPI 6.5, 5.2.25).

#![expect(unsafe_code)]
// UNSAFETY: tells the crate `acpi` the layout of a table.

use acpi::AcpiTable;
use acpi::sdt::{SdtHeader, Signature};

use crate::machine::Interrupt;

/// Table up to the timers of a CPU.
#[repr(C, packed)]
pub(crate) struct Gtdt {
    header: SdtHeader,
    control_base: u64,
    _reserved: u32,
    /// Secure and non-secure physical timer of EL1, virtual timer of EL1, timer of EL2.
    timers: [Timer; 4],
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Timer {
    gsiv: u32,
    flags: u32,
}

// SAFETY: the structure is the beginning of the table with this signature.
unsafe impl AcpiTable for Gtdt {
    const SIGNATURE: Signature = Signature::GTDT;

    fn header(&self) -> &SdtHeader {
        &self.header
    }
}

impl Gtdt {
    /// Returns the timers' interrupts.
    pub(crate) fn timers(&self) -> [Interrupt; 4] {
        const EDGE: u32 = 1;
        const LOW: u32 = 1 << 1;
        let timers = self.timers;
        timers.map(|timer| Interrupt {
            intid: timer.gsiv,
            is_edge: timer.flags & EDGE != 0,
            is_low: timer.flags & LOW != 0,
        })
    }
}

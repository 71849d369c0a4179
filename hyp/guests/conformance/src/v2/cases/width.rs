//! Widths of accesses (4.1.4): words, and bytes where a register has a field for each interrupt.

use conformance::bank;

use crate::exception::take_fault;
use crate::gicd::{CPENDSGIR, FREE_SPI, ITARGETSR, SPENDSGIR};
use crate::harness::{Case, Cpus, Outcome, equal, expect_none};
use crate::machine::Machine;
use crate::mmio::{read_8, read_16, read_64, write_8, write_16, write_64};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "width2.ipriorityr_bytes",
        "GICD_IPRIORITYR<n>, byte accesses (4.1.4)",
        |m| bytes(m, bank::IPRIORITYR, [0x10, 0x20, 0x40, 0x80]),
    ),
    Case::new(
        "width2.itargetsr_bytes",
        "GICD_ITARGETSR<n>, byte accesses (4.1.4)",
        |m| bytes(m, ITARGETSR, [1, 2, 3, 0]),
    )
    .on(Cpus::Two),
    Case::new(
        "width2.itargetsr_words",
        "GICD_ITARGETSR<n>, word accesses (4.3.12)",
        |m| {
            let register = ITARGETSR + FREE_SPI as usize;
            for value in [0x0102_0301, 0x0003_0201, 0] {
                m.write(register, value);
                equal("the word", m.read(register), value)?;
            }
            Ok(())
        },
    )
    .on(Cpus::Two),
    Case::new(
        "width2.spendsgir_bytes",
        "GICD_SPENDSGIR<n>, byte accesses (4.1.4)",
        |m| {
            write_8(m.gicd(SPENDSGIR + 6), 1);
            equal("the word", m.read(SPENDSGIR + 4), 1 << 16)?;
            equal("the word to clear", m.read(CPENDSGIR + 4), 1 << 16)?;
            write_8(m.gicd(CPENDSGIR + 6), 1);
            equal(
                "the byte once it is cleared",
                read_8(m.gicd(SPENDSGIR + 6)),
                0,
            )
        },
    ),
    Case::new(
        "width2.spendsgir_words",
        "GICD_SPENDSGIR<n>, word accesses (4.3.17)",
        |m| {
            m.write(SPENDSGIR + 8, 0x0101_0101);
            equal("the word", m.read(SPENDSGIR + 8), 0x0101_0101)?;
            equal("pending", m.read(bank::ISPENDR) & 0xffff, 0xf00)?;
            m.write(CPENDSGIR + 8, 0x0001_0001);
            equal("once two are cleared", m.read(SPENDSGIR + 8), 0x0100_0100)?;
            m.write(CPENDSGIR + 8, 0x0101_0101);
            equal("once all are", m.read(SPENDSGIR + 8), 0)?;
            expect_none()
        },
    ),
    Case::new(
        "width2.halfwords",
        "GICD_IPRIORITYR<n>, halfwords (4.1.4), left open",
        |m| {
            let base = m.gicd(bank::IPRIORITYR + FREE_SPI as usize);
            m.write(bank::IPRIORITYR + FREE_SPI as usize, 0x8080_8080);
            write_16(base + 2, 0x2040);
            read_16(base + 2);
            // Both bytes are written, or none, or the access is aborted.
            let is_aborted = take_fault(0).is_some();
            let read = m.read(bank::IPRIORITYR + FREE_SPI as usize);
            let written = read == 0x2040_8080 && !is_aborted;
            equal(
                "written as a whole or not",
                written || read == 0x8080_8080,
                true,
            )
        },
    ),
    Case::new(
        "width2.doublewords",
        "64-bit accesses (4.1.4), left open",
        |m| {
            let register = bank::ISENABLER + 4 * 4;
            m.write(register + 8, 1);
            write_64(m.gicd(register), 0x5 << 32 | 0x3);
            read_64(m.gicd(register));
            let is_aborted = take_fault(0).is_some();
            let read = [0, 4].map(|offset| m.read(register + offset));
            // Each half is written or not.
            let plausible = matches!(read, [0 | 3, 0 | 5]) && !(is_aborted && read == [3, 5]);
            equal("halves that were written", plausible, true)?;
            equal("the next register", m.read(register + 8), 1)
        },
    ),
    Case::new(
        "width2.bytes_of_bits",
        "GICD_ISENABLER<n>, bytes (4.1.4), left open",
        |m| {
            let register = bank::ISENABLER + 4 * 4;
            write_8(m.gicd(register + 1), 0x81);
            read_8(m.gicd(register + 1));
            take_fault(0);
            // A byte access is ignored, aborted, or one of this byte.
            let read = m.read(register);
            equal("the byte or nothing", matches!(read, 0 | 0x8100), true)?;
            equal("the next register", m.read(register + 4), 0)
        },
    ),
    Case::new(
        "width2.interface_bytes",
        "GICC_PMR, bytes (4.1.4), left open",
        |_| {
            use crate::gicc::{self, PMR};
            gicc::set_pmr(0x80);
            write_8(gicc::at(PMR), 0x40);
            read_8(gicc::at(PMR));
            take_fault(0);
            let read = gicc::read(PMR);
            equal("written or not", matches!(read, 0x40 | 0x80), true)
        },
    ),
];

/// Writes each byte of a word alone, and reads the bytes and the word.
fn bytes(m: &Machine, register: usize, values: [u8; 4]) -> Outcome {
    let first = register + FREE_SPI as usize;
    let next = m.read(first + 4);
    // From the last to the first: no byte may change its neighbours.
    for (place, value) in values.into_iter().enumerate().rev() {
        write_8(m.gicd(first + place), value);
    }
    for (place, value) in values.into_iter().enumerate() {
        equal("the byte", read_8(m.gicd(first + place)), value)?;
    }
    equal("the word", m.read(first), u32::from_le_bytes(values))?;
    equal("the next word", m.read(first + 4), next)
}

//! Syndrome of a data abort: the guest's load or store that trapped (DDI 0487, `ESR_EL2`, "ISS
//! encoding for an exception from a Data Abort").

use super::Width;

/// `ISV`: the other fields describe the access.
const ISV: u64 = 1 << 24;
/// `SAS`: binary logarithm of the width in bytes.
const SAS_SHIFT: u32 = 22;
/// `SSE`: the value loaded is sign-extended.
const SSE: u64 = 1 << 21;
/// `SRT`: number of the register that is loaded or stored.
const SRT_SHIFT: u32 = 16;
/// `SF`: the register is 64 bits wide.
const SF: u64 = 1 << 15;
/// `WnR`: the access is a store.
const WNR: u64 = 1 << 6;

/// A guest's access that trapped to EL2: a load or store of one general register.
///
/// ```
/// use vgic::mmio::{DataAbort, Width};
///
/// // LDRB w3, [x0]
/// let abort = DataAbort::from_esr(0x9303_0007).unwrap();
/// assert_eq!(abort.width(), Width::Byte);
/// assert_eq!(abort.register(), Some(3));
/// assert!(!abort.is_write());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAbort(u64);

impl DataAbort {
    /// Reads the `ESR_EL2` of a data abort from a lower Exception level: the caller has seen `EC`
    /// 0x24. Returns `None` unless the syndrome describes the access: `ISV` is 1.
    ///
    /// `ISV` is 0 for an instruction that accesses two registers or a SIMD register, that writes
    /// its base register back, or that is exclusive, and for a walk of the guest's translation
    /// tables. Drivers avoid such accesses to devices. Inject an external abort.
    #[inline]
    #[must_use]
    pub const fn from_esr(esr: u64) -> Option<Self> {
        if esr & ISV != 0 {
            Some(Self(esr))
        } else {
            None
        }
    }

    /// Returns the width of the access (`SAS`).
    #[inline]
    #[must_use]
    pub const fn width(self) -> Width {
        match self.0 >> SAS_SHIFT & 3 {
            0 => Width::Byte,
            1 => Width::Half,
            2 => Width::Word,
            _ => Width::Double,
        }
    }

    /// Returns the number of the general register (`SRT`), 0-30. Returns `None` for `XZR`: a store
    /// writes 0, and the value of a load goes nowhere.
    #[inline]
    #[must_use]
    pub const fn register(self) -> Option<usize> {
        match (self.0 >> SRT_SHIFT & 0x1f) as usize {
            31 => None,
            register => Some(register),
        }
    }

    /// Returns true for a store (`WnR`).
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 & WNR != 0
    }

    /// Returns the value of the register after a load of `value`: extended from [`Self::width`] by
    /// zeros or by the sign (`SSE`) to the width of the register (`SF`). Bits 63:32 of a 32-bit
    /// register are 0.
    #[inline]
    #[must_use]
    pub const fn load_result(self, value: u64) -> u64 {
        let unused = 64_u64.wrapping_sub(self.width().bytes().wrapping_mul(8));

        let extended = if self.0 & SSE != 0 {
            ((value << unused).cast_signed() >> unused).cast_unsigned()
        } else {
            value << unused >> unused
        };

        if self.0 & SF != 0 {
            extended
        } else {
            extended & 0xffff_ffff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `EC` of a data abort from a lower Exception level, `IL`, and a translation fault.
    const ABORT: u64 = 0x24 << 26 | 1 << 25 | 0x07;

    const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

    /// Returns the syndrome of an access of `2^sas` bytes by register `srt`.
    fn access(sas: u64, srt: u64, flags: u64) -> DataAbort {
        DataAbort::from_esr(ABORT | ISV | sas << 22 | srt << 16 | flags).unwrap()
    }

    #[test]
    fn only_a_described_data_abort_is_an_access() {
        assert_eq!(DataAbort::from_esr(ABORT), None, "ISV is 0");
        let all = DataAbort::from_esr(ABORT & !ISV | 0x00ff_ffff);
        assert_eq!(all, None, "ISV alone decides");
        assert!(DataAbort::from_esr(ABORT | ISV).is_some());
        // ISS2, in bits 55:32, is of other features.
        assert!(DataAbort::from_esr(u64::MAX << 32 | ABORT | ISV).is_some());
    }

    #[test]
    fn fields_are_at_their_bits() {
        for (sas, width) in (0..).zip(WIDTHS) {
            for register in 0..31 {
                for (flags, is_write) in [(0, false), (WNR, true), (SSE | SF, false)] {
                    let abort = access(sas, register, flags);
                    assert_eq!(abort.width(), width);
                    assert_eq!(abort.register(), Some(register as usize));
                    assert_eq!(abort.is_write(), is_write);
                }
            }
            assert_eq!(access(sas, 31, 0).register(), None, "XZR");
        }
        // STR w1, [x0]: an ESR_EL2 of real hardware.
        let store = DataAbort::from_esr(0x9381_0047).unwrap();
        assert_eq!(
            (store.width(), store.register(), store.is_write()),
            (Width::Word, Some(1), true)
        );
    }

    #[test]
    fn loads_are_extended_to_the_register() {
        const VALUE: u64 = 0x8182_8384_8586_8788;
        // LDRB, LDRH, LDR of a W register and of an X register, LDRSB and so on.
        let cases = [
            (0, 0, 0x88),
            (0, SF, 0x88),
            (0, SSE, 0xffff_ff88),
            (0, SSE | SF, 0xffff_ffff_ffff_ff88),
            (1, 0, 0x8788),
            (1, SF, 0x8788),
            (1, SSE, 0xffff_8788),
            (1, SSE | SF, 0xffff_ffff_ffff_8788),
            (2, 0, 0x8586_8788),
            (2, SF, 0x8586_8788),
            (2, SSE, 0x8586_8788),
            (2, SSE | SF, 0xffff_ffff_8586_8788),
            (3, SF, VALUE),
            (3, SSE | SF, VALUE),
        ];
        for (sas, flags, loaded) in cases {
            let found = access(sas, 2, flags).load_result(VALUE);
            assert_eq!(found, loaded, "{sas} {flags:#x}: {found:#x}");
        }

        // A value whose sign bit is 0 is the same either way.
        for (sas, flags) in [0, 1, 2]
            .into_iter()
            .flat_map(|sas| [(sas, 0), (sas, SSE | SF)])
        {
            assert_eq!(access(sas, 2, flags).load_result(0x12), 0x12);
        }
    }
}

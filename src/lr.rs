//! List registers: the encoding of `ICH_LR<n>_EL2` (IHI 0069, 12.4.8).
//!
//! A list register holds an interrupt that is pending, active, or both. The module only names the
//! bits; `entry::flush` chooses the interrupts.

use core::fmt;

/// Most list registers an implementation may have (`ICH_VTR_EL2.ListRegs` + 1).
pub const MAX: usize = 16;

/// Value of an `ICH_LR<n>_EL2`.
///
/// | bits  | field     | meaning |
/// |-------|-----------|---------|
/// | 63:62 | State     | invalid, pending, active, pending and active |
/// | 61    | HW        | deactivation also deactivates the physical interrupt `pINTID` |
/// | 60    | Group     | 1 for Group 1 |
/// | 55:48 | Priority  | 8 bits, lower is more urgent |
/// | 44:32 | pINTID    | physical INTID when HW is set; 44:42 are 0 without the extended range |
/// | 41    | EOI       | when HW is clear: maintenance interrupt on deactivation |
/// | 31:0  | vINTID    | INTID that the guest reads from `ICC_IAR<n>_EL1` |
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct ListRegister(pub u64);

impl ListRegister {
    /// An empty register.
    pub const EMPTY: Self = Self(0);
    /// State bit: pending.
    pub const PENDING: u64 = 1 << 62;
    /// State bit: active.
    pub const ACTIVE: u64 = 1 << 63;
    /// HW bit: the interrupt is backed by a physical interrupt.
    pub const HW: u64 = 1 << 61;
    /// Group bit: Group 1.
    pub const GROUP1: u64 = 1 << 60;
    /// EOI bit, with [`Self::HW`] clear only: maintenance interrupt on deactivation.
    pub const EOI: u64 = 1 << 41;
    /// Lowest bit of the priority field.
    pub const PRIORITY_SHIFT: u32 = 48;
    /// Lowest bit of the physical INTID.
    pub const PINTID_SHIFT: u32 = 32;

    /// Returns true if the state is pending, or pending and active.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    /// Returns true if the state is active, or pending and active.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    /// Returns the value with both state bits clear, as after the guest's deactivation.
    #[inline]
    #[must_use]
    pub const fn without_state(self) -> Self {
        Self(self.0 & !(Self::PENDING | Self::ACTIVE))
    }

    /// Returns true if the state is invalid: the register holds no interrupt.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 & (Self::PENDING | Self::ACTIVE) == 0
    }

    /// Returns the virtual INTID.
    #[must_use]
    pub const fn vintid(self) -> u32 {
        self.0 as u32
    }

    /// Returns the physical INTID, 0-8191; meaningful when [`Self::HW`] is set.
    #[must_use]
    pub const fn pintid(self) -> u32 {
        (self.0 >> Self::PINTID_SHIFT) as u32 & 0x1fff
    }

    /// Returns the priority, 0-255; 0 is the most urgent.
    #[must_use]
    pub const fn priority(self) -> u8 {
        (self.0 >> Self::PRIORITY_SHIFT) as u8
    }

    /// Returns true if the interrupt is in Group 1.
    #[must_use]
    pub const fn is_group1(self) -> bool {
        self.0 & Self::GROUP1 != 0
    }

    /// Returns true if deactivation also deactivates a physical interrupt.
    #[must_use]
    pub const fn is_hw(self) -> bool {
        self.0 & Self::HW != 0
    }

    /// Returns true if deactivation raises a maintenance interrupt.
    #[must_use]
    pub const fn wants_eoi(self) -> bool {
        self.0 & (Self::HW | Self::EOI) == Self::EOI
    }
}

impl fmt::Debug for ListRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "LR({}{} {} prio {:#04x} group {}",
            if self.is_pending() { "P" } else { "-" },
            if self.is_active() { "A" } else { "-" },
            self.vintid(),
            self.priority(),
            u8::from(self.is_group1()),
        )?;
        if self.is_hw() {
            write!(f, " hw {}", self.pintid())?;
        } else if self.wants_eoi() {
            write!(f, " eoi")?;
        }

        write!(f, ")")
    }
}

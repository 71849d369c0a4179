//! The packed state word of one interrupt.
//!
//! | bits  | field      | meaning |
//! |-------|------------|---------|
//! | 0     | PENDING    | pending latch: an edge, an MSI, `ISPENDR`, or a forwarded physical interrupt |
//! | 1     | LINE       | level of the input line |
//! | 2     | ACTIVE     | active, and in no list register |
//! | 3     | HW         | a physical interrupt is active on our behalf and owes its deactivation |
//! | 4     | UNMAPPED   | LPI without a mapping: raising it has no effect |
//! | 5     | ENABLED    | `ISENABLER`, or the LPI configuration's enable bit |
//! | 6     | GROUP1     | `IGROUPR` |
//! | 7     | LEVEL      | level-sensitive (`ICFGR`); LPIs and SGIs never |
//! | 8     | IN_LR      | loaded into a list register of `queued_on` |
//! | 9     | LR_PENDING | last known: pending in that list register |
//! | 10    | LR_ACTIVE  | last known: active in that list register |
//! | 11    | LR_LATCH   | LR_PENDING came from the latch, not from the line |
//! | 12    | LR_HW      | the list register is backed by the physical interrupt |
//! | 13    | CANCEL_P   | a pending state found in the list register is void (`ICPENDR`) |
//! | 14    | CANCEL_A   | an active state found in the list register is void (`ICACTIVER`) |
//! | 27:16 | queued_on  | one more than the vCPU whose ap_list holds it, or 0 |
//! | 39:28 | target     | one more than the vCPU it is routed to, or 0 |
//! | 47:40 | priority   | 0 the most urgent; five bits are implemented, 47:43 |
//! | 63:48 | refs       | references, the ap_list's included; 0 means dying |
//!
//! What is looked at or cleared together lies side by side, so that the common transitions compare and mask
//! with constants that fit into an instruction.
//!
//! Loading into a list register *moves* the latch, the active state and the physical interrupt there;
//! folding moves back what the guest left. So whatever is set in bits 0, 2 and 3 while IN_LR arrived
//! after the load, and nothing that arrives is lost or doubled.
//!
//! `queued_on` and the list's reference change in the same compare-and-swap: the list cannot hold an
//! interrupt without its reference, nor a reference without the interrupt.

use crate::intid::VcpuId;

/// The width of `target` and `queued_on`.
const VCPU: u64 = 0xfff;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $get:ident;)*) => {
        $($(#[$doc])* pub(crate) const $name: u64 = 1 << $bit;)*
        impl State {
            $($(#[$doc])* #[inline] #[must_use] pub(crate) const fn $get(self) -> bool { self.0 & $name != 0 })*
        }
    };
}

/// A copy of an interrupt's state word (module docs give the layout).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(pub(crate) u64);

flags! {
    /// The pending latch is set.
    PENDING = 0, latch;
    /// The input line is high.
    LINE = 1, line;
    /// Active outside the list registers.
    ACTIVE = 2, active;
    /// A physical interrupt is active on its behalf, outside the list registers.
    HW = 3, hw;
    /// An LPI without a mapping.
    UNMAPPED = 4, unmapped;
    /// Enabled.
    ENABLED = 5, enabled;
    /// In Group 1.
    GROUP1 = 6, group1;
    /// Level-sensitive.
    LEVEL = 7, level;
    /// In a list register.
    IN_LR = 8, in_lr;
    /// Last known to be pending in its list register.
    LR_PENDING = 9, lr_pending;
    /// Last known to be active in its list register.
    LR_ACTIVE = 10, lr_active;
    /// What is pending in the list register came from the latch.
    LR_LATCH = 11, lr_latch;
    /// The list register is backed by a physical interrupt.
    LR_HW = 12, lr_hw;
    /// A pending state in the list register is void.
    CANCEL_P = 13, cancel_pending;
    /// An active state in the list register is void.
    CANCEL_A = 14, cancel_active;
}

const QUEUED_SHIFT: u32 = 16;
const TARGET_SHIFT: u32 = 28;
const PRIORITY_SHIFT: u32 = 40;
const REFS_SHIFT: u32 = 48;

/// One reference.
pub(crate) const REF: u64 = 1 << REFS_SHIFT;
/// Every bit that describes the stay in a list register.
pub(crate) const LR_BITS: u64 =
    IN_LR | LR_PENDING | LR_ACTIVE | LR_LATCH | LR_HW | CANCEL_P | CANCEL_A;
/// The implemented priority bits of a priority byte (32 levels).
const PRIORITY_MASK: u8 = 0xf8;

const fn vcpu_field(vcpu: Option<VcpuId>) -> u64 {
    match vcpu {
        Some(vcpu) => vcpu.0 as u64 + 1,
        None => 0,
    }
}

const fn field_vcpu(field: u64) -> Option<VcpuId> {
    match (field & VCPU) as u16 {
        0 => None,
        field => Some(VcpuId(field - 1)),
    }
}

impl State {
    /// Nothing set, routed to `target`, on no list, with one reference.
    pub(crate) const fn new(flags: u64, target: Option<VcpuId>) -> Self {
        Self(flags | vcpu_field(target) << TARGET_SHIFT | REF)
    }

    /// Priority, 0 the most urgent; the low three bits are 0.
    #[inline]
    #[must_use]
    pub(crate) const fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT) as u8
    }

    /// The vCPU it is routed to.
    #[inline]
    #[must_use]
    pub(crate) const fn target(self) -> Option<VcpuId> {
        field_vcpu(self.0 >> TARGET_SHIFT)
    }

    /// The index of the vCPU it is routed to; beyond all of them for none.
    #[inline]
    #[must_use]
    pub(crate) const fn target_index(self) -> usize {
        ((self.0 >> TARGET_SHIFT & VCPU) as usize).wrapping_sub(1)
    }

    /// The vCPU whose ap_list links it.
    #[inline]
    #[must_use]
    pub(crate) const fn queued_on(self) -> Option<VcpuId> {
        field_vcpu(self.0 >> QUEUED_SHIFT)
    }

    /// References, the list's included.
    #[inline]
    #[must_use]
    pub(crate) const fn refs(self) -> u16 {
        (self.0 >> REFS_SHIFT) as u16
    }

    /// With the bits of `set` set and those of `clear` cleared.
    #[inline]
    #[must_use]
    pub(crate) const fn with(self, set: u64, clear: u64) -> Self {
        Self((self.0 & !clear) | set)
    }

    /// With `flag` as `on` says.
    #[inline]
    #[must_use]
    pub(crate) const fn with_flag(self, flag: u64, on: bool) -> Self {
        if on {
            self.with(flag, 0)
        } else {
            self.with(0, flag)
        }
    }

    /// With another priority, of which the implemented bits are kept.
    #[inline]
    #[must_use]
    pub(crate) const fn with_priority(self, priority: u8) -> Self {
        self.with(
            ((priority & PRIORITY_MASK) as u64) << PRIORITY_SHIFT,
            0xff << PRIORITY_SHIFT,
        )
    }

    /// Routed to another vCPU, or to none.
    #[inline]
    #[must_use]
    pub(crate) const fn with_target(self, target: Option<VcpuId>) -> Self {
        self.with(vcpu_field(target) << TARGET_SHIFT, VCPU << TARGET_SHIFT)
    }

    /// Linked in another ap_list, or in none. The reference is the caller's to account for.
    #[inline]
    #[must_use]
    pub(crate) const fn with_queued_on(self, vcpu: Option<VcpuId>) -> Self {
        self.with(vcpu_field(vcpu) << QUEUED_SHIFT, VCPU << QUEUED_SHIFT)
    }

    /// Pending outside the list registers: the latch, or the line of a level-sensitive interrupt.
    #[inline]
    #[must_use]
    pub(crate) const fn pending(self) -> bool {
        self.0 & PENDING != 0 || self.0 & (LEVEL | LINE) == LEVEL | LINE
    }

    /// Ready for a list register: pending, enabled, mapped, routed and not active.
    #[inline]
    #[must_use]
    pub(crate) const fn deliverable(self) -> bool {
        self.pending()
            && self.0 & (ENABLED | UNMAPPED | ACTIVE) == ENABLED
            && self.target().is_some()
    }

    /// On no list, not pending, and deliverable as soon as its latch is set. One comparison.
    #[inline]
    #[must_use]
    pub(crate) const fn is_idle(self) -> bool {
        const LOOKED_AT: u64 =
            PENDING | LINE | ACTIVE | HW | UNMAPPED | ENABLED | VCPU << QUEUED_SHIFT;
        self.0 & LOOKED_AT == ENABLED
    }

    /// Deliverable to `vcpu` by its latch, an edge or a forwarded interrupt, and nothing else to be said of
    /// it: what most interrupts are on their way into a list register.
    #[inline]
    #[must_use]
    pub(crate) const fn is_plain(self, vcpu: VcpuId) -> bool {
        const LOOKED_AT: u64 = PENDING | ACTIVE | UNMAPPED | ENABLED | VCPU << TARGET_SHIFT;
        let wanted = PENDING | ENABLED | vcpu_field(Some(vcpu)) << TARGET_SHIFT;
        self.0 & LOOKED_AT == wanted && (!self.level() || self.hw())
    }

    /// [`State::is_plain`], and on no list. It is mapped, if it is an LPI, so that there is a reference.
    #[inline]
    #[must_use]
    pub(crate) const fn is_plain_and_free(self, vcpu: VcpuId) -> bool {
        const LOOKED_AT: u64 =
            PENDING | ACTIVE | UNMAPPED | ENABLED | VCPU << TARGET_SHIFT | VCPU << QUEUED_SHIFT;
        let wanted = PENDING | ENABLED | vcpu_field(Some(vcpu)) << TARGET_SHIFT;
        self.0 & LOOKED_AT == wanted && (!self.level() || self.hw())
    }

    /// Whether its group is one of `groups`, a bit each.
    #[inline]
    #[must_use]
    pub(crate) const fn is_in(self, groups: u32) -> bool {
        groups >> self.group1() as u32 & 1 != 0
    }

    /// In a list register, and nothing has come up since it was loaded that would keep it on the list
    /// once the guest is done, nor is anybody to be told then. One comparison for an edge.
    #[inline]
    #[must_use]
    pub(crate) const fn ends_in_lr(self) -> bool {
        self.0 & (PENDING | LINE | ACTIVE | HW) == 0 && (!self.level() || self.lr_hw())
    }

    /// Whether it belongs on an ap_list while it is in no list register.
    #[inline]
    #[must_use]
    pub(crate) const fn wants_list(self) -> bool {
        self.deliverable() || (self.active() && self.target().is_some())
    }

    /// Pending outside the list registers, as the books have it: injected, and not yet delivered, merged
    /// or withdrawn. A level that waits for a deactivation is injected by that; a void raise is not.
    #[inline]
    #[must_use]
    pub(crate) const fn pending_outside(self) -> bool {
        self.0 & (PENDING | UNMAPPED) == PENDING
            || self.0 & (LEVEL | LINE | ACTIVE | IN_LR) == LEVEL | LINE
    }

    /// Pending states that the books have: at most one in a list register and one outside.
    #[inline]
    #[must_use]
    pub(crate) const fn pending_count(self) -> u64 {
        self.lr_pending() as u64 + self.pending_outside() as u64
    }

    /// What `GICD_ISPENDR<n>` shows. What is pending in a list register because of the line is pending only
    /// as long as the line is high.
    #[inline]
    #[must_use]
    pub(crate) const fn shows_pending(self) -> bool {
        self.pending() || (self.lr_pending() && self.lr_latch() && !self.cancel_pending())
    }

    /// What `GICD_ISACTIVER<n>` shows.
    #[inline]
    #[must_use]
    pub(crate) const fn shows_active(self) -> bool {
        self.active() || (self.lr_active() && !self.cancel_active())
    }
}

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let letters = b"PLAHUEGlrpafhxy";
        write!(f, "State(")?;
        for (bit, letter) in letters.iter().enumerate().take(15) {
            if self.0 >> bit & 1 != 0 {
                write!(f, "{}", char::from(*letter))?;
            }
        }
        write!(
            f,
            " prio {:#04x} target {:?} queued_on {:?} refs {})",
            self.priority(),
            self.target(),
            self.queued_on(),
            self.refs()
        )
    }
}

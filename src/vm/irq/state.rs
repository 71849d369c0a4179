//! The packed state word of an interrupt.
//!
//! | bits  | field      | meaning |
//! |-------|------------|---------|
//! | 0     | LINE       | level of the input line |
//! | 1     | MESSAGE    | asserted by `GICD_SETSPI_NSR` while level-sensitive, beside the line |
//! | 2     | GROUP1     | `IGROUPR` |
//! | 3     | LEVEL      | level-sensitive (`ICFGR`); LPIs and SGIs never |
//! | 4     | HW         | a physical interrupt is active on the guest's behalf, to be deactivated |
//! | 5     | PENDING    | pending latch: an edge, an MSI, `ISPENDR`, a forwarded interrupt |
//! | 6     | ACTIVE     | active, and in no list register |
//! | 7     | UNMAPPED   | LPI without a mapping: a raise has no effect |
//! | 8     | ENABLED    | `ISENABLER`, or the LPI configuration's enable bit |
//! | 20:9  | target     | 1 + the vCPU that the interrupt is routed to, or 0 |
//! | 32:21 | queued_on  | 1 + the vCPU with the interrupt on its ap_list, or 0 |
//! | 33    | LR_HW      | the list register is backed by the physical interrupt |
//! | 34    | LR_LATCH   | LR_PENDING came from the latch, not from the level |
//! | 35    | LR_PENDING | last known: pending in the list register |
//! | 36    | IN_LR      | in a list register of `queued_on` |
//! | 37    | LR_ACTIVE  | last known: active in the list register |
//! | 38    | CANCEL_P   | a pending state found in the list register is cancelled (`ICPENDR`) |
//! | 39    | CANCEL_A   | an active state found in the list register is cancelled (`ICACTIVER`) |
//! | 40    | LR_ASKED   | a register read waits for the state in the list register |
//! | 41    | CONNECTED  | connected to the physical interrupt `pintid`, which may be forwarded |
//! | 42    | RELEASING  | a CPU has still to read the `pintid` of an ended ownership |
//! | 47:43 | priority   | the five implemented bits; 0 the most urgent |
//! | 63:48 | refs       | references, the ap_list's included; 0 means dying |
//!
//! Fields compared or cleared together lie side by side: an AND instruction of A64 encodes one run
//! of ones, and a comparison encodes 12 bits. The runs are 6:3 (an edge that ended in its list
//! register), 5:4 (moved by a fill), 20:5 and 32:5 (a plain interrupt, and one on no list), 36:34
//! (set by a fill), 40:21 and 40:33 (cleared by a fold).
//!
//! Filling a list register *moves* the latch, the active state and the physical interrupt into the
//! register. Folding moves the remainder back. PENDING, ACTIVE or HW found set together with
//! IN_LR has arrived after the fill, and no arrival is lost or doubled.
//!
//! `queued_on` and the list's reference change in the same compare-and-swap: the list holds an
//! interrupt exactly while the list holds a reference.

use core::fmt;

use crate::intid::VcpuId;

/// The width of `target` and `queued_on`.
const VCPU: u64 = 0xfff;
const _: () = assert!(VcpuId::MAX_COUNT as u64 <= VCPU, "0 stands for none");

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $get:ident;)*) => {
        $($(#[$doc])* pub(crate) const $name: u64 = 1 << $bit;)*

        /// The flags by name, lowest bit first.
        const FLAGS: &[(u64, &str)] = &[$(($name, stringify!($name)),)*];

        impl State {
            $(
                $(#[$doc])*
                #[inline]
                #[must_use]
                pub(crate) const fn $get(self) -> bool {
                    self.0 & $name != 0
                }
            )*
        }
    };
}

/// A copy of an interrupt's state word (module docs give the layout).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(pub(crate) u64);

flags! {
    /// Set while the input line is high.
    LINE = 0, line;
    /// Set while a message asserts the level-sensitive interrupt.
    MESSAGE = 1, message;
    /// Set for Group 1.
    GROUP1 = 2, group1;
    /// Set for a level-sensitive interrupt.
    LEVEL = 3, level;
    /// Set while a physical interrupt is active on the guest's behalf, outside the list registers.
    HW = 4, hw;
    /// Set while the pending latch is.
    PENDING = 5, latch;
    /// Set while the interrupt is active outside the list registers.
    ACTIVE = 6, active;
    /// Set for an LPI without a mapping.
    UNMAPPED = 7, unmapped;
    /// Set while the interrupt is enabled.
    ENABLED = 8, enabled;
    /// Set if the list register is backed by a physical interrupt.
    LR_HW = 33, lr_hw;
    /// Set if the pending state of the list register came from the latch.
    LR_LATCH = 34, lr_latch;
    /// Set if the list register was pending when last known.
    LR_PENDING = 35, lr_pending;
    /// Set while the interrupt is in a list register.
    IN_LR = 36, in_lr;
    /// Set if the list register was active when last known.
    LR_ACTIVE = 37, lr_active;
    /// Set if a pending state of the list register is cancelled.
    CANCEL_P = 38, cancel_pending;
    /// Set if an active state of the list register is cancelled.
    CANCEL_A = 39, cancel_active;
    /// Set if a register read waits for a fold, or a look at the list register.
    LR_ASKED = 40, lr_asked;
    /// Set while a physical interrupt may be forwarded.
    CONNECTED = 41, connected;
    /// Set from the end of the ownership of a physical interrupt until the CPU that ended the
    /// ownership has read `pintid`.
    RELEASING = 42, releasing;
}

const TARGET_SHIFT: u32 = 9;
const QUEUED_SHIFT: u32 = 21;
/// The priority byte, whose low bits are not implemented, and belong to the fields below.
const PRIORITY_SHIFT: u32 = 40;
const REFS_SHIFT: u32 = 48;

/// The target.
pub(crate) const TARGET: u64 = VCPU << TARGET_SHIFT;
/// One reference.
pub(crate) const REF: u64 = 1 << REFS_SHIFT;
/// Sources of a level: the line, and messages.
pub(crate) const ASSERTED: u64 = LINE | MESSAGE;
/// All bits about the stay in a list register.
pub(crate) const LR_BITS: u64 =
    IN_LR | LR_PENDING | LR_ACTIVE | LR_LATCH | LR_HW | CANCEL_P | CANCEL_A | LR_ASKED;
/// The implemented bits of a priority byte (32 levels).
const PRIORITY: u8 = 0xf8;

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

/// Fields.
impl State {
    /// Makes a state with these flags, routed to `target`, on no list, with a single reference.
    pub(crate) const fn new(flags: u64, target: Option<VcpuId>) -> Self {
        Self(flags | vcpu_field(target) << TARGET_SHIFT | REF)
    }

    /// Returns the state with `refs` references.
    pub(crate) const fn with_refs(self, refs: u16) -> Self {
        self.with((refs as u64) << REFS_SHIFT, u64::MAX << REFS_SHIFT)
    }

    /// Returns the priority, 0 the most urgent; the low three bits are 0.
    #[inline]
    #[must_use]
    pub(crate) const fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT) as u8 & PRIORITY
    }

    /// Returns the target vCPU of the interrupt.
    #[inline]
    #[must_use]
    pub(crate) const fn target(self) -> Option<VcpuId> {
        field_vcpu(self.0 >> TARGET_SHIFT)
    }

    /// Returns the index of the target vCPU of the interrupt; beyond all vCPUs for none.
    #[inline]
    #[must_use]
    pub(crate) const fn target_index(self) -> usize {
        ((self.0 >> TARGET_SHIFT & VCPU) as usize).wrapping_sub(1)
    }

    /// Returns the vCPU with the interrupt on its ap_list.
    #[inline]
    #[must_use]
    pub(crate) const fn queued_on(self) -> Option<VcpuId> {
        field_vcpu(self.0 >> QUEUED_SHIFT)
    }

    /// Returns the number of references, the ap_list's included.
    #[inline]
    #[must_use]
    pub(crate) const fn refs(self) -> u16 {
        (self.0 >> REFS_SHIFT) as u16
    }

    /// Returns the state with the bits of `set` set and the other bits of `clear` cleared.
    #[inline]
    #[must_use]
    pub(crate) const fn with(self, set: u64, clear: u64) -> Self {
        Self((self.0 & !clear) | set)
    }

    /// Returns the state with `flag` set to `on`.
    #[inline]
    #[must_use]
    pub(crate) const fn with_flag(self, flag: u64, on: bool) -> Self {
        if on {
            self.with(flag, 0)
        } else {
            self.with(0, flag)
        }
    }

    /// Returns the state with the implemented bits of another priority.
    #[inline]
    #[must_use]
    pub(crate) const fn with_priority(self, priority: u8) -> Self {
        self.with(
            ((priority & PRIORITY) as u64) << PRIORITY_SHIFT,
            (PRIORITY as u64) << PRIORITY_SHIFT,
        )
    }

    /// Returns the state routed to another vCPU, or to none.
    #[inline]
    #[must_use]
    pub(crate) const fn with_target(self, target: Option<VcpuId>) -> Self {
        self.with(vcpu_field(target) << TARGET_SHIFT, VCPU << TARGET_SHIFT)
    }

    /// Returns the state with `queued_on` naming `vcpu`. Before, the state is on no list. The
    /// caller accounts for the list's reference.
    #[inline]
    #[must_use]
    pub(crate) const fn queued(self, vcpu: VcpuId) -> Self {
        self.with(vcpu_field(Some(vcpu)) << QUEUED_SHIFT, 0)
    }

    /// Returns the state with `queued_on` cleared. The caller accounts for the list's reference.
    #[inline]
    #[must_use]
    pub(crate) const fn unqueued(self) -> Self {
        self.with(0, VCPU << QUEUED_SHIFT)
    }
}

/// Predicates.
impl State {
    /// Returns true if the interrupt is level-sensitive and asserted, by the line or by a message.
    #[inline]
    #[must_use]
    pub(crate) const fn level_is_high(self) -> bool {
        self.level() && (self.line() || self.message())
    }

    /// Returns true if the interrupt is pending outside the list registers: by the latch, or by the
    /// level.
    #[inline]
    #[must_use]
    pub(crate) const fn pending(self) -> bool {
        self.0 & PENDING != 0 || self.level_is_high()
    }

    /// Returns true if the interrupt may fill a list register: pending, enabled, mapped, routed and
    /// not active.
    #[inline]
    #[must_use]
    pub(crate) const fn deliverable(self) -> bool {
        self.pending()
            && self.0 & (ENABLED | UNMAPPED | ACTIVE) == ENABLED
            && self.target().is_some()
    }

    /// Returns true if the interrupt is on no list, not pending, and deliverable once pending by
    /// the latch and routed to a target. One comparison.
    #[inline]
    #[must_use]
    pub(crate) const fn is_idle(self) -> bool {
        const COMPARED: u64 =
            PENDING | ASSERTED | ACTIVE | HW | UNMAPPED | ENABLED | VCPU << QUEUED_SHIFT;
        self.0 & COMPARED == ENABLED
    }

    /// Returns true if the interrupt is on no list, not enabled, and neither pending nor active in
    /// any way.
    pub(crate) const fn is_quiet(self) -> bool {
        const COMPARED: u64 = PENDING | ASSERTED | ACTIVE | HW | ENABLED | VCPU << QUEUED_SHIFT;
        self.0 & COMPARED == 0
    }

    /// Returns true if the state is plain: deliverable to `vcpu` by the latch, and either an edge
    /// or forwarded. Most interrupts are plain at the fill.
    #[inline]
    #[must_use]
    pub(crate) const fn is_plain(self, vcpu: VcpuId) -> bool {
        self.is_plain_without(0, vcpu)
    }

    /// Returns whether the state is plain and on no list. One comparison saves 4 of the 182
    /// instructions of inject_spi/new.
    #[inline]
    #[must_use]
    pub(crate) const fn is_plain_and_free(self, vcpu: VcpuId) -> bool {
        self.is_plain_without(VCPU << QUEUED_SHIFT, vcpu)
    }

    /// Returns whether the state is plain and the bits of `clear` are 0.
    #[inline]
    const fn is_plain_without(self, clear: u64, vcpu: VcpuId) -> bool {
        const COMPARED: u64 = PENDING | ACTIVE | UNMAPPED | ENABLED | VCPU << TARGET_SHIFT;
        let plain = PENDING | ENABLED | vcpu_field(Some(vcpu)) << TARGET_SHIFT;
        self.0 & (COMPARED | clear) == plain && (!self.level() || self.hw())
    }

    /// Returns true if the interrupt's group is in `groups`, a bit each.
    #[inline]
    #[must_use]
    pub(crate) const fn is_in(self, groups: u32) -> bool {
        groups >> self.group1() as u32 & 1 != 0
    }

    /// Returns true if the interrupt is pending by the line of a physical interrupt, active on the
    /// guest's behalf, that the guest has not acknowledged as far as is known.
    #[inline]
    #[must_use]
    pub(crate) const fn awaits_line(self) -> bool {
        const INSIDE: u64 = LEVEL | IN_LR | LR_HW | LR_PENDING;
        self.awaits_line_outside() || self.0 & (INSIDE | CANCEL_P) == INSIDE
    }

    /// Returns true if `pintid` is in use: nobody may change it.
    #[inline]
    #[must_use]
    pub(crate) const fn uses_pintid(self) -> bool {
        self.0 & (CONNECTED | HW | LR_HW | RELEASING) != 0
    }

    /// Returns true if the interrupt is a level with a physical line.
    #[inline]
    #[must_use]
    pub(crate) const fn is_connected_level(self) -> bool {
        self.0 & (CONNECTED | LEVEL) == CONNECTED | LEVEL
    }

    /// Returns true if the interrupt is pending outside the list registers by the line of a
    /// physical interrupt.
    #[inline]
    #[must_use]
    pub(crate) const fn awaits_line_outside(self) -> bool {
        const ALL: u64 = LEVEL | HW | PENDING;
        self.0 & ALL == ALL
    }

    /// Returns true if the interrupt leaves the list after the guest has ended the list register:
    /// nothing has arrived since the fill, and no level has to be sampled. One comparison for an
    /// edge.
    #[inline]
    #[must_use]
    pub(crate) const fn ends_in_lr(self) -> bool {
        const ARRIVED: u64 = PENDING | ACTIVE | HW;
        self.0 & (LEVEL | ARRIVED) == 0 || self.0 & (ARRIVED | ASSERTED) == 0 && self.lr_hw()
    }

    /// Returns true if the interrupt belongs on an ap_list while in no list register.
    #[inline]
    #[must_use]
    pub(crate) const fn wants_list(self) -> bool {
        self.deliverable() || (self.active() && self.target().is_some())
    }

    /// Returns true if the counters have a pending state outside the list registers: injected, and
    /// not yet delivered, coalesced or withdrawn.
    ///
    /// A level that waits for a deactivation counts as injected at the deactivation. A raise of an
    /// unmapped LPI is no injection.
    #[inline]
    #[must_use]
    pub(crate) const fn pending_outside(self) -> bool {
        self.0 & (PENDING | UNMAPPED) == PENDING
            || self.0 & (LEVEL | ACTIVE | IN_LR) == LEVEL && self.0 & ASSERTED != 0
    }

    /// Returns false if the counters have no pending state, for a look that costs little.
    #[inline]
    #[must_use]
    pub(crate) const fn may_be_counted(self) -> bool {
        self.0 & (PENDING | ASSERTED | LR_PENDING) != 0
    }

    /// Returns the number of pending states in the counters: at most one in a list register and one
    /// outside.
    #[inline]
    #[must_use]
    pub(crate) const fn pending_count(self) -> u64 {
        self.lr_pending() as u64 + self.pending_outside() as u64
    }

    /// Returns true if the interrupt is in a list register with a pending state that a fold
    /// latches, unless the guest acknowledges the interrupt before.
    #[inline]
    #[must_use]
    pub(crate) const fn latched_in_lr(self) -> bool {
        self.lr_pending() && self.lr_latch() && !self.cancel_pending()
    }

    /// Returns the bit of `GICD_ISPENDR<n>`. An interrupt pending in a list register by the level
    /// is pending only while the level is high.
    #[inline]
    #[must_use]
    pub(crate) const fn shows_pending(self) -> bool {
        self.pending() || self.latched_in_lr()
    }

    /// Returns the bit of `GICD_ISACTIVER<n>`.
    #[inline]
    #[must_use]
    pub(crate) const fn shows_active(self) -> bool {
        self.active() || (self.lr_active() && !self.cancel_active())
    }
}

impl fmt::Debug for State {
    /// Prints the names of the set flags, and the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State(")?;
        for (_, name) in FLAGS.iter().filter(|(bit, _)| self.0 & bit != 0) {
            write!(f, "{name} ")?;
        }

        write!(
            f,
            "priority {:#04x} target {:?} queued_on {:?} refs {})",
            self.priority(),
            self.target(),
            self.queued_on(),
            self.refs()
        )
    }
}

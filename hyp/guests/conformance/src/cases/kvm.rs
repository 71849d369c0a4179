//! Reasons why the GIC of Linux KVM fails cases, each of several cases.

/// Pending states while a group is disabled.
pub(super) const FORGOTTEN: &str = "\
    it forgets what is pending while EnableGrp1 is 0, which holds forwarding back and nothing \
    else";

/// Priorities with more active interrupts than list registers.
pub(super) const STARVED: &str = "\
    active interrupts keep its list registers, and no pending one is signalled meanwhile, \
    however urgent";

/// Interrupts that are disabled while they are active.
pub(super) const DISABLED_WHILE_ACTIVE: &str = "\
    its list register signals an interrupt that was disabled, or made pending then, while it \
    was active";

/// Routes of pending interrupts.
pub(super) const NOT_ROUTED_AGAIN: &str =
    "a new route does not forward an interrupt that is pending already";

/// Deactivation from another CPU.
pub(super) const DIR_IGNORED: &str = "\
    it ignores a DIR on a CPU without the interrupt in a list register, and the interrupt \
    stays active for ever";

/// Pending states of discarded events.
pub(super) const DISCARD_LEAVES_PENDING: &str =
    "DISCARD leaves the LPI pending, and the guest takes it";

/// Pending states when LPIs are turned off.
pub(super) const LPIS_OFF_FORGETS: &str =
    "clearing EnableLPIs drops the pending states, and writes none to the pending table";

/// The CPU interface of a CPU that was off.
pub(super) const NO_RESET_BY_CPU_ON: &str = "CPU_ON does not reset the CPU interface";

/// Redistributors that sleep.
pub(super) const ASLEEP: &str = "\
    GICR_WAKER is RAZ/WI, but ProcessorSleep and ChildrenAsleep are 1 out of reset and can be \
    written";

/// Values that are UNKNOWN.
pub(super) const UNKNOWN: &str = "the value out of reset is UNKNOWN, and it has another one";

/// Component identification.
pub(super) const NO_COMPONENT_ID: &str =
    "they read as zero, which is allowed: the values are Arm's recommendation";

/// Long queues and many pending LPIs.
pub(super) const SLOW: &str = "\
    it is right but slow: a write of GITS_CWRITER returns after the last command, and each \
    entry sorts all that is pending";

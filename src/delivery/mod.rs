//! Moving interrupts: from an injection or a change to an ap_list, off the list, and to another.
//!
//! | file | concern |
//! |---|---|
//! | [`inject`] | edges, lines, forwarded interrupts, MSIs |
//! | [`change`] | changes of an interrupt by a register, a line, or an ITS command |
//! | [`queue`] | insert, requeue, notify: the follow-up of every transition |
//! | [`prune`] | unlinking interrupts that no longer belong on a list |
//! | [`count`] | the counters of injections, deliveries and withdrawals |
//! | [`lpi_lifetime`] | mapping, unmapping and freeing an LPI |
//! | [`lpi_tables`] | the LPI configuration and pending tables in guest memory |
//! | [`routing`] | `GICD_IROUTER<n>`, and the routes of interrupts |
//! | [`hotplug`] | vCPUs that are added and removed |
//! | [`report`] | reports of enables, triggers and routes to the host |
//! | [`group_enables`] | `GICD_CTLR.EnableGrp0` and `EnableGrp1` |
//! | [`doorbell`] | doorbells of virtual PEs |
//! | [`stale`] | configurations that the hardware has to read again |
//! | [`sgi`] | SGIs, and those to all other vCPUs in slices |
//! | [`sgi_sources`] | SGIs of a GICv2, pending from a source each |
//!
//! A CPU that changes an interrupt calls a transition of [`irq`](crate::vm::irq) and then
//! [`queue::follow_up`] with the transition's result. Injections, register writes and ITS commands
//! differ only in the transition.
// A guest's numbers are claims: no value of theirs may stop the hypervisor here.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub(crate) mod change;
pub(crate) mod count;
pub(crate) mod doorbell;
pub(crate) mod group_enables;
pub(crate) mod hotplug;
pub(crate) mod inject;
pub(crate) mod lpi_lifetime;
pub(crate) mod lpi_tables;
pub(crate) mod physical;
pub(crate) mod prune;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod routing;
pub(crate) mod sgi;
pub(crate) mod sgi_sources;
pub(crate) mod stale;

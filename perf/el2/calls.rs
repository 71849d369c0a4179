//! Hypervisor calls by which the measuring guest tells hyp's feature `pmu` of the events. On a real
//! machine no plugin sees the markers. This file is part of the guest and of hyp.

/// Begins the event whose number is in `x1`, or ends the event if `x1` is 0. Of the service range of
/// the hypervisor's vendor (Arm DEN 0028, 2.5), as is [`ABOUT`].
pub(crate) const MARK: u32 = 0xc600_e200;

/// Returns [`WHOLE`] or [`PART`].
pub(crate) const ABOUT: u32 = 0xc600_e201;

/// Answer of a VM with the whole machine.
pub(crate) const WHOLE: u64 = 1;
/// Answer of a VM with a part of the machine.
pub(crate) const PART: u64 = 2;

//! The vCPU that a CPU has, as the CPU itself knows it.
//!
//! An exit and an entry ask whether the calling CPU has the vCPU, and where. The residency word
//! says who has it, to all CPUs. The CPU's own record answers the same question, and that of the
//! place, without an access to memory that others write, and an exit without news leaves the
//! residency word alone.
#![expect(unsafe_code)]
// UNSAFETY: relies on the record's own invariant for an address that is not null.

use core::cell::Cell;
use core::ptr::NonNull;

/// A number, not 0, that no two vCPUs of any VM share, whether the VMs exist or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VcpuKey(u64);

impl VcpuKey {
    const NONE: Self = Self(0);

    /// Makes the key of the vCPU with this index, of the VM with this number, which is not 0 and
    /// below 2^48.
    #[inline]
    pub(crate) const fn new(vm: u64, index: usize) -> Self {
        Self(vm << 16 | index as u64)
    }
}

/// The vCPU that a CPU has.
///
/// # Invariants
/// `vcpu` is the address of the vCPU that the CPU has, whose VM may have been dropped, or `None`.
/// `in_guest` or `out` is that vCPU's key, or neither: the vCPU is on its way into the guest, or
/// blocked. The other one is [`VcpuKey::NONE`], as both are if `vcpu` is `None`.
pub(crate) struct Loaded {
    in_guest: Cell<VcpuKey>,
    out: Cell<VcpuKey>,
    vcpu: Cell<Option<NonNull<()>>>,
}

impl Loaded {
    /// Makes the record of a CPU without a vCPU.
    pub(super) const fn none() -> Self {
        Self {
            in_guest: Cell::new(VcpuKey::NONE),
            out: Cell::new(VcpuKey::NONE),
            vcpu: Cell::new(None),
        }
    }

    /// Returns the address of the vCPU with this key, if the CPU has it in the guest.
    #[inline]
    pub(crate) fn in_guest(&self, key: VcpuKey) -> Option<NonNull<()>> {
        // SAFETY: by the invariant there is a vCPU whenever its key, which is not `NONE`, is here.
        (self.in_guest.get() == key).then(|| unsafe { self.vcpu.get().unwrap_unchecked() })
    }

    /// Returns the address of the vCPU with this key, if the CPU has it out of the guest, not
    /// blocked and not on its way in.
    #[inline]
    pub(crate) fn out(&self, key: VcpuKey) -> Option<NonNull<()>> {
        // SAFETY: by the invariant there is a vCPU whenever its key, which is not `NONE`, is here.
        (self.out.get() == key).then(|| unsafe { self.vcpu.get().unwrap_unchecked() })
    }

    /// Records that the vCPU with this key, which the CPU has, is in the guest.
    #[inline]
    pub(crate) fn set_in_guest(&self, key: VcpuKey) {
        self.in_guest.set(key);
        self.out.set(VcpuKey::NONE);
    }

    /// Records that the vCPU with this key, which the CPU has, is out of the guest.
    #[inline]
    pub(crate) fn set_out(&self, key: VcpuKey) {
        self.in_guest.set(VcpuKey::NONE);
        self.out.set(key);
    }

    /// Records that the vCPU that the CPU has is on its way into the guest, or blocked.
    #[inline]
    pub(crate) fn set_between(&self) {
        self.in_guest.set(VcpuKey::NONE);
        self.out.set(VcpuKey::NONE);
    }

    /// Records the vCPU that the CPU has, on its way into the guest, or that it has none.
    pub(super) fn set(&self, vcpu: Option<NonNull<()>>) {
        self.set_between();
        self.vcpu.set(vcpu);
    }

    /// Returns true if the CPU has a vCPU, whose VM may have been dropped.
    pub(super) fn is_some(&self) -> bool {
        self.vcpu.get().is_some()
    }
}

//! A CPU's own record of the vCPU loaded on the CPU.
//!
//! An exit and an entry ask if the calling CPU has the vCPU, and if the vCPU is in the guest, out
//! of it or blocked. The residency word answers all CPUs. The CPU's own record answers without an
//! access to memory written by others, and an exit without news leaves the residency word alone.
#![expect(unsafe_code)]
// UNSAFETY: relies on the record's own invariant for an address that is not null.

use core::cell::Cell;
use core::ptr::NonNull;

/// A number of one vCPU, not 0: no other vCPU of any VM, past or present, has the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VcpuKey(u64);

impl VcpuKey {
    const NONE: Self = Self(0);

    /// Makes the key of the vCPU number `index` of the VM number `vm`, from 1 to 2^47 - 1.
    #[inline]
    pub(crate) const fn new(vm: u64, index: usize) -> Self {
        Self(vm << 16 | index as u64)
    }

    /// Returns the key with bit 63 set, which no key has: the mark of a blocked vCPU.
    #[inline]
    const fn blocked(self) -> Self {
        Self(self.0 | 1 << 63)
    }
}

/// The vCPU loaded on a CPU.
///
/// # Invariants
/// `vcpu` is the address of the vCPU, or `None`. The vCPU's VM may have been dropped. The keys say
/// where the vCPU is:
/// * in the guest: `in_guest` is its key, `out` is [`VcpuKey::NONE`];
/// * out of the guest: `out` is its key, `in_guest` is `NONE`;
/// * blocked: `out` is the mark of its key ([`VcpuKey::blocked`]), `in_guest` is `NONE`;
/// * loaded and not entered yet, blocked with a virtual PE, or no vCPU: both are `NONE`.
pub(crate) struct Loaded {
    in_guest: Cell<VcpuKey>,
    out: Cell<VcpuKey>,
    vcpu: Cell<Option<NonNull<()>>>,
    /// True if the last fold of a single interrupt on the CPU has filled the list register again.
    /// A hint: an entry that trusts it in vain makes a swap in place of a load.
    refilled: Cell<bool>,
}

impl Loaded {
    /// Makes the record of a CPU without a vCPU.
    pub(super) const fn none() -> Self {
        Self {
            in_guest: Cell::new(VcpuKey::NONE),
            out: Cell::new(VcpuKey::NONE),
            vcpu: Cell::new(None),
            refilled: Cell::new(false),
        }
    }

    /// Notes if the fold of a single interrupt has filled the list register again.
    #[inline]
    pub(crate) fn set_refilled(&self, refilled: bool) {
        self.refilled.set(refilled);
    }

    /// Returns true if the last fold of a single interrupt has filled the list register again. The
    /// vCPU has most likely been given work since the entry before that fold.
    #[inline]
    pub(crate) fn is_refilled(&self) -> bool {
        self.refilled.get()
    }

    /// Returns the address of the vCPU of `key`, if the CPU has the vCPU in the guest.
    #[inline]
    pub(crate) fn in_guest(&self, key: VcpuKey) -> Option<NonNull<()>> {
        // SAFETY: by the invariant there is a vCPU whenever its key, which is not `NONE`, is here.
        (self.in_guest.get() == key).then(|| unsafe { self.vcpu.get().unwrap_unchecked() })
    }

    /// Returns the address of the vCPU of `key`, if the CPU has the vCPU out of the guest, not
    /// blocked.
    #[inline]
    pub(crate) fn out(&self, key: VcpuKey) -> Option<NonNull<()>> {
        // SAFETY: by the invariant there is a vCPU whenever its key, which is not `NONE`, is here.
        (self.out.get() == key).then(|| unsafe { self.vcpu.get().unwrap_unchecked() })
    }

    /// Returns the address of the vCPU of `key`, if the CPU has the vCPU blocked.
    #[inline]
    pub(crate) fn blocked(&self, key: VcpuKey) -> Option<NonNull<()>> {
        self.out(key.blocked())
    }

    /// Records that the loaded vCPU, of `key`, is in the guest.
    #[inline]
    pub(crate) fn set_in_guest(&self, key: VcpuKey) {
        self.in_guest.set(key);
        self.out.set(VcpuKey::NONE);
    }

    /// Records that the loaded vCPU, of `key`, is out of the guest.
    #[inline]
    pub(crate) fn set_out(&self, key: VcpuKey) {
        self.in_guest.set(VcpuKey::NONE);
        self.out.set(key);
    }

    /// Records that the loaded vCPU, of `key`, is blocked.
    #[inline]
    pub(crate) fn set_blocked(&self, key: VcpuKey) {
        self.set_out(key.blocked());
    }

    /// Records the loaded vCPU, before its first entry on the CPU, or none.
    pub(super) fn set(&self, vcpu: Option<NonNull<()>>) {
        self.in_guest.set(VcpuKey::NONE);
        self.out.set(VcpuKey::NONE);
        self.vcpu.set(vcpu);
    }

    /// Returns true if a vCPU is loaded. The vCPU's VM may have been dropped.
    pub(super) fn is_some(&self) -> bool {
        self.vcpu.get().is_some()
    }
}

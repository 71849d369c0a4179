//! Duties of a first process, and system calls.
#![expect(unsafe_code)]
// UNSAFETY: system calls.

use std::ffi::CStr;
use std::mem;
use std::ptr;

use anyhow::{Context, Result, ensure};
use kvm_state::PAGE;

/// Mounts /dev, /proc and /sys. A failure shows at the first use.
pub(crate) fn mount_all() {
    for (kind, place) in [
        (c"devtmpfs", c"/dev"),
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
    ] {
        let (kind, place): (&CStr, &CStr) = (kind, place);
        // SAFETY: the strings are C strings, and these file systems take no data.
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    }
}

/// Turns the machine off.
pub(crate) fn power_off() {
    // SAFETY: nothing that this machine keeps is lost.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

/// Pins the calling thread to one CPU.
pub(crate) fn pin_to(cpu: usize) -> Result<()> {
    // SAFETY: a set of CPUs may be all zeros, and the call reads the given number of bytes.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(failed == 0, "there is no CPU {cpu}");
    Ok(())
}

/// The signal that makes a thread leave `KVM_RUN`.
const KICK: libc::c_int = libc::SIGUSR1;

/// Name of a thread that is to be kicked.
#[derive(Clone, Copy)]
pub(crate) struct Thread(libc::pid_t);

impl Thread {
    /// Returns the calling thread's name.
    pub(crate) fn current() -> Self {
        // SAFETY: returns a number.
        Self(unsafe { libc::gettid() })
    }

    /// Makes the thread leave `KVM_RUN`, if it is there.
    pub(crate) fn kick(self) {
        // SAFETY: the signal is handled. Nothing happens if the thread has ended.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, KICK) };
    }
}

/// Has kicks interrupt system calls, and do nothing else.
pub(crate) fn handle_kicks() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: an action may be all zeros but for its function, which does nothing.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        libc::sigaction(KICK, &raw const action, ptr::null_mut());
    }
}

/// Memory of a guest: mapped for ever, read and written through raw pointers only.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is never unmapped, and every access is volatile or before the guest starts.
unsafe impl Send for Memory {}
// SAFETY: the memory is never unmapped, and every access is volatile or before the guest starts.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps memory of `len` bytes.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping replaces none.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        ensure!(start != libc::MAP_FAILED, "no memory for the guest");
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Returns the address and the size.
    pub(crate) fn range(self) -> (u64, u64) {
        (self.start.addr() as u64, self.len as u64)
    }

    /// Writes `content` at `offset`, while no vCPU runs.
    pub(crate) fn write(self, offset: usize, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len()).context("too long")?;
        ensure!(end <= self.len, "the guest does not fit into its memory");
        // SAFETY: the range is inside the mapping, which is not in use now.
        unsafe {
            ptr::copy_nonoverlapping(content.as_ptr(), self.start.add(offset), content.len())
        };
        Ok(())
    }

    /// Returns the pages that are not all zeros, each with its offset, while no vCPU runs.
    pub(crate) fn pages(self) -> Vec<(usize, Vec<u8>)> {
        let offsets = (0..self.len).step_by(PAGE);
        let pages = offsets.map(|offset| {
            let mut page = vec![0; PAGE.min(self.len - offset)];
            // SAFETY: the range is inside the mapping, and nobody writes it now.
            unsafe {
                ptr::copy_nonoverlapping(self.start.add(offset), page.as_mut_ptr(), page.len());
            }
            (offset, page)
        });
        pages
            .filter(|(_, page)| page.iter().any(|&byte| byte != 0))
            .collect()
    }

    /// Reads the 32-bit word at `offset`, which the guest may be writing.
    pub(crate) fn read_word(self, offset: usize) -> Result<u32> {
        ensure!(
            offset.is_multiple_of(4) && offset + 4 <= self.len,
            "the guest has no memory at offset {offset:#x}"
        );
        // SAFETY: the word is aligned and inside the mapping.
        Ok(unsafe { self.start.add(offset).cast::<u32>().read_volatile() })
    }
}

/// Marks the beginning or the end of an event for the plugin.
#[inline(always)]
pub(crate) fn mark<const IMMEDIATE: u16>() {
    // SAFETY: no operation.
    unsafe { core::arch::asm!("movz xzr, #{}", const IMMEDIATE, options(nostack)) };
}

/// Lets other CPUs run while this one spins.
pub(crate) fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack)) };
}

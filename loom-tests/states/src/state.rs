//! A state of the VM and of the CPUs at work on it.

use vgic::internals::{
    Awaited, Control, Deferred, RUNNING, Residency, ResidencyBits, Seat, Waiting,
};
use vgic::intid::CpuId;

use crate::program::{Half, Pc};

/// Most vCPUs.
pub(crate) const VCPUS: usize = 3;
/// Most CPUs.
pub(crate) const CPUS: usize = 8;

/// The enables of the groups, in [`Control`].
pub(crate) const GROUPS: u32 = 0b11;

/// Index of a vCPU.
pub(crate) type V = u8;

/// Makes the library's type of one atomic from its value, makes one access by `access`, and keeps
/// the value.
fn on<T, W, R>(word: &mut W, access: impl FnOnce(&T) -> R) -> R
where
    T: From<W>,
    W: Copy + for<'a> From<&'a T>,
{
    let atomic = T::from(*word);
    let result = access(&atomic);
    *word = W::from(&atomic);
    result
}

/// Returns the registration of a CPU.
pub(crate) fn seat(cpu: usize) -> Seat {
    Seat::new(cpu as u32 + 1, CpuId(cpu as u16))
}

/// A kick on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Sent {
    /// An IPI to a CPU.
    Ipi(u8),
    /// The wake of a vCPU.
    Wake(V),
}

/// A vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Vcpu {
    /// The value of [`Residency`].
    pub residency: u64,
    /// The value of [`Waiting`].
    pub waiting: u8,
    /// Interrupts in list registers, a bit each.
    pub lrs: u8,
    /// The interrupts in list registers that the guest has not taken.
    pub untaken: u8,
    /// Kicks since the work was last consumed, two at most.
    pub kicks: u8,
    /// The embedder has been told of work, and has not resumed the vCPU since.
    pub woken: bool,
}

impl Vcpu {
    /// Makes one access to the residency word.
    pub(crate) fn word<R>(&mut self, access: impl FnOnce(&Residency) -> R) -> R {
        on(&mut self.residency, access)
    }

    /// Returns a copy of the residency word.
    pub(crate) fn copy(&self) -> ResidencyBits {
        Residency::from(self.residency).get()
    }

    /// Makes one access to the flags of the registers that wait.
    pub(crate) fn flags<R>(&mut self, access: impl FnOnce(&Waiting) -> R) -> R {
        on(&mut self.waiting, access)
    }
}

/// The VM, and the place of each CPU in its program.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The vCPUs.
    pub vcpus: [Vcpu; VCPUS],
    /// The CPUs.
    pub cpus: [Pc; CPUS],
    /// IPIs that have arrived at a CPU, a bit each.
    pub ipis: u8,
    /// Interrupts that are pending outside list registers, a bit each.
    pub pending: u8,
    /// Interrupts that are enabled, a bit each.
    pub enabled: u8,
    /// Number of LPIs in the free list.
    pub free_list: u8,
    /// The value of [`Control`].
    pub control: u32,
    /// The value of [`Awaited`].
    pub awaited: u32,
    /// The reads of `GICD_CTLR` have looked at every vCPU in this round (`rwp::Looks`), and none
    /// was waited for. All vCPUs are one slice.
    pub looked: bool,
    /// The value of [`Deferred`].
    pub deferred: u32,
}

impl State {
    /// Makes one access to the number of vCPUs that RWP may wait for.
    pub(crate) fn count<R>(&mut self, access: impl FnOnce(&Awaited) -> R) -> R {
        on(&mut self.awaited, access)
    }

    /// Begins a round of looks. A reader that is at a look of an older round cannot end this one.
    pub(crate) fn renew_looks(&mut self) {
        self.looked = false;
        for pc in &mut self.cpus {
            if let Pc::ReadWord(_, old) | Pc::ReadFlags(_, old) | Pc::EndLooks(old) = pc {
                *old = true;
            }
        }
    }

    /// Makes one access to the enables and the number of writes in progress.
    pub(crate) fn control<R>(&mut self, access: impl FnOnce(&Control) -> R) -> R {
        on(&mut self.control, access)
    }

    /// Returns true if a group is enabled.
    pub(crate) fn groups_are_open(&self) -> bool {
        self.control & GROUPS != 0
    }

    /// Returns the interrupts that may be signalled, a bit each.
    pub(crate) fn open(&self) -> u8 {
        match self.groups_are_open() {
            true => self.enabled,
            false => 0,
        }
    }

    /// Makes one access to the kinds of deferred work.
    pub(crate) fn noted<R>(&mut self, access: impl FnOnce(&Deferred) -> R) -> R {
        on(&mut self.deferred, access)
    }

    /// Returns the rank of a CPU among those of its role.
    pub(crate) fn rank(&self, cpu: usize) -> (Pc, bool, usize) {
        let sent = |pc: &&Pc| matches!(pc, Pc::Kick(Sent::Ipi(to), _) if usize::from(*to) == cpu);
        let sent = self.cpus.iter().filter(sent).count();
        (self.cpus[cpu], self.ipis & 1 << cpu != 0, sent)
    }

    /// Swaps the numbers of two CPUs.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        self.cpus.swap(one, other);
        if (self.ipis >> one ^ self.ipis >> other) & 1 != 0 {
            self.ipis ^= 1 << one | 1 << other;
        }

        for vcpu in &mut self.vcpus {
            vcpu.residency = rename(vcpu.residency, one, other);
        }
        for pc in &mut self.cpus {
            match pc {
                Pc::Kick(Sent::Ipi(to), _) if usize::from(*to) == one => *to = other as u8,
                Pc::Kick(Sent::Ipi(to), _) if usize::from(*to) == other => *to = one as u8,
                Pc::Split(half, word) if *half != Half::Take => *word = rename(*word, one, other),
                _ => {}
            }
        }
    }
}

/// Returns a residency word with the names of two CPUs swapped.
fn rename(word: u64, one: usize, other: usize) -> u64 {
    let named = Residency::from(word).get();
    let to = match named.seat() {
        Some(cpu) if cpu == seat(one) => other,
        Some(cpu) if cpu == seat(other) => one,
        _ => return word,
    };
    let renamed = Residency::from(word);
    // A put ends RUNNING.
    renamed.put();
    let _ = renamed.load(seat(to));
    u64::from(&renamed) | word & RUNNING
}

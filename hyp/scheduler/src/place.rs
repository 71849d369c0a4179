//! Wake-ups, and the choice of a CPU for an entity.

use crate::entity::{State, Woken};
use crate::queue::Queue;
use crate::sync::{Mutant, mutant};
use crate::{Entity, Here, Time};

/// CPUs next to an entity's last one that are tried first: they are likely to share a cache with
/// it. Fewer in models, which explore each look.
const NEAR: usize = if cfg!(loom) { 2 } else { 4 };

/// CPUs anywhere that are tried after those, others each time: over time, each idle CPU is found.
/// None in models, where `NEAR` finds them all.
const FAR: usize = if cfg!(loom) { 0 } else { 4 };

/// A place for an entity.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    cpu: usize,
    /// True if the CPU was idle: it is owed a kick.
    claimed: bool,
}

impl Here<'_> {
    /// Wakes an entity, after its news was published. `now` returns the time; it is called only if
    /// the entity has to be queued. Returns the CPU to kick, if there is one, never the calling
    /// CPU. The calling CPU asks [`Here::needs_resched`] before it enters a guest, and sets its
    /// timer to [`Here::next_event`] if [`Here::has_queued`].
    #[must_use]
    pub fn wake(&self, entity: &'static Entity, now: impl FnOnce() -> Time) -> Option<usize> {
        match entity.wake() {
            Woken::Nothing => None,
            Woken::Running(cpu) => {
                // A CPU that sleeps with the vCPU loaded is no longer a place for others.
                self.scheduler.cpus[cpu].claim_idle();
                self.elsewhere(cpu)
            }
            Woken::Claimed(before) => {
                self.cpu().counters.wake_ups.increment();
                self.place_woken(entity, before, now())
            }
        }
    }

    /// Queues an entity that the calling CPU has claimed, in the state `before`. Returns the CPU to
    /// kick.
    // Out of line: a wake-up of an entity that runs spills fewer registers.
    #[inline(never)]
    fn place_woken(&self, entity: &'static Entity, before: State, now: Time) -> Option<usize> {
        let last = before.cpu();
        let mut idle = self.claim(last);
        if entity.bound_to().is_none() {
            idle = idle.or_else(|| self.claim_near(last));
        }

        let place = idle.unwrap_or(self.at(last));
        if place.cpu == last {
            return self.enqueue(place, entity, now, |queue| {
                queue.remove_timer(entity);
                self.lead_of_sleeper(entity, queue.floor(), queue)
            });
        }

        let old = &self.scheduler.cpus[last];
        if before.is_timed() {
            old.locked(|queue| queue.remove_timer(entity));
        }
        self.enqueue(place, entity, now, |queue| {
            self.lead_of_sleeper(entity, old.floor(), queue)
        })
    }

    /// Returns how far a sleeper is ahead of the virtual time `floor` of the CPU that gave it
    /// up. It is owed a turn of its new `queue` at most: of many that wake up together, each would
    /// keep those queued that have not slept.
    pub(crate) fn lead_of_sleeper(&self, entity: &Entity, floor: u64, queue: &Queue) -> i64 {
        let lead = entity.vruntime.get().wrapping_sub(floor) as i64;
        let turn = queue.turn_beside(entity.weight());
        lead.max(-i64::try_from(turn).unwrap_or(i64::MAX))
    }

    /// Claims an idle CPU, in a bounded number of looks that begins near the CPU `home`.
    pub(crate) fn claim_near(&self, home: usize) -> Option<Place> {
        self.neighbours(home).find_map(|cpu| self.claim(cpu))
    }

    /// Returns another CPU whose weight is `limit` at most, if a bounded number of looks finds one.
    pub(crate) fn lighter(&self, limit: u64) -> Option<Place> {
        let weight = |&cpu: &usize| self.scheduler.cpus[cpu].weight();
        self.neighbours(self.index)
            .filter(|&cpu| cpu != self.index)
            .min_by_key(weight)
            .filter(|cpu| weight(cpu) <= limit)
            .map(|cpu| self.at(cpu))
    }

    /// Returns CPUs to try: those after the CPU `home`, and then others each time.
    pub(crate) fn neighbours(&self, home: usize) -> impl Iterator<Item = usize> {
        let (here, cpus) = (self.cpu(), self.scheduler.cpus.len());
        let near = (1..=NEAR).map(move |step| home + step);
        let far = (0..FAR).map(move |_| here.rotor.next());
        near.chain(far).map(move |cpu| cpu % cpus)
    }

    /// Claims a CPU, if it is idle.
    fn claim(&self, cpu: usize) -> Option<Place> {
        let claimed = self.scheduler.cpus[cpu].claim_idle();
        claimed.then_some(Place { cpu, claimed })
    }

    /// Returns a CPU as a place that is not claimed.
    pub(crate) fn at(&self, cpu: usize) -> Place {
        Place {
            cpu,
            claimed: false,
        }
    }

    /// Queues an entity, which belongs to the calling CPU, and which is as far ahead of the queue's
    /// virtual time as `lead` returns. Returns the CPU to kick.
    pub(crate) fn enqueue(
        &self,
        place: Place,
        entity: &'static Entity,
        now: Time,
        lead: impl FnOnce(&mut Queue) -> i64,
    ) -> Option<usize> {
        let cpu = &self.scheduler.cpus[place.cpu];
        let kick = cpu.locked(|queue| {
            // The virtual time stands still while an entity runs alone, without a tick.
            queue.account(now);
            let lead = lead(queue);
            queue.insert(entity, lead, now);
            self.scheduler.marks.note(place.cpu, queue);
            entity.queue(place.cpu);
            let claimed = place.claimed && !mutant(Mutant::ClaimedCpuNotKicked);
            claimed | self.notify(place.cpu, queue)
        });
        if kick {
            self.elsewhere(place.cpu)
        } else {
            None
        }
    }

    /// Lets CPU number `index` know of an entity that was queued there under the lock, which the
    /// caller holds. Returns true if the CPU has to be kicked.
    fn notify(&self, index: usize, queue: &Queue) -> bool {
        let cpu = &self.scheduler.cpus[index];
        if cpu.claim_idle() {
            return !mutant(Mutant::IdleCpuNotKicked);
        }
        // A CPU that runs nothing is about to pick, or is owed a kick. One that runs an entity
        // alone has no tick; the calling CPU sets its timer itself.
        let elsewhere = index != self.index;
        let first = elsewhere && queue.count() == 1 && !mutant(Mutant::FirstQueuedWithoutKick);
        let due = first || queue.is_owed();
        queue.is_busy() && due && cpu.request_resched()
    }

    /// Returns a CPU to kick, unless it is the calling CPU.
    fn elsewhere(&self, cpu: usize) -> Option<usize> {
        (cpu != self.index).then_some(cpu)
    }
}

//! Operations of a CPU on what it runs: pick, tick, preempt, block and idle.

use crate::entity::Woken;
use crate::queue::Queue;
use crate::sync::{Mutant, mutant};
use crate::{Entity, Here, Scheduler, Time};

impl Here<'_> {
    /// Picks the entity to run from time `now` on: the one here that is owed most, or one of
    /// another CPU. Returns `None` if there is none in a bounded number of looks.
    #[must_use]
    pub fn pick(&self, now: Time) -> Option<&'static Entity> {
        let own = self.cpu().locked(|queue| {
            self.cpu().clear_resched();
            let entity = queue.pop()?;
            self.start(queue, entity, now);
            Some(entity)
        });
        own.or_else(|| self.steal(now))
    }

    /// Returns true if entities seem to be queued on another CPU that is marked, in a bounded
    /// number of looks. Clears old marks.
    #[must_use]
    pub fn can_steal(&self) -> bool {
        self.victims().any(|victim| {
            let cpu = &self.scheduler.cpus[victim];
            let has_queued = cpu.has_queued();
            if !has_queued {
                // The mark is an old one, and would be looked at again.
                let _ = cpu.try_locked(|queue| self.scheduler.marks.settle(victim, queue));
            }
            has_queued
        })
    }

    /// Takes an entity that is queued on another CPU, and begins its turn here.
    fn steal(&self, now: Time) -> Option<&'static Entity> {
        let Scheduler { cpus, marks } = self.scheduler;
        // A victim whose lock is held is passed over: its own CPU is likely to pick.
        let (entity, lead) = self.victims().find_map(|victim| {
            let (stolen, has_more) = cpus[victim].try_locked(|queue| {
                let entity = queue.pop_stealable();
                marks.settle(victim, queue);
                let stolen = entity.map(|entity| (entity, queue.lead(entity)));
                (stolen, queue.has_movable())
            })?;
            if mutant(Mutant::MarkClearedUnlocked) && !has_more {
                marks.clear(victim);
            }
            stolen
        })?;

        self.cpu().counters.steals.increment();
        self.cpu().locked(|queue| {
            queue.adopt(entity, lead);
            self.start(queue, entity, now);
        });
        Some(entity)
    }

    /// Begins the turn of an entity that was taken from a run queue.
    fn start(&self, queue: &mut Queue, entity: &'static Entity, now: Time) {
        let counters = &self.cpu().counters;
        if entity.run(self.index) {
            counters.moves.increment();
        }
        let waited = now.saturating_sub(entity.queued_at.get());
        counters.longest_wait.raise(waited);
        queue.start(entity, now);
    }

    /// Returns true if another CPU, or this one itself, has asked this CPU to call [`Here::tick`].
    /// The fast path of an exit: one load.
    #[inline]
    #[must_use]
    pub fn needs_resched(&self) -> bool {
        self.cpu().needs_resched()
    }

    /// Returns true if entities are queued here. Other CPUs may queue more at any time, and kick.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.cpu().has_queued()
    }

    /// Returns the time of the next [`Here::tick`]: the end of the turn, if another entity
    /// is queued here, or the first deadline of an entity that was given up here.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        (self.cpu()).locked(|queue| match (queue.turn_end(), queue.first_deadline()) {
            (Some(end), Some(deadline)) => Some(end.min(deadline)),
            (end, deadline) => end.or(deadline),
        })
    }

    /// Charges the entity that runs, and makes those runnable whose deadline has come by `now`.
    /// Returns true if the entity that runs makes room for a queued one.
    #[must_use]
    pub fn tick(&self, now: Time) -> bool {
        self.expire(now);
        self.cpu().locked(|queue| {
            self.cpu().clear_resched();
            queue.account(now);
            // An entity that was queued while the CPU slept has no mark.
            self.scheduler.marks.note(self.index, queue);
            queue.is_over(now)
        })
    }

    /// Returns true if so many entities are queued here that turns have the least length: it
    /// matters then if the one that runs spins.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.cpu().locked(|queue| queue.is_crowded())
    }

    /// Begins the turn of the entity that runs anew at time `now`.
    pub fn restart_turn(&self, now: Time) {
        self.cpu().locked(|queue| queue.restart_turn(now));
    }

    /// Notes that from time `now` on the CPU works on behalf of the entity that runs, until
    /// [`Here::end_service`] or until the entity is queued or blocked, and charges the entity for
    /// all of that time. For any other interval it is charged `latency` at most, because a CPU may
    /// not have been there.
    pub fn serve(&self, now: Time) {
        self.cpu().locked(|queue| queue.serve(now));
    }

    /// Notes that the CPU has done, by time `now`, what it did on behalf of the entity that runs.
    pub fn end_service(&self, now: Time) {
        self.cpu().locked(|queue| queue.end_service(now));
    }

    /// Queues the entities that were given up here and whose deadline has come by `now`.
    fn expire(&self, now: Time) {
        // One for each acquisition of the lock, which has a bound then.
        while self.cpu().locked(|queue| self.expire_first(queue, now)) {}
    }

    /// Queues the first entity whose deadline has come. Returns false if there is none.
    fn expire_first(&self, queue: &mut Queue, now: Time) -> bool {
        let Some(entity) = queue.pop_timer(now) else {
            return false;
        };
        // A CPU that has claimed the entity already queues it.
        let claimed = matches!(entity.wake(), Woken::Claimed(_));
        if claimed || mutant(Mutant::ExpiryPassesWaker) {
            self.cpu().counters.wake_ups.increment();
            queue.account(now);
            let lead = self.lead_of_sleeper(entity, queue.floor(), queue);
            queue.insert(entity, lead, now);
            self.scheduler.marks.note(self.index, queue);
            entity.queue(self.index);
        }
        true
    }

    /// Queues the entity that runs, at time `now`. The vCPU was put before. If it `spins`, and so
    /// many are queued that turns have the least length, it pays for a whole turn, and its next one
    /// is brief. Returns the CPU to kick, if there is one.
    ///
    /// If others are queued here, an entity that does not spin goes to an idle CPU, or to one that
    /// has no more to do than is left here. An equal weight is allowed, so that three vCPUs of two
    /// CPUs take turns in having one alone.
    ///
    /// # Panics
    /// If nothing runs here.
    #[must_use]
    pub fn preempt(&self, now: Time, spins: bool) -> Option<usize> {
        let (entity, lead, left, spins) = self.cpu().locked(|queue| {
            queue.account(now);
            let spins = spins && queue.is_crowded();
            if spins {
                queue.charge_turn();
            }
            let entity = queue.stop();
            entity.set_brief(spins);
            (entity, queue.lead(entity), queue.weight(), spins)
        });

        let mut place = None;
        if left > 0 {
            self.cpu().counters.preemptions.increment();
            if entity.bound_to().is_none() && !spins {
                place = self.claim_near(self.index).or_else(|| self.lighter(left));
            }
        }
        self.enqueue(place.unwrap_or(self.at(self.index)), entity, now, |_| lead)
    }

    /// Blocks the entity that runs, at time `now`, until a wake-up or the deadline. The vCPU was
    /// put before, and is not used after. Returns false if a wake-up has come since
    /// [`Entity::begin_wait`]: then the entity still runs here.
    ///
    /// # Panics
    /// If nothing runs here.
    #[must_use]
    pub fn block(&self, deadline: Option<Time>, now: Time) -> bool {
        let late = mutant(Mutant::DeadlineAfterUnlock);
        let blocked = self.cpu().locked(|queue| {
            queue.account(now);
            let entity = queue.running();
            entity.set_brief(false);
            if let Some(deadline) = deadline {
                entity.deadline.set(deadline);
            }
            if !entity.block(self.index, deadline.is_some()) {
                return None;
            }

            // From here on the entity may be another CPU's, but for its deadline.
            queue.stop();
            if deadline.is_some() && !late {
                queue.insert_timer(entity);
            }
            Some(entity)
        });

        if let Some(entity) = blocked.filter(|_| late && deadline.is_some()) {
            self.cpu().locked(|queue| queue.insert_timer(entity));
        }
        blocked.is_some()
    }

    /// Declares the CPU idle at time `now`, with nothing loaded or with a vCPU that waits. Returns
    /// false if entities are queued here: then the CPU picks one instead. After true, the CPU does
    /// nothing but sleep until an interrupt comes or [`Here::next_event`], and call
    /// [`Here::end_idle`].
    #[must_use]
    pub fn begin_idle(&self, now: Time) -> bool {
        // The flag is set and the queue looked at in one critical section. A CPU that queues here
        // before is seen, and one that queues here after sees the flag.
        self.cpu().locked(|queue| {
            if queue.count() > 0 && !mutant(Mutant::IdleWithoutLook) {
                return false;
            }
            queue.sleep(now);
            self.cpu().set_idle();
            true
        })
    }

    /// Returns true from [`Here::begin_idle`] on, until another CPU owes this one a kick.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.cpu().is_idle()
    }

    /// Ends the idleness of the CPU at time `now`, and makes those runnable whose deadline has
    /// come. Returns true if entities are queued here.
    pub fn end_idle(&self, now: Time) -> bool {
        self.cpu().end_idle();
        let has_expired = self.cpu().locked(|queue| {
            let has_expired = self.expire_first(queue, now);
            queue.end_sleep(now);
            has_expired
        });
        if has_expired {
            self.expire(now);
        }
        self.cpu().has_queued()
    }
}

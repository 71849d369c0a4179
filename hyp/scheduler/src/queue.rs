//! The queues of one CPU: all that its lock protects.

use alloc::sync::Arc;

use intrusive_collections::{KeyAdapter, RBTree, RBTreeAtomicLink, intrusive_adapter};

use crate::entity::{Entity, NORMAL_WEIGHT};
use crate::sync::{Mutant, mutant};
use crate::{Parameters, Time};

/// Queued entities that a thief looks at, bound ones included.
const STEALABLE: usize = 8;

intrusive_adapter!(ByVruntime = &'static Entity: Entity { run_link => RBTreeAtomicLink });
intrusive_adapter!(ByDeadline = &'static Entity: Entity { timer_link => RBTreeAtomicLink });

/// Key of a queue. The entity's number makes it unique.
type Key = (u64, u32);

impl KeyAdapter<'_> for ByVruntime {
    type Key = Key;

    fn get_key(&self, entity: &Entity) -> Key {
        (entity.vruntime.get(), entity.id())
    }
}

impl KeyAdapter<'_> for ByDeadline {
    type Key = Key;

    fn get_key(&self, entity: &Entity) -> Key {
        (entity.deadline.get(), entity.id())
    }
}

/// The entity that runs on a CPU.
struct Running {
    entity: &'static Entity,
    /// Time up to which the entity has been charged; `None` while the CPU sleeps.
    charged: Option<Time>,
    /// Begin of the turn.
    began: Time,
    /// True if the CPU works on the entity's behalf, and is there all the time.
    is_served: bool,
}

/// Run queue and timer queue of one CPU, and the entity that runs there.
///
/// The lock, the trees and the running entity fill a cache line, and the rest begins the next one.
#[repr(C)]
pub(crate) struct Queue {
    queued: RBTree<ByVruntime>,
    timers: RBTree<ByDeadline>,
    running: Option<Running>,
    /// Number of queued entities.
    count: u32,
    /// Number of those that may move to another CPU.
    movable: u32,
    /// Sum of the weights of the queued entities.
    queued_weight: u64,
    /// Virtual time of the queue: the largest value so far of the smallest `vruntime` of those that
    /// run or are queued. An entity that has slept is behind it, by a turn at most.
    floor: u64,
    parameters: Arc<Parameters>,
    /// True while the CPU sleeps.
    asleep: bool,
}

impl Queue {
    /// Returns empty queues.
    pub(crate) fn new(parameters: Arc<Parameters>) -> Self {
        Self {
            queued: RBTree::default(),
            timers: RBTree::default(),
            running: None,
            count: 0,
            movable: 0,
            queued_weight: 0,
            floor: 0,
            parameters,
            asleep: false,
        }
    }

    /// Returns the number of queued entities.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Returns true if a queued entity may move to another CPU.
    pub(crate) fn has_movable(&self) -> bool {
        self.movable > 0
    }

    /// Returns true if an entity waits here that another CPU may take. The only one of a CPU that
    /// sleeps does not: the CPU is owed a kick, and picks the entity.
    pub(crate) fn has_surplus(&self) -> bool {
        self.has_movable() && !(self.asleep && self.count == 1)
    }

    /// Returns the sum of the weights of the entities that are queued or run.
    pub(crate) fn weight(&self) -> u64 {
        let running = self.running.as_ref().map(|running| running.entity.weight());
        self.queued_weight + running.map_or(0, u64::from)
    }

    /// Returns the queue's virtual time.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns the entity that runs.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn running(&self) -> &'static Entity {
        self.running.as_ref().expect("nothing runs here").entity
    }

    /// Returns how far `entity` is ahead of the queue's virtual time, in ticks scaled by weight;
    /// negative if it is owed time.
    pub(crate) fn lead(&self, entity: &Entity) -> i64 {
        entity.vruntime.get().wrapping_sub(self.floor) as i64
    }

    /// Makes an entity of another queue one of this queue, `lead` ahead of its virtual time.
    pub(crate) fn adopt(&self, entity: &Entity, lead: i64) {
        entity.vruntime.set(self.floor.saturating_add_signed(lead));
    }

    /// Queues an entity from `now` on, `lead` ahead of the queue's virtual time.
    pub(crate) fn insert(&mut self, entity: &'static Entity, lead: i64, now: Time) {
        self.adopt(entity, lead);
        entity.queued_at.set(now);
        self.count += 1;
        self.movable += u32::from(entity.bound_to().is_none());
        self.queued_weight += u64::from(entity.weight());
        self.queued.insert(entity);
    }

    /// Removes the queued entity that is owed most.
    pub(crate) fn pop(&mut self) -> Option<&'static Entity> {
        let entity = self.queued.front_mut().remove()?;
        self.forget(entity);
        Some(entity)
    }

    /// Removes the queued entity that is owed most, of those that may leave the CPU.
    pub(crate) fn pop_stealable(&mut self) -> Option<&'static Entity> {
        let mut cursor = self.queued.front_mut();
        for _ in 0..STEALABLE {
            if cursor.get()?.bound_to().is_none() {
                break;
            }
            cursor.move_next();
        }
        if cursor.get()?.bound_to().is_some() {
            return None;
        }
        let left = mutant(Mutant::StolenStaysQueued).then(|| cursor.as_cursor().clone_pointer());
        let entity = left.unwrap_or_else(|| cursor.remove())?;
        self.forget(entity);
        Some(entity)
    }

    /// Counts out an entity that is no longer queued.
    fn forget(&mut self, entity: &Entity) {
        self.count -= 1;
        self.movable -= u32::from(entity.bound_to().is_none());
        self.queued_weight -= u64::from(entity.weight());
    }

    /// Begins the turn of an entity at `now`.
    pub(crate) fn start(&mut self, entity: &'static Entity, now: Time) {
        debug_assert!(self.running.is_none(), "two entities run on a CPU");
        self.running = Some(Running {
            entity,
            charged: Some(now),
            began: now,
            is_served: false,
        });
        self.advance();
    }

    /// Ends the turn of the entity that runs, and returns the entity.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn stop(&mut self) -> &'static Entity {
        self.running.take().expect("nothing runs here").entity
    }

    /// Charges the entity that runs for its time up to `now`, and for `latency` at most, which no
    /// turn exceeds: without a tick for longer it ran alone, or its CPU was not there, as an
    /// emulated one may be.
    pub(crate) fn account(&mut self, now: Time) {
        if let Some(running) = &mut self.running {
            running.charge(now, self.parameters.latency);
        }
        self.advance();
    }

    /// Charges the entity that runs for all its time from `now` on, until [`Queue::end_service`] or
    /// the end of its turn.
    pub(crate) fn serve(&mut self, now: Time) {
        self.account(now);
        if let Some(running) = &mut self.running {
            running.is_served = true;
        }
    }

    /// Charges the entity that runs for all its time up to `now`, and from then on as usual.
    pub(crate) fn end_service(&mut self, now: Time) {
        self.account(now);
        if let Some(running) = &mut self.running {
            running.is_served = false;
        }
    }

    /// Charges the entity that runs up to `now`, and not for the sleep of the CPU from then on.
    pub(crate) fn sleep(&mut self, now: Time) {
        self.account(now);
        self.asleep = true;
        if let Some(running) = &mut self.running {
            running.charged = None;
        }
    }

    /// Charges the entity that runs from `now` on, and begins its turn anew.
    pub(crate) fn end_sleep(&mut self, now: Time) {
        self.asleep = false;
        if let Some(running) = &mut self.running {
            running.charged = Some(now);
            running.began = now;
        }
    }

    /// Begins the turn of the entity that runs anew at `now`.
    pub(crate) fn restart_turn(&mut self, now: Time) {
        if let Some(running) = &mut self.running {
            running.began = now;
        }
    }

    /// Advances the virtual time to the smallest `vruntime`, if that has grown.
    fn advance(&mut self) {
        let running = self.running.as_ref().map(|one| one.entity.vruntime.get());
        let first = self.queued.front().get().map(|one| one.vruntime.get());
        let least = running.into_iter().chain(first).min();
        self.floor = self.floor.max(least.unwrap_or(0));
    }

    /// Returns true if an entity runs and is charged: the CPU is awake.
    pub(crate) fn is_busy(&self) -> bool {
        (self.running.as_ref()).is_some_and(|running| running.charged.is_some())
    }

    /// Returns true if the first queued entity is owed more than the granularity against the
    /// one that runs, which has been charged.
    pub(crate) fn is_owed(&self) -> bool {
        let (Some(running), Some(first)) = (&self.running, self.queued.front().get()) else {
            return false;
        };
        let margin = first
            .vruntime
            .get()
            .saturating_add(self.parameters.granularity);
        margin < running.entity.vruntime.get()
    }

    /// Returns the end of the turn, if another entity is queued.
    pub(crate) fn turn_end(&self) -> Option<Time> {
        let running = self.running.as_ref().filter(|_| self.count > 0)?;
        if running.entity.is_brief() {
            return Some(running.began + self.parameters.brief_turn);
        }
        Some(running.began + self.turn(running.entity.weight(), self.weight()))
    }

    /// Returns the length of a whole turn of an entity of this weight, on a CPU of this weight, the
    /// entity's included.
    fn turn(&self, weight: u32, of_all: u64) -> Time {
        let share = self.parameters.latency.saturating_mul(weight.into()) / of_all;
        share.max(self.parameters.least_turn)
    }

    /// Returns true if so many entities are queued that turns have the least length. With fewer,
    /// one that spins may wait for one that runs elsewhere, and would pay for long turns.
    pub(crate) fn is_crowded(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let turn = self.turn(running.entity.weight(), self.weight());
            turn == self.parameters.least_turn
        })
    }

    /// Charges the entity that runs for the rest of a whole turn, as if that had ended.
    pub(crate) fn charge_turn(&mut self) {
        if let Some(running) = &self.running {
            let end = running.began + self.turn(running.entity.weight(), self.weight());
            self.account(end);
        }
    }

    /// Returns the length of a turn, in virtual time, once an entity of this weight has come.
    pub(crate) fn turn_beside(&self, weight: u32) -> u64 {
        scaled(self.turn(weight, self.weight() + u64::from(weight)), weight)
    }

    /// Decides at `now` if the entity that runs, which has been charged, makes room for one that
    /// is queued. If not, a turn that has ended is followed by another.
    pub(crate) fn is_over(&mut self, now: Time) -> bool {
        if self.is_owed() {
            return true;
        }
        if self.turn_end().is_none_or(|end| now < end) {
            return false;
        }

        if self.running().is_brief() {
            self.charge_turn();
        }
        let first = (self.queued.front().get()).map(|one| ByVruntime::NEW.get_key(one));
        let Some(running) = &mut self.running else {
            return false;
        };
        let is_over = first < Some(ByVruntime::NEW.get_key(running.entity));
        if !is_over {
            running.began = now;
        }
        is_over
    }

    /// Puts an entity into the timer queue.
    pub(crate) fn insert_timer(&mut self, entity: &'static Entity) {
        self.timers.insert(entity);
    }

    /// Removes an entity that this CPU gave up from the timer queue, if it is there.
    pub(crate) fn remove_timer(&mut self, entity: &Entity) {
        if entity.timer_link.is_linked() && !mutant(Mutant::DeadlineKept) {
            let key = ByDeadline::NEW.get_key(entity);
            let removed = self.timers.find_mut(&key).remove();
            debug_assert!(removed.is_some(), "{} is in another queue", entity.id());
        }
    }

    /// Removes the first entity whose deadline has come by `now` from the timer queue.
    pub(crate) fn pop_timer(&mut self, now: Time) -> Option<&'static Entity> {
        self.first_deadline().filter(|&first| first <= now)?;
        self.timers.front_mut().remove()
    }

    /// Returns the first deadline.
    pub(crate) fn first_deadline(&self) -> Option<Time> {
        self.timers.front().get().map(|one| one.deadline.get())
    }
}

impl Running {
    /// Charges the entity for its time up to `now`, and for `longest` at most.
    fn charge(&mut self, now: Time, longest: Time) {
        let Some(charged) = &mut self.charged else {
            return;
        };
        // Another CPU may have read the clock a little earlier.
        let longest = if self.is_served { Time::MAX } else { longest };
        let used = now.saturating_sub(*charged).min(longest);
        *charged = now.max(*charged);
        let vruntime = &self.entity.vruntime;
        let scaled = scaled(used, self.entity.weight());
        vruntime.set(vruntime.get().saturating_add(scaled));
    }
}

/// Returns the virtual time of an entity of this weight for a time on a CPU. Rounded up, so that no
/// switch is free.
fn scaled(time: Time, weight: u32) -> u64 {
    time.saturating_mul(u64::from(NORMAL_WEIGHT))
        .div_ceil(weight.into())
}

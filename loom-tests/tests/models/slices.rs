//! `slices`: claiming slices of a task against starting, finishing and waiting for it.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;
use loom_tests::check;
use vgic::internals::Slices;

/// Items of the task.
const ITEMS: u32 = 4;

/// A task, and the marks that its CPUs leave. The marks are Relaxed, so that the order of their
/// effects comes from [`Slices`] alone.
struct Task {
    slices: Slices,
    /// Reasons that have been given so far, a bit each.
    reasons: AtomicU32,
    /// The reasons that each item was done for.
    items: [AtomicU32; ITEMS as usize],
}

impl Task {
    fn new() -> Self {
        Self {
            slices: Slices::new(),
            reasons: AtomicU32::new(0),
            items: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// Gives a reason and starts the task.
    fn start(&self, reason: u32) {
        self.reasons.fetch_or(reason, Relaxed);
        self.slices.start();
    }

    /// Does one slice of two items; returns whether one was left.
    fn advance(&self) -> bool {
        let Some(slice) = self.slices.claim(ITEMS, 2, Some) else {
            return false;
        };
        let reasons = self.reasons.load(Relaxed);
        for item in &self.items[slice.first as usize..slice.end as usize] {
            item.fetch_or(reasons, Relaxed);
        }
        true
    }

    /// Asserts, if the task is done, that every item was done for `reason`.
    fn check_done(&self, reason: u32) {
        if self.slices.is_done(ITEMS) {
            for item in &self.items {
                assert!(item.load(Relaxed) & reason != 0, "an item is not done");
            }
        }
    }
}

/// Checks that a CPU which waits sees all effects once two others have done the slices.
#[test]
fn done_against_two_claims() {
    check(3, || {
        let task = Arc::new(Task::new());
        task.start(1);
        let claimer = {
            let task = task.clone();
            thread::spawn(move || {
                task.advance();
            })
        };
        let waiter = {
            let task = task.clone();
            thread::spawn(move || task.check_done(1))
        };
        task.advance();
        claimer.join().unwrap();
        waiter.join().unwrap();
        assert!(!task.slices.has_more(ITEMS));
        assert!(task.slices.is_done(ITEMS));
        task.check_done(1);
    });
}

/// Checks that two CPUs which start the task for reasons of their own, and do its slices, each see
/// every item done for their reason once the task is done.
#[test]
fn done_against_two_starts() {
    check(3, || {
        let task = Arc::new(Task::new());
        let other = {
            let task = task.clone();
            thread::spawn(move || {
                task.start(2);
                while task.advance() {}
                task.check_done(2);
            })
        };
        task.start(1);
        while task.advance() {}
        task.check_done(1);
        other.join().unwrap();
        assert!(task.slices.is_done(ITEMS));
        task.check_done(1);
        task.check_done(2);
    });
}

/// Checks that a CPU which stops the task, while two others do its slices, leaves nothing to claim,
/// and that the task is done once the two are.
#[test]
fn stop_against_two_claims() {
    check(3, || {
        let task = Arc::new(Task::new());
        task.start(1);
        let others = [0, 1].map(|_| {
            let task = task.clone();
            thread::spawn(move || {
                task.advance();
            })
        });
        task.slices.stop();
        assert!(!task.advance(), "a slice is left");
        for other in others {
            other.join().unwrap();
        }
        assert!(task.slices.is_done(ITEMS));
    });
}

/// Checks that a CPU which ends the task, while another does its slices, sees all effects of the
/// slices, and that none follows.
#[test]
fn end_against_a_claim() {
    check(5, || {
        let task = Arc::new(Task::new());
        task.start(1);
        let other = {
            let task = task.clone();
            thread::spawn(move || while task.advance() {})
        };
        task.slices.end();
        let done = || task.items.each_ref().map(|item| item.load(Relaxed));
        let found = done();
        other.join().unwrap();
        assert_eq!(done(), found, "a slice was in progress");
        assert!(task.slices.is_done(ITEMS));
    });
}

/// Checks that a new round does not skip an item that appeared before it was started, while two
/// CPUs searched for the first item.
#[test]
fn start_against_a_claim() {
    check(3, || {
        let task = Arc::new(Task::new());
        task.start(1);
        // The only item there may be.
        let appeared = Arc::new(AtomicU32::new(0));
        let visit = |task: &Task, appeared: &AtomicU32| {
            let first = |at: u32| {
                if at == 0 && appeared.load(Relaxed) != 0 {
                    Some(0)
                } else {
                    Some(ITEMS)
                }
            };
            if let Some(slice) = task.slices.claim(ITEMS, 1, first)
                && slice.first == 0
            {
                task.items[0].store(1, Relaxed);
            }
        };
        let others = [0, 1].map(|_| {
            let (task, appeared) = (task.clone(), appeared.clone());
            thread::spawn(move || visit(&task, &appeared))
        });
        appeared.store(1, Relaxed);
        task.slices.start();
        for other in others {
            other.join().unwrap();
        }
        while task.slices.has_more(ITEMS) {
            visit(&task, &appeared);
        }
        assert_eq!(task.items[0].load(Relaxed), 1, "the item was skipped");
    });
}

/// Checks that a CPU which has found a round due does not begin a later round, which another CPU
/// makes due after it has stopped the first.
#[test]
fn begin_against_stop_and_expect() {
    check(3, || {
        let task = Arc::new(Task::new());
        task.slices.expect();
        let due = task.slices.due().unwrap();
        let other = {
            let task = task.clone();
            thread::spawn(move || {
                task.slices.begin(due);
            })
        };
        task.slices.stop();
        task.slices.expect();
        assert!(!task.advance(), "a round is begun too early");
        other.join().unwrap();

        let due = task.slices.due().expect("the round is still due");
        assert!(task.slices.begin(due));
        assert!(task.advance());
    });
}

/// Checks that of two CPUs which have found a round due one begins the round, and that the task is
/// neither due nor done until its slices are.
#[test]
fn due_against_two_begins() {
    check(3, || {
        let task = Arc::new(Task::new());
        task.reasons.store(1, Relaxed);
        task.slices.expect();
        let others = [0, 1].map(|_| {
            let task = task.clone();
            thread::spawn(move || {
                let begun = task.slices.due().is_some_and(|due| task.slices.begin(due));
                while task.advance() {}
                begun
            })
        });
        if task.slices.due().is_none() {
            task.check_done(1);
        }
        let begun = others.map(|other| other.join().unwrap());
        assert_eq!(begun.iter().filter(|begun| **begun).count(), 1);
        assert!(task.slices.due().is_none() && task.slices.is_done(ITEMS));
        task.check_done(1);
    });
}

/// Races a round that is made due for a reason against two CPUs that may begin the round. A CPU
/// that finds the round due sees the reason, and does something that has to come before the
/// slices. Every item is done for the reason, and after what the CPU did that began the round.
#[test]
fn expect_against_two_begins() {
    check(3, || {
        let task = Arc::new(Task::new());
        let others = [2, 4].map(|before| {
            let task = task.clone();
            thread::spawn(move || {
                let begun = task.slices.due().is_some_and(|due| {
                    let reasons = task.reasons.load(Relaxed);
                    assert!(reasons & 1 != 0, "due for no reason");
                    task.reasons.fetch_or(before, Relaxed);
                    task.slices.begin(due)
                });
                while task.advance() {}
                if begun { before } else { 0 }
            })
        });
        task.reasons.fetch_or(1, Relaxed);
        task.slices.expect();
        let [one, other] = others.map(|other| other.join().unwrap());
        assert!(one == 0 || other == 0, "begun twice");
        if one | other != 0 {
            assert!(task.slices.is_done(ITEMS));
            task.check_done(1);
            task.check_done(one | other);
        }
    });
}

/// Races a CPU that stops a task and starts another against the slices of the one, and against a
/// CPU that does the slices of the other once no CPU is at work on the one. No slice of the one
/// follows.
#[test]
fn one_task_after_another() {
    check(3, || {
        let (first, second) = (Arc::new(Task::new()), Arc::new(Task::new()));
        first.start(1);
        let done = |task: &Task| task.items.each_ref().map(|item| item.load(Relaxed));

        let claimer = {
            let first = first.clone();
            thread::spawn(move || {
                first.advance();
            })
        };
        let follower = {
            let (first, second) = (first.clone(), second.clone());
            thread::spawn(move || {
                let follows = second.slices.has_more(ITEMS) && !first.slices.is_busy();
                follows.then(|| done(&first))
            })
        };
        first.slices.stop();
        second.start(1);
        let found = follower.join().unwrap();
        claimer.join().unwrap();
        assert!(
            found.is_none_or(|found| found == done(&first)),
            "both at once"
        );
    });
}

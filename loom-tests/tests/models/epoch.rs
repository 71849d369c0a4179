//! `epoch`: releases of the epoch's brake against each other.
#![expect(unsafe_code)]
// UNSAFETY: the brake is no atomic, so that loom notices two CPUs that set the brake at once.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_tests::check;
use vgic::internals::Releases;

/// A brake that is a flag, and the number of the release whose end the epoch has.
struct Brake {
    releases: Releases,
    own: UnsafeCell<(bool, u64)>,
}

impl Brake {
    /// Makes a brake that is on.
    fn new() -> Arc<Self> {
        Arc::new(Self {
            releases: Releases::default(),
            own: UnsafeCell::new((true, 0)),
        })
    }

    /// Sets the brake, or leaves that to another CPU.
    fn set(&self) {
        self.releases.settle(|numbers| {
            let on = numbers.begun == numbers.ended;
            // SAFETY: one CPU at a time sets the brake, and loom fails the model if two do.
            self.own.with_mut(|own| unsafe {
                (*own).0 = on;
                if !on && (*own).1 <= numbers.ended {
                    (*own).1 = numbers.begun;
                }
            });
        });
    }

    /// Begins a release.
    fn begin(&self) {
        self.releases.begin();
        self.set();
    }

    /// Ends the releases up to a number.
    fn end(&self, number: u64) {
        self.releases.end(number);
        self.set();
    }

    /// Returns true if the brake is on, and the number of the release whose end the epoch has. No
    /// CPU sets the brake.
    fn look(&self) -> (bool, u64) {
        // SAFETY: no CPU sets the brake, and loom fails the model if one does.
        self.own.with(|own| unsafe { *own })
    }
}

/// Races the end of a release against the begin of another. The brake stays off, and the epoch has
/// the end of the other.
#[test]
fn begin_against_end() {
    check(3, || {
        let brake = Brake::new();
        brake.begin();
        assert_eq!(brake.look(), (false, 1));

        let other = brake.clone();
        let other = thread::spawn(move || other.begin());
        brake.end(1);
        other.join().unwrap();

        assert_eq!(brake.look(), (false, 2));
        brake.end(2);
        assert!(brake.look().0);
    });
}

/// Races two begins, and the end that follows. The brake is on again in the end.
#[test]
fn begin_against_begin() {
    check(3, || {
        let brake = Brake::new();
        let other = brake.clone();
        let other = thread::spawn(move || other.begin());
        brake.begin();
        other.join().unwrap();

        let (on, first) = brake.look();
        assert!(!on && first >= 1);
        brake.end(first);
        if first == 1 {
            assert_eq!(brake.look(), (false, 2));
            brake.end(2);
        }
        assert!(brake.look().0, "the brake is off without a release");
    });
}

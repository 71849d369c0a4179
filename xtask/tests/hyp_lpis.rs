//! The hypervisor's treatment of LPIs that are enabled when it starts, on a model of `GICR_CTLR`.

#[path = "../../hyp/src/gic/left_on.rs"]
mod left_on;

use std::cell::Cell;

use left_on::{Control, Lpis, turn_off};

/// `GICR_CTLR`: `EnableLPIs`, `CES`, `RWP` and `DPG0`.
const ENABLE_LPIS: u32 = 1 << 0;
const CES: u32 = 1 << 1;
const RWP: u32 = 1 << 3;
const DPG0: u32 = 1 << 24;

/// Reads that the hypervisor waits for.
const PATIENCE: u32 = 100;

/// A redistributor's register.
struct Register {
    value: Cell<u32>,
    /// True if `EnableLPIs` stays set.
    keeps: bool,
    /// Reads for which a write is pending.
    delay: u32,
    pending: Cell<u32>,
    writes: Cell<u32>,
}

impl Register {
    fn new(value: u32, keeps: bool, delay: u32) -> Self {
        Self {
            value: Cell::new(value),
            keeps,
            delay,
            pending: Cell::new(0),
            writes: Cell::new(0),
        }
    }
}

impl Control for Register {
    fn read(&self) -> u32 {
        match self.pending.get() {
            0 => self.value.get(),
            left => {
                self.pending.set(left - 1);
                self.value.get() | RWP
            }
        }
    }

    fn write(&self, value: u32) {
        let kept = if self.keeps { ENABLE_LPIS } else { 0 };
        self.value.set(value | self.value.get() & (kept | CES));
        self.pending.set(self.delay);
        self.writes.set(self.writes.get() + 1);
    }

    fn wait(&self, done: impl Fn(u32) -> bool) -> bool {
        (0..PATIENCE).any(|_| done(self.read()))
    }
}

#[test]
fn lpis_that_are_off_are_left_alone() {
    let register = Register::new(DPG0 | CES, false, 0);
    assert_eq!(turn_off(&register), Lpis::Off);
    assert_eq!(register.writes.get(), 0);
}

#[test]
fn lpis_are_turned_off_with_and_without_the_promise() {
    for promise in [CES, 0] {
        for delay in [0, 1, PATIENCE - 1] {
            let register = Register::new(ENABLE_LPIS | DPG0 | promise, false, delay);
            let lpis = turn_off(&register);
            assert!(lpis == Lpis::TurnedOff && lpis.are_off());
            // The other bits are as before, and nothing is pending any more.
            assert_eq!(register.read(), DPG0 | promise);
        }
    }
}

#[test]
fn a_bit_that_stays_set_is_told() {
    let register = Register::new(ENABLE_LPIS, true, 3);
    let control = ENABLE_LPIS;
    let lpis = turn_off(&register);
    assert_eq!(lpis, Lpis::Stuck { control });
    assert!(
        !lpis.are_off()
            && lpis
                .to_string()
                .contains("cannot be disabled (GICR_CTLR 0x1)")
    );
}

#[test]
fn a_write_that_stays_pending_is_told() {
    let register = Register::new(ENABLE_LPIS | CES, false, u32::MAX);
    let control = CES | RWP;
    let lpis = turn_off(&register);
    assert_eq!(lpis, Lpis::Late { control });
    assert!(!lpis.are_off());
}

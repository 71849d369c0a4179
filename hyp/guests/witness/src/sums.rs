//! Arithmetic whose values live in floating-point registers for long, with a result that is always
//! the same.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use crate::fault;

/// Steps of a computation: some milliseconds of an emulated CPU.
const STEPS: u32 = 20_000;

/// Rest after a computation: others want the CPU, too.
const REST: Duration = Duration::from_millis(2);

/// Starts the thread that computes.
pub(crate) fn start() {
    thread::spawn(|| {
        let expected = compute();
        loop {
            let found = compute();
            if found != expected {
                return fault(format_args!("computed {found:?}, not {expected:?}"));
            }
            thread::sleep(REST);
        }
    });
}

/// Iterates a map in which the least difference grows.
fn compute() -> [f64; 4] {
    let mut values = black_box([0.1, 0.2, 0.3, 0.4]);
    for _ in 0..STEPS {
        for value in &mut values {
            *value = 3.9 * *value * (1.0 - *value);
        }
    }
    values
}

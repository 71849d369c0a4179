//! Work side by side, a few pieces at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail};

use crate::process::interrupted;

/// Returns the number of CPUs.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` for each item and its place, for so many items at a time, and returns the results in
/// the items' order. After an error, or when the process is asked to end, no work begins.
pub fn map<T: Sync, R: Send>(
    at_a_time: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R>>>> = Mutex::new(items.iter().map(|_| None).collect());
    let failed = || {
        let results = results.lock().expect("no work panics");
        results.iter().flatten().any(Result::is_err)
    };
    thread::scope(|scope| {
        for _ in 0..at_a_time.min(items.len()) {
            scope.spawn(|| {
                while !interrupted() && !failed() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else {
                        return;
                    };
                    let result = work(index, item);
                    results.lock().expect("no work panics")[index] = Some(result);
                }
            });
        }
    });
    if interrupted() {
        bail!("interrupted");
    }
    let results = results.into_inner().expect("no work panics");
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_items_order() {
        let doubled = map(2, &[3, 1, 2], |place, item| Ok((place, item * 2))).unwrap();
        assert_eq!(doubled, [(0, 6), (1, 2), (2, 4)]);
        let refused = map(2, &[3, 1, 2], |_, item| {
            anyhow::ensure!(*item != 1);
            Ok(())
        });
        assert!(refused.is_err());
    }
}

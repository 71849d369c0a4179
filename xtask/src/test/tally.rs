//! The number of test cases that passed and failed.

/// Test cases that passed and that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Cases that passed.
    pub(crate) passed: u64,
    /// Cases that failed.
    pub(crate) failed: u64,
}

impl Tally {
    /// Counts one test case.
    pub(crate) fn of(success: bool) -> Self {
        Self {
            passed: u64::from(success),
            failed: u64::from(!success),
        }
    }

    /// Adds another tally.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads the output of `cargo test`.
    ///
    /// Each test program sums up in a line `test result: ok. 3 passed; 1 failed; ...`. If cargo
    /// failed and no line counts a failure (something did not compile, a program crashed), that is
    /// one.
    pub(crate) fn of_cargo_test(printed: &str, success: bool) -> Self {
        let mut tally = Self::default();
        for line in printed.lines() {
            let Some((_, summary)) = line.split_once("test result: ") else {
                continue;
            };
            tally.passed += number_before(summary, " passed");
            tally.failed += number_before(summary, " failed");
        }
        if !success && tally.failed == 0 {
            tally.failed = 1;
        }
        tally
    }
}

/// Reads the number right before a word, 0 if there is none.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split_once(word).map_or("", |(before, _)| before);
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
running 2 tests
test a ... ok
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
noise test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn every_test_programs_summary_counts() {
        let tally = Tally::of_cargo_test(PRINTED, false);
        assert_eq!(
            tally,
            Tally {
                passed: 15,
                failed: 2
            }
        );
    }

    #[test]
    fn a_failure_without_a_summary_counts_as_one() {
        assert_eq!(
            Tally::of_cargo_test("error[E0308]", false),
            Tally {
                passed: 0,
                failed: 1
            }
        );
        let ok = "test result: ok. 4 passed; 0 failed;";
        assert_eq!(
            Tally::of_cargo_test(ok, false),
            Tally {
                passed: 4,
                failed: 1
            }
        );
        assert_eq!(
            Tally::of_cargo_test(ok, true),
            Tally {
                passed: 4,
                failed: 0
            }
        );
    }
}

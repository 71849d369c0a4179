//! `/proc/interrupts`: counts that only grow.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use crate::fault;

/// Counts of interrupts, at the last look.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// Counts of each CPU, by the first word of the row and its last.
    rows: BTreeMap<(String, String), Vec<u64>>,
}

impl Interrupts {
    /// Looks at the counts, and prints a fault for one that is less than before.
    pub(crate) fn look(&mut self) {
        let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let mut lines = text.lines();
        let cpus = lines.next().unwrap_or_default().split_whitespace().count();
        for line in lines {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let counts = words.clone().take(cpus);
            let counts: Vec<u64> = counts.map_while(|word| word.parse().ok()).collect();
            let key = (name.to_owned(), words.last().unwrap_or_default().to_owned());
            let before = self.rows.insert(key, counts.clone()).unwrap_or_default();
            for (cpu, (now, before)) in counts.iter().zip(before).enumerate() {
                if *now < before {
                    fault(format_args!("{name} CPU {cpu}: {now} after {before}"));
                }
            }
        }
        if self
            .rows
            .iter()
            .any(|((name, _), counts)| name == "Err:" && counts.iter().any(|it| *it > 0))
        {
            fault("an interrupt came that nobody handles");
        }
    }

    /// Returns the sum of the rows that `is_wanted` picks by their first and last word.
    fn sum(&self, is_wanted: impl Fn(&str, &str) -> bool) -> u64 {
        let rows = self.rows.iter();
        let rows = rows.filter(|((name, last), _)| is_wanted(name, last));
        rows.flat_map(|(_, counts)| counts).sum()
    }
}

impl fmt::Display for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ppi={} sgi={} spi={} lpi={}",
            self.sum(|_, last| last == "arch_timer"),
            self.sum(|name, _| name.starts_with("IPI")),
            self.sum(|_, last| last == "uart-pl011"),
            self.sum(|_, last| last.starts_with("virtio"))
        )
    }
}

//! Does one operation, or runs one load, for `perf stat` to count: the counters are on only while what is
//! measured runs, by perf's own control channel.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use perf_host::catalog;
use perf_host::operation::Entry;
use perf_host::threads::{self, Load};

/// Batches of an operation that are counted.
const ROUNDS: u64 = 100;
/// How long a load runs.
const TIME: Duration = Duration::from_millis(300);

/// Groups of loads that are ours.
const GROUPS: [&str; 3] = ["lpi_lookup", "inject_msi", "lpi_stress"];

/// The operations and loads that can be counted, ours only, a line each.
pub(crate) fn list(threads: usize) {
    for entry in catalog::all().iter().filter(|entry| entry.ours) {
        println!("{}", entry.name);
    }
    for (name, _) in loads(threads) {
        println!("{name}");
    }
}

fn loads(threads: usize) -> impl Iterator<Item = (String, Load)> {
    GROUPS.into_iter().flat_map(move |group| {
        let loads = threads::loads(group, threads).into_iter();
        loads
            .map(move |load| (format!("{group}/{}", load.name), load))
            .filter(|(name, _)| !name.contains("/borrowed/") || name.contains("/radix/"))
    })
}

/// What switching the counters itself costs, called like an operation.
const NOTHING: &str = "nothing";

/// Does what is called `name`, and prints how often it was done and how often the counters were switched on.
/// `switch` does that; without one, what runs is recorded as a whole.
pub(crate) fn run(name: &str, threads: usize, mut switch: Option<Switch>) -> io::Result<()> {
    let mut counted = |work: &mut dyn FnMut() -> u64| -> io::Result<u64> {
        if let Some(switch) = &mut switch {
            switch.say("enable")?;
        }
        let done = work();
        if let Some(switch) = &mut switch {
            switch.say("disable")?;
        }
        Ok(done)
    };
    if name == NOTHING {
        for _ in 0..ROUNDS {
            counted(&mut || 0)?;
        }
        println!("{ROUNDS} {ROUNDS}");
        return Ok(());
    }
    if let Some((_, load)) = loads(threads).find(|(other, _)| other == name) {
        let run = load.make();
        let done = counted(&mut || {
            let sample = run(TIME);
            sample.accepted.operations + sample.delivered.operations
        })?;
        println!("{done} 1");
        return Ok(());
    }
    let named = |entry: &Entry| entry.name == name;
    let Some(entry) = catalog::all().into_iter().find(named) else {
        return Err(io::Error::other(format!("nothing is called {name}")));
    };
    let mut operation = entry.make();
    // The first time, caches and the allocator's lists fill.
    operation.prepare();
    operation.run();
    for _ in 0..ROUNDS {
        operation.prepare();
        counted(&mut || {
            operation.run();
            0
        })?;
    }
    println!("{} {ROUNDS}", ROUNDS * entry.batch);
    Ok(())
}

/// The two pipes of `perf stat --control`.
pub(crate) struct Switch {
    control: File,
    acknowledged: File,
}

impl Switch {
    /// Opens them.
    pub(crate) fn open(control: &Path, acknowledged: &Path) -> io::Result<Self> {
        Ok(Self {
            control: OpenOptions::new().write(true).open(control)?,
            acknowledged: File::open(acknowledged)?,
        })
    }

    /// Sends a command and waits until perf has done it.
    fn say(&mut self, command: &str) -> io::Result<()> {
        self.control.write_all(format!("{command}\n").as_bytes())?;
        // "ack" with a line feed, and a zero since perf sends its string as it is.
        let mut answer = [0; 5];
        self.acknowledged.read_exact(&mut answer)
    }
}

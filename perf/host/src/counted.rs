//! One operation or load for `perf stat` to count. perf's control channel switches the counters on
//! for the measured part only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use perf_host::catalog;
use perf_host::operation::Entry;
use perf_host::threads::{self, Load};

/// Counted batches of an operation.
const ROUNDS: u64 = 100;
/// Duration of a load.
const TIME: Duration = Duration::from_millis(300);

/// Groups of the library's loads.
const GROUPS: [&str; 3] = ["lpi_lookup", "inject_msi", "lpi_stress"];

/// Lists the library's operations and loads, a line each.
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

/// Name of the empty operation, for the cost of switching the counters.
const NOTHING: &str = "nothing";

/// Runs the operation or load `name`. Prints the number of operations done and of times the
/// counters were switched on. Without a `switch`, the run is recorded as a whole.
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
    // The first batch fills the caches and the allocator's lists.
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
    /// Opens both pipes.
    pub(crate) fn open(control: &Path, acknowledged: &Path) -> io::Result<Self> {
        Ok(Self {
            control: OpenOptions::new().write(true).open(control)?,
            acknowledged: File::open(acknowledged)?,
        })
    }

    /// Sends a command and waits for perf's acknowledgement.
    fn say(&mut self, command: &str) -> io::Result<()> {
        self.control.write_all(format!("{command}\n").as_bytes())?;
        // "ack" with a line feed and a zero: perf sends its string with the terminator.
        let mut answer = [0; 5];
        self.acknowledged.read_exact(&mut answer)
    }
}

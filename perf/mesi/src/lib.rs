//! A directory of cache lines by the MESI protocol.
//!
//! Each CPU has a cache that never evicts a line: a line leaves a cache because another CPU writes
//! it, and for no other reason. So every fetch that the directory tells of is owed to sharing, and
//! none to the size of a cache.
//!
//! A line is in one of these states:
//!
//! | state | holders | fetched by a read | fetched by a write |
//! |---|---|---|---|
//! | invalid | none | from memory | from memory |
//! | shared | at least one | from memory | from a holder, or not at all, and taken from the others |
//! | exclusive | one, which has not written it | from the holder | from the holder |
//! | modified | one, which has written it | from the holder | from the holder |
//!
//! The directory is divided into shards with a lock each, so that several threads can use it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bytes of a line.
pub const LINE: u64 = 64;

/// Most CPUs.
pub const CPUS: usize = 128;

/// Shards: a power of two, more than there are threads at work.
const SHARDS: usize = 64;

/// Kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or an atomic read-modify-write.
    Write,
}

/// Consequence of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The CPU has the line, and needs no other CPU.
    Hit,
    /// The line comes from memory, and no other CPU loses it.
    Memory,
    /// Another CPU is involved.
    Transfer(Transfer),
}

/// Kind of a transfer between CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Transfer {
    /// A read of a line that another CPU has written.
    ReadModified,
    /// A read of a line that another CPU alone has, and has not written.
    ReadExclusive,
    /// A write of a line that another CPU alone has.
    Taken,
    /// A write of a line that other CPUs have read, and this one has not.
    Invalidated,
    /// A write of a line that this CPU and others have read: the others lose it, and no data moves.
    Upgraded,
}

impl Transfer {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::ReadModified,
        Self::ReadExclusive,
        Self::Taken,
        Self::Invalidated,
        Self::Upgraded,
    ];

    /// Returns the kind's name in the plugin's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadModified => "read-modified",
            Self::ReadExclusive => "read-exclusive",
            Self::Taken => "taken",
            Self::Invalidated => "invalidated",
            Self::Upgraded => "upgraded",
        }
    }
}

/// State of a line that some CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Shared,
    Exclusive,
    Modified,
}

/// A line that some CPU has.
///
/// # Invariants
/// `holders` is not empty. It is one CPU in the states exclusive and modified.
#[derive(Clone, Copy, Debug)]
struct Line {
    state: State,
    /// One bit for each CPU.
    holders: u128,
}

impl Line {
    /// Moves the line to its state after an access by a CPU other than its only holder.
    fn access(&mut self, cpu: u128, access: Access) -> Outcome {
        let others = self.holders & !cpu;
        let outcome = match (access, self.state) {
            (Access::Read, State::Shared) if self.holders & cpu != 0 => Outcome::Hit,
            (Access::Read, State::Shared) => Outcome::Memory,
            (Access::Read, State::Exclusive) => Outcome::Transfer(Transfer::ReadExclusive),
            (Access::Read, State::Modified) => Outcome::Transfer(Transfer::ReadModified),
            // The other holders read the line and lost interest in it: none can tell.
            (Access::Write, State::Shared) if others == 0 => Outcome::Hit,
            (Access::Write, State::Shared) if self.holders & cpu != 0 => {
                Outcome::Transfer(Transfer::Upgraded)
            }
            (Access::Write, State::Shared) => Outcome::Transfer(Transfer::Invalidated),
            (Access::Write, _) => Outcome::Transfer(Transfer::Taken),
        };

        *self = match access {
            Access::Read => Self {
                state: State::Shared,
                holders: self.holders | cpu,
            },
            Access::Write => Self {
                state: State::Modified,
                holders: cpu,
            },
        };
        outcome
    }
}

/// Lines of a shard, by number.
type Lines = HashMap<u64, Line>;

/// The directory.
pub struct Directory {
    shards: [Mutex<Lines>; SHARDS],
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Directory {
    /// Accesses the line with a number: an address divided by [`LINE`].
    ///
    /// # Panics
    /// If there is no such CPU.
    pub fn access(&self, cpu: usize, line: u64, access: Access) -> Outcome {
        let cpu = bit(cpu);
        let mut lines = self.lines(line);
        let Some(known) = lines.get_mut(&line) else {
            let state = match access {
                Access::Read => State::Exclusive,
                Access::Write => State::Modified,
            };
            let holders = cpu;
            lines.insert(line, Line { state, holders });
            return Outcome::Memory;
        };

        if known.holders == cpu && known.state != State::Shared {
            if access == Access::Write {
                known.state = State::Modified;
            }
            return Outcome::Hit;
        }
        known.access(cpu, access)
    }

    /// Returns true if any CPU has had the line.
    pub fn knows(&self, line: u64) -> bool {
        self.lines(line).contains_key(&line)
    }

    /// Locks the shard of a line.
    fn lines(&self, line: u64) -> std::sync::MutexGuard<'_, Lines> {
        let shard = &self.shards[line as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the bit of a CPU.
fn bit(cpu: usize) -> u128 {
    assert!(cpu < CPUS, "CPU {cpu} of {CPUS}");
    1 << cpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::{Read, Write};

    /// Counts the transfers of a sequence of accesses, each by a CPU to a line.
    fn transfers(accesses: impl IntoIterator<Item = (usize, u64, Access)>) -> usize {
        let directory = Directory::default();
        let outcomes = accesses
            .into_iter()
            .map(|(cpu, line, access)| directory.access(cpu, line, access));
        outcomes
            .filter(|outcome| matches!(outcome, Outcome::Transfer(_)))
            .count()
    }

    #[test]
    fn a_shared_counter_travels_once_for_each_change_of_the_cpu() {
        let ping_pong = (0..10).map(|turn| (turn % 2, 7, Write));
        assert_eq!(transfers(ping_pong), 9);
        let twice_each = (0..10).map(|turn| (turn / 2 % 2, 7, Write));
        assert_eq!(transfers(twice_each), 4);
    }

    #[test]
    fn counters_of_their_own_never_travel() {
        let counters = (0..100).map(|turn| (turn % 4, (turn % 4) as u64, Write));
        assert_eq!(transfers(counters), 0);
    }

    #[test]
    fn a_ticket_lock_has_four_transfers_for_each_handover() {
        // CPU n takes a ticket of line 0, reads in line 1 that it is served, writes the data in
        // line 2, and serves the next. Nobody waits.
        let turn = |cpu| {
            [
                (cpu, 0, Write),
                (cpu, 1, Read),
                (cpu, 2, Write),
                (cpu, 1, Write),
            ]
        };
        // Line 1 travels twice: the read fetches it from the CPU that has written it, and the write
        // takes it away from that CPU, which still has it.
        let turns = 10;
        let all = (0..turns).flat_map(|number| turn(number % 2));
        assert_eq!(transfers(all), 4 * (turns - 1));
    }

    #[test]
    fn readers_share_and_a_writer_invalidates() {
        let directory = Directory::default();
        assert_eq!(directory.access(0, 1, Read), Outcome::Memory);
        let exclusive = Outcome::Transfer(Transfer::ReadExclusive);
        assert_eq!(directory.access(1, 1, Read), exclusive);
        assert_eq!(directory.access(2, 1, Read), Outcome::Memory);
        assert_eq!(directory.access(1, 1, Read), Outcome::Hit);
        let upgraded = Outcome::Transfer(Transfer::Upgraded);
        assert_eq!(directory.access(1, 1, Write), upgraded);
        assert_eq!(directory.access(1, 1, Write), Outcome::Hit);
        let modified = Outcome::Transfer(Transfer::ReadModified);
        assert_eq!(directory.access(0, 1, Read), modified);
        assert_eq!(directory.access(1, 1, Read), Outcome::Hit);
        let invalidated = Outcome::Transfer(Transfer::Invalidated);
        assert_eq!(directory.access(2, 1, Write), invalidated);
        let taken = Outcome::Transfer(Transfer::Taken);
        assert_eq!(directory.access(1, 1, Write), taken);
    }

    #[test]
    fn a_line_that_one_cpu_has_read_is_its_own_to_write() {
        let accesses = [(0, 1, Read), (0, 1, Write), (0, 1, Read)];
        assert_eq!(transfers(accesses), 0);
    }

    #[test]
    fn lines_are_known_from_their_first_access_on() {
        let directory = Directory::default();
        assert!(!directory.knows(5));
        directory.access(0, 5, Read);
        assert!(directory.knows(5) && !directory.knows(5 + SHARDS as u64));
    }
}

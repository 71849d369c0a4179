//! The plugin's counts, added up by event.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::code::{self, Kind};
use super::event::Event;

/// The attribution of instructions to functions.
pub(crate) trait Attribute {
    /// Returns the owner of the instruction at an address.
    fn owner(&self, address: u64) -> Owner<'_>;

    /// Tells whether a run of instructions that begins at an address is the first of an exit from
    /// the guest.
    fn is_exit(&self, address: u64) -> bool;
}

/// The owner of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    /// True if it belongs to the virtual interrupt controller.
    pub(crate) vgic: bool,
    /// True if it is the controller's, or below an entry of the controller's by inlining. The
    /// plugin tells the instructions that are below an entry by a call.
    pub(crate) below: bool,
    /// The function, inlined ones included where that is known.
    pub(crate) function: &'a str,
    /// The functions of this checkout that it was inlined into.
    pub(crate) within: &'a [String],
    /// `file:line`, where that is known.
    pub(crate) line: &'a str,
}

/// The counts of some part of the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) instructions: u64,
    /// Accesses to system registers, `ICH_*` included.
    pub(crate) system_registers: u64,
    pub(crate) ich: u64,
    pub(crate) barriers: u64,
}

/// The counts of a function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function {
    /// True if it belongs to the virtual interrupt controller.
    pub(crate) vgic: bool,
    /// Its own instructions.
    pub(crate) tally: Tally,
    /// Those of them that are below an entry of the virtual interrupt controller.
    pub(crate) below: u64,
    /// Instructions of functions that were inlined into it.
    pub(crate) inlined: u64,
}

/// An instruction and the number of times that it was executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executed {
    pub(crate) word: u32,
    pub(crate) times: u64,
}

/// The cost of one event: sums over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) rounds: u64,
    pub(crate) exits: u64,
    /// The part of the virtual interrupt controller.
    pub(crate) vgic: Tally,
    /// The rest of the hypervisor.
    pub(crate) rest: Tally,
    /// All that is executed below an entry of the virtual interrupt controller, its own part
    /// included.
    pub(crate) inclusive: Tally,
    pub(crate) functions: BTreeMap<String, Function>,
    /// The instructions by address.
    pub(crate) code: BTreeMap<u64, Executed>,
}

impl Sums {
    /// Divides a sum by the number of rounds.
    pub(crate) fn each(&self, sum: u64) -> f64 {
        sum as f64 / self.rounds.max(1) as f64
    }
}

/// The cost of every event, by the event's number.
#[derive(Debug)]
pub(crate) struct Counts([Sums; Event::END]);

impl Counts {
    /// Reads the plugin's output, of one run or of several, in which every event was measured.
    pub(crate) fn read(text: &str, code: &impl Attribute) -> Result<Self> {
        let counts = Self::read_some(text, code)?;
        for event in Event::ALL {
            ensure!(counts.of(event).rounds != 0, "{event:?} was not measured");
        }
        Ok(counts)
    }

    /// Reads the plugin's output.
    pub(crate) fn read_some(text: &str, code: &impl Attribute) -> Result<Self> {
        let mut counts = Self(Default::default());
        for line in text.lines() {
            let bad = || format!("unexpected line: {line}");
            match line.split_once(' ') {
                Some(("event", rest)) => counts.add_event(rest).with_context(bad)?,
                Some(("code", rest)) => counts.add_code(rest, code).with_context(bad)?,
                _ => anyhow::bail!(bad()),
            }
        }
        Ok(counts)
    }

    /// Returns the sums of an event.
    pub(crate) fn of(&self, event: Event) -> &Sums {
        &self.0[event as usize]
    }

    /// Makes counts of one round of each event, with this number of instructions.
    #[cfg(test)]
    pub(super) fn of_all(instructions: u64) -> Self {
        let mut counts = Self(Default::default());
        for sums in &mut counts.0 {
            sums.rounds = 1;
            sums.rest.instructions = instructions;
        }
        counts
    }

    /// Returns the sums of the event with this number.
    fn sums(&mut self, number: &str) -> Result<&mut Sums> {
        let number: usize = number.parse()?;
        self.0.get_mut(number).context("no such event")
    }

    /// Reads a line `event NUMBER ROUNDS`.
    fn add_event(&mut self, line: &str) -> Result<()> {
        let (number, rounds) = line.split_once(' ').context("no rounds")?;
        let rounds: u64 = rounds.parse()?;
        self.sums(number)?.rounds += rounds;
        Ok(())
    }

    /// Reads a line `code ADDRESS WORD... : NUMBER=TIMES/BELOW...`.
    fn add_code(&mut self, line: &str, code: &impl Attribute) -> Result<()> {
        let (place, counts) = line.split_once(" : ").context("no counts")?;
        let mut place = place.split(' ');
        let address = u64::from_str_radix(place.next().context("no address")?, 16)?;
        let words: Vec<u32> = place
            .map(|word| u32::from_str_radix(word, 16))
            .collect::<Result<_, _>>()?;
        for count in counts.split(' ') {
            let (number, times) = count.split_once('=').context("no number")?;
            let (times, below) = times.split_once('/').context("no number below")?;
            let (times, below): (u64, u64) = (times.parse()?, below.parse()?);
            let sums = self.sums(number)?;
            if code.is_exit(address) {
                sums.exits += times;
            }
            for (&word, at) in words.iter().zip((address..).step_by(4)) {
                sums.add(at, word, times, below, code.owner(at));
            }
        }
        Ok(())
    }
}

impl Sums {
    /// Adds executions of one instruction, of which `below` were below the virtual interrupt
    /// controller by a call.
    fn add(&mut self, address: u64, word: u32, times: u64, below: u64, owner: Owner<'_>) {
        let below = if owner.below { times } else { below };
        self.inclusive.add(word, below);
        let part = if owner.vgic {
            &mut self.vgic
        } else {
            &mut self.rest
        };
        part.add(word, times);
        if !self.functions.contains_key(owner.function) {
            self.functions
                .insert(owner.function.to_owned(), Function::default());
        }
        if let Some(function) = self.functions.get_mut(owner.function) {
            function.vgic = owner.vgic;
            function.tally.add(word, times);
            function.below += below;
        }
        for function in owner.within {
            // `vgic` is set by the first instruction of its own, if there is any.
            self.functions.entry(function.clone()).or_default().inlined += times;
        }
        let executed = Executed { word, times: 0 };
        self.code.entry(address).or_insert(executed).times += times;
    }
}

impl Tally {
    /// Adds executions of an instruction.
    fn add(&mut self, word: u32, times: u64) {
        self.instructions += times;
        match code::kind(word) {
            Kind::Ich => {
                self.ich += times;
                self.system_registers += times;
            }
            Kind::SystemRegister => self.system_registers += times,
            Kind::Barrier => self.barriers += times,
            Kind::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Split;

    impl Attribute for Split {
        fn owner(&self, address: u64) -> Owner<'_> {
            let vgic = (0x1004..0x1100).contains(&address);
            let function = if vgic { "fold" } else { "vectors" };
            Owner {
                vgic,
                below: vgic,
                function,
                within: &[],
                line: "",
            }
        }

        fn is_exit(&self, address: u64) -> bool {
            address == 0x1000
        }
    }

    fn complete(more: &str) -> String {
        let numbers = 1..Event::END;
        let events: String = numbers
            .map(|number| format!("event {number} 2\n"))
            .collect();
        events + more
    }

    #[test]
    fn instructions_are_added_up_by_event_owner_and_kind() {
        let text = complete("code 1000 d503201f d53ccba0 d5033f9f : 1=4/0 2=1/1\n");
        let counts = Counts::read(&text, &Split).unwrap();
        let sums = counts.of(Event::Hypercall);
        let vgic = Tally {
            instructions: 8,
            system_registers: 4,
            ich: 4,
            barriers: 4,
        };
        let rest = Tally {
            instructions: 4,
            ..Tally::default()
        };
        assert_eq!((sums.exits, sums.vgic, sums.rest), (4, vgic, rest));
        assert_eq!(sums.each(sums.vgic.instructions), 4.0);
        assert_eq!(sums.functions["fold"].tally, vgic);
        assert_eq!(sums.code[&0x1004].times, 4);
        assert_eq!(sums.inclusive, vgic);
        assert_eq!(counts.of(Event::Read).vgic.instructions, 2);
        assert_eq!(counts.of(Event::Read).inclusive.instructions, 3);
        assert_eq!(counts.of(Event::Read).functions["vectors"].below, 1);
        assert!(counts.of(Event::Enable).code.is_empty());
    }

    #[test]
    fn lines_that_the_plugin_does_not_write_are_refused() {
        assert!(Counts::read("", &Split).is_err(), "nothing was measured");
        assert!(Counts::read(&complete("code x : 1=1/0\n"), &Split).is_err());
        assert!(Counts::read(&complete("code 10 1 : 99=1/0\n"), &Split).is_err());
        assert!(Counts::read(&complete("code 10 1 : 1=1\n"), &Split).is_err());
        assert!(Counts::read(&complete("other\n"), &Split).is_err());
    }
}

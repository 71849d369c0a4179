//! The argument string: `victim seconds=5 seed=1`.

/// Role of the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The guest measures its own interrupts.
    Victim,
    /// The guest attacks.
    Attacker,
}

/// Parsed arguments.
pub(crate) struct Arguments {
    pub(crate) role: Role,
    /// Duration of the measurement, in seconds.
    pub(crate) seconds: u64,
    /// Seed of the random numbers.
    pub(crate) seed: u64,
}

impl Arguments {
    /// Parses the string.
    ///
    /// # Panics
    /// If a word is unknown.
    pub(crate) fn parse(text: &str) -> Self {
        let mut arguments = Self {
            role: Role::Victim,
            seconds: 5,
            seed: 1,
        };
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                None if word == "victim" => arguments.role = Role::Victim,
                None if word == "attacker" => arguments.role = Role::Attacker,
                Some(("seconds", value)) => arguments.seconds = number(value),
                Some(("seed", value)) => arguments.seed = number(value),
                _ => panic!("unknown argument {word}"),
            }
        }
        arguments
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

//! The argument string: `victim seconds=5 seed=1`.

/// What the guest is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Measures its own interrupts.
    Victim,
    /// Attacks.
    Attacker,
}

/// What the guest is told.
pub(crate) struct Arguments {
    pub(crate) role: Role,
    /// How long to measure.
    pub(crate) seconds: u64,
    /// Of the random numbers.
    pub(crate) seed: u64,
}

impl Arguments {
    /// Reads the string.
    ///
    /// # Panics
    /// At a word that it does not know.
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

//! The longest stay at EL2, where instructions are counted.

use serde_json::{Map, Value};

/// Instructions that the hypervisor may execute from an exit to the next entry, whatever the guest
/// does; SECURITY.md promises this.
pub(super) const BOUND: u64 = 1_000_000;

/// The longest stay that the hypervisor saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct El2Time {
    /// Its length: nanoseconds, of which an instruction takes one.
    pub(super) instructions: u64,
    /// The longest stay that is allowed.
    bound: u64,
    /// The cause of the exit.
    pub(super) about: String,
}

object!(El2Time {
    instructions,
    bound,
    about,
});

impl El2Time {
    /// Finds the longest stay in the hypervisor's report.
    pub(super) fn read(report: &Map<String, Value>) -> Option<Self> {
        let reported = report.get("longest_el2_time")?;
        let number = |name: &str| reported.get(name)?.as_u64();
        Some(Self {
            instructions: number("ns")?,
            bound: BOUND,
            about: about(number("syndrome")?, number("address")?),
        })
    }

    /// Describes how the stay exceeds the bound, if it does.
    pub(super) fn fault(&self) -> Option<String> {
        let Self {
            instructions,
            bound,
            about,
        } = self;
        (instructions > bound).then(|| {
            format!(
                "{instructions} instructions at EL2 from an exit ({about}) to the next entry, more \
                 than {bound}"
            )
        })
    }
}

/// Describes a trap by its `ESR_EL2`. After an interrupt, that is the trap before.
fn about(syndrome: u64, address: u64) -> String {
    const DATA_ABORT: u64 = 0x24;
    const SYSTEM_REGISTER: u64 = 0x18;
    const HYPERCALL: u64 = 0x16;
    match syndrome >> 26 & 0x3f {
        DATA_ABORT if syndrome & 1 << 6 != 0 => format!("after a write of {address:#x}"),
        DATA_ABORT => format!("after a read of {address:#x}"),
        SYSTEM_REGISTER => "after an access to a system register".to_owned(),
        HYPERCALL => "after a call".to_owned(),
        class => format!("after a trap of class {class:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(ns: u64) -> Option<El2Time> {
        let text = format!(
            "{{\"longest_el2_time\":{{\"ns\":{ns},\"syndrome\":{},\"address\":4096}}}}",
            0x9380_0046_u64
        );
        El2Time::read(&serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_stay_is_held_against_the_bound() {
        assert_eq!(stay(BOUND).unwrap().fault(), None);
        let fault = stay(BOUND + 1).unwrap().fault().unwrap();
        assert!(fault.contains("a write of 0x1000"), "{fault}");
    }

    #[test]
    fn a_report_without_one_has_none() {
        assert_eq!(El2Time::read(&Map::new()), None);
    }
}

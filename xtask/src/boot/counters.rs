//! The hypervisor's counts: the line `@vgic {...}` that it prints when the guest powers off.

use serde_json::{Map, Value};

use super::kinds::PerKind;

/// The beginning of the line.
const PREFIX: &str = "@vgic ";

/// The counts that the checks use, as `vgic::trace` defines them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Interrupts made pending.
    pub(crate) injections: PerKind,
    /// Injections that merged with a pending state.
    pub(crate) coalesced: PerKind,
    /// Pending states that the guest acknowledged.
    pub(crate) deliveries: PerKind,
    /// Pending states that went away before the guest acknowledged them.
    pub(crate) withdrawn: PerKind,
    /// Pending states that were left when the guest powered off.
    pub(crate) pending: PerKind,
    pub(crate) lookups: u64,
    pub(crate) lookup_locks_taken: u64,
    pub(crate) mapping_gets: u64,
    pub(crate) mapping_puts: u64,
    pub(crate) migration_gets: u64,
    pub(crate) migration_puts: u64,
    pub(crate) list_gets: u64,
    pub(crate) list_puts: u64,
    pub(crate) ich_lr_writes: u64,
    pub(crate) refs_at_teardown: u64,
    /// Stays of virtual PEs on CPUs.
    pub(crate) vpe_residencies: u64,
    /// Doorbells of virtual PEs.
    pub(crate) doorbells: u64,
    /// Events that became direct, and direct ones that ceased to be.
    pub(crate) direct_begins: u64,
    pub(crate) direct_ends: u64,
    /// Changes of direct injection that the hypervisor made.
    pub(crate) direct_changes: u64,
    /// Aborted accesses of devices, if the machine has an SMMU.
    pub(crate) dma_faults: Option<u64>,
}

/// The whole report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported {
    /// The counts that the checks use.
    pub(crate) counters: Counters,
    /// Every entry of the report, those counts included.
    pub(crate) everything: Map<String, Value>,
}

/// Reads the hypervisor's line; returns `None` for any other line.
pub(crate) fn parse(line: &str) -> Option<Result<Reported, String>> {
    let (_, json) = line.split_once(PREFIX)?;
    let read = serde_json::from_str::<Map<String, Value>>(json);
    let read = read.map_err(|error| error.to_string());
    Some(read.and_then(|everything| {
        Ok(Reported {
            counters: Counters::read(&everything)?,
            everything,
        })
    }))
}

impl Counters {
    /// Finds the counts in a report. A count that is missing is an error, not a zero.
    fn read(report: &Map<String, Value>) -> Result<Self, String> {
        let kinds = |name| report.get(name).and_then(PerKind::read);
        let kinds = |name| kinds(name).ok_or_else(|| format!("no counts of {name} by kind"));
        let number = |name| report.get(name).and_then(Value::as_u64);
        let number = |name| number(name).ok_or_else(|| format!("no count of {name}"));
        Ok(Self {
            injections: kinds("injections")?,
            coalesced: kinds("coalesced")?,
            deliveries: kinds("deliveries")?,
            withdrawn: kinds("withdrawn")?,
            pending: kinds("pending")?,
            lookups: number("lookups")?,
            lookup_locks_taken: number("lookup_locks_taken")?,
            mapping_gets: number("mapping_gets")?,
            mapping_puts: number("mapping_puts")?,
            migration_gets: number("migration_gets")?,
            migration_puts: number("migration_puts")?,
            list_gets: number("list_gets")?,
            list_puts: number("list_puts")?,
            ich_lr_writes: number("ich_lr_writes")?,
            refs_at_teardown: number("refs_at_teardown")?,
            vpe_residencies: number("vpe_residencies")?,
            doorbells: number("doorbells")?,
            direct_begins: number("direct_begins")?,
            direct_ends: number("direct_ends")?,
            direct_changes: number("direct_changes")?,
            dma_faults: report.get("dma_faults").and_then(Value::as_u64),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LINE: &str = "@vgic {\
        \"injections\":{\"sgi\":110,\"ppi\":205,\"spi\":30,\"lpi\":46},\
        \"coalesced\":{\"sgi\":4,\"ppi\":0,\"spi\":0,\"lpi\":5},\
        \"deliveries\":{\"sgi\":104,\"ppi\":203,\"spi\":30,\"lpi\":40},\
        \"withdrawn\":{\"sgi\":0,\"ppi\":2,\"spi\":0,\"lpi\":1},\
        \"pending\":{\"sgi\":2,\"ppi\":0,\"spi\":0,\"lpi\":0},\
        \"lookups\":50,\"lookup_locks_taken\":0,\"mapping_gets\":9,\"mapping_puts\":9,\
        \"migration_gets\":3,\"migration_puts\":3,\
        \"list_gets\":300,\"list_puts\":300,\"ich_lr_writes\":400,\"refs_at_teardown\":0,\
        \"vpe_residencies\":0,\"doorbells\":0,\"direct_begins\":0,\"direct_ends\":0,\
        \"direct_changes\":0,\
        \"dma_faults\":2,\"exits\":{\"irq\":7,\"wfi\":3}}";

    #[test]
    fn counts_and_the_rest_are_read() {
        let Reported {
            counters,
            everything,
        } = parse(LINE).unwrap().unwrap();
        assert_eq!(
            counters.deliveries,
            PerKind {
                sgi: 104,
                ppi: 203,
                spi: 30,
                lpi: 40
            }
        );
        assert_eq!(counters.list_gets, 300);
        assert_eq!(everything["exits"]["wfi"], 3);
    }

    #[test]
    fn a_missing_count_is_an_error_not_a_zero() {
        let torn = LINE.replace("\"list_puts\":300,", "");
        let error = parse(&torn).unwrap().unwrap_err();
        assert!(error.contains("list_puts"), "{error}");
        assert!(parse(&LINE[..200]).unwrap().is_err());
        assert!(parse("[    0.1] something else").is_none());
    }
}

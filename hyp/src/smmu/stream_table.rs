//! The stream table: an entry for each StreamID (IHI 0070, 3.3 and 5.2).
//!
//! StreamIDs of PCI functions are requester IDs: the upper bits are a bus. The table has two
//! levels. The second level's tables have an entry for each function of one bus. All buses share
//! one of these tables, until a stream of a bus is attached apart; then the bus gets a copy of its
//! own. An SMMU with few StreamIDs has the shared table alone.

use alloc::collections::BTreeMap;

use aarch64_cpu::registers::Writeable;

use super::registers::{Registers, TableFormat};
use crate::memory::dma::DmaTables;
use crate::memory::table::Table;

/// StreamID bits that the second level resolves: the device and function of a requester ID.
const SPLIT: u32 = 8;

/// Most StreamID bits of the table: those of a PCI segment's requester IDs.
const MOST_BITS: u32 = 16;

/// Double words of an entry.
const WORDS: usize = 8;

/// Stream table entry (STE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry([u64; WORDS]);

impl Entry {
    const VALID: u64 = 1;

    /// Entry of a stream that is not attached: all its transactions are aborted. `STE.Config` is 0.
    pub(super) const ABORT: Self = Self([Self::VALID, 0, 0, 0, 0, 0, 0, 0]);

    /// Returns the entry of a stream that is translated by stage 2. `output` is the code of the
    /// SMMU's output address size.
    pub(super) fn stage2(tables: &DmaTables, output: u64) -> Self {
        /// `STE.Config`: stage 1 bypassed, stage 2 translates.
        const STAGE_2: u64 = 0b110 << 1;
        /// `STE.SHCFG`: the shareability that comes with the transaction.
        const INCOMING: u64 = 1 << 44;
        // Offsets in the third double word. The fields up to `S2PS` are those of `VTCR_EL2`.
        const S2T0SZ: u32 = 32;
        const S2SL0: u32 = 38;
        const S2IR0: u32 = 40;
        const S2OR0: u32 = 42;
        const S2SH0: u32 = 44;
        const S2PS: u32 = 48;
        /// AArch64 tables.
        const S2AA64: u64 = 1 << 51;
        /// No access flag faults.
        const S2AFFD: u64 = 1 << 53;
        /// Record faults.
        const S2R: u64 = 1 << 58;
        /// Write-back, allocate on reads and writes.
        const WRITE_BACK: u64 = 1;
        const INNER_SHAREABLE: u64 = 3;

        let control = u64::from(64 - tables.bits()) << S2T0SZ
            | (2 - tables.level() as u64) << S2SL0
            | WRITE_BACK << S2IR0
            | WRITE_BACK << S2OR0
            | INNER_SHAREABLE << S2SH0
            | output << S2PS
            | S2AA64
            | S2AFFD
            | S2R;
        let vmid = u64::from(tables.vmid());
        Self([
            Self::VALID | STAGE_2,
            INCOMING,
            control | vmid,
            tables.root(),
            0,
            0,
            0,
            0,
        ])
    }

    /// Writes the entry to `table`, but for its first double word.
    fn write_tail(&self, table: &Table, index: usize) {
        for (word, value) in self.0.into_iter().enumerate().skip(1) {
            table.write_word(index * WORDS + word, value);
        }
    }

    /// Writes the entry's first double word, which has its kind, to `table`.
    fn write_head(&self, table: &Table, index: usize) {
        table.write_word(index * WORDS, self.0[0]);
    }
}

/// The stream table.
pub(super) struct StreamTable {
    /// StreamID bits.
    bits: u32,
    /// Table of level 1, unless the table is linear.
    level_1: Option<Table>,
    /// Second level of all buses without one of their own, or the linear table.
    shared: Table,
    /// Second level of other buses.
    own: BTreeMap<usize, Table>,
}

impl StreamTable {
    /// Returns a table that aborts every stream, for an SMMU with `sid_size` StreamID bits.
    ///
    /// # Panics
    /// If `two_levels` is false, and one level does not do. Every SMMU with more than 64 streams
    /// takes two levels.
    pub(super) fn new(sid_size: u32, two_levels: bool) -> Self {
        let bits = sid_size.min(MOST_BITS);
        let shared = new_level_2(bits.min(SPLIT));
        let level_1 = (bits > SPLIT).then(|| {
            assert!(two_levels, "the SMMU takes no stream table of two levels");
            let count = 1 << (bits - SPLIT);
            let level_1 = Table::new(count * size_of::<u64>(), count * size_of::<u64>());
            for bus in 0..count {
                level_1.write_word(bus, descriptor(&shared));
            }
            level_1
        });
        Self {
            bits,
            level_1,
            shared,
            own: BTreeMap::new(),
        }
    }

    /// Makes the SMMU, which is disabled, use the table.
    pub(super) fn install(&self, registers: &Registers) {
        const READ_ALLOCATE: u64 = 1 << 62;
        let (table, format) = match &self.level_1 {
            Some(level_1) => (level_1, TableFormat::FMT::TwoLevel),
            None => (&self.shared, TableFormat::FMT::Linear),
        };
        registers.strtab_base.set(READ_ALLOCATE | table.physical());
        registers
            .strtab_base_cfg
            .write(format + TableFormat::SPLIT.val(SPLIT) + TableFormat::LOG2SIZE.val(self.bits));
    }

    /// Returns true if the table has an entry for the stream.
    pub(super) fn contains(&self, stream: u32) -> bool {
        stream >> self.bits == 0
    }

    /// Makes the entry of a stream of the table abort. `forget` makes the SMMU forget the old
    /// entry.
    pub(super) fn abort(&mut self, stream: u32, forget: impl FnOnce()) {
        let (table, index) = self.place(stream);
        Entry::ABORT.write_head(table, index);
        forget();
    }

    /// Sets the entry of a stream of the table, which aborts. `forget` makes the SMMU forget the
    /// old entry, and is called after each step: the SMMU reads an entry's double words in any
    /// order, and may have cached some.
    pub(super) fn set(&mut self, stream: u32, entry: Entry, mut forget: impl FnMut()) {
        let (table, index) = self.place(stream);
        entry.write_tail(table, index);
        forget();
        entry.write_head(table, index);
        forget();
    }

    /// Sets the entries of all streams, which abort. The steps are those of [`Self::set`].
    pub(super) fn set_all(&self, entry: Entry, mut forget: impl FnMut()) {
        let tables = || self.own.values().chain([&self.shared]);
        let count = 1 << self.bits.min(SPLIT);
        tables().for_each(|table| (0..count).for_each(|index| entry.write_tail(table, index)));
        forget();
        tables().for_each(|table| (0..count).for_each(|index| entry.write_head(table, index)));
        forget();
    }

    /// Returns the table and the index of a stream's entry, in a table of the bus' own.
    fn place(&mut self, stream: u32) -> (&Table, usize) {
        let index = stream as usize & ((1 << SPLIT) - 1);
        let Some(level_1) = &self.level_1 else {
            return (&self.shared, index);
        };
        let bus = stream as usize >> SPLIT;
        let shared = &self.shared;
        let own = self.own.entry(bus).or_insert_with(|| {
            let own = new_level_2(SPLIT);
            for word in 0..WORDS << SPLIT {
                own.write_word(word, shared.read_word(word));
            }
            level_1.write_word(bus, descriptor(&own));
            own
        });
        (own, index)
    }
}

/// Returns a table of 2^`bits` entries that abort.
fn new_level_2(bits: u32) -> Table {
    let bytes = (WORDS << bits) * size_of::<u64>();
    let table = Table::new(bytes, bytes);
    (0..1 << bits).for_each(|index| Entry::ABORT.write_head(&table, index));
    table
}

/// Returns the descriptor of level 1 for a table of level 2.
fn descriptor(table: &Table) -> u64 {
    /// Number of StreamID bits, plus one (`L1STD.Span`).
    const SPAN: u64 = SPLIT as u64 + 1;
    table.physical() | SPAN
}

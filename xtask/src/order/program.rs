//! The instructions of an ELF file by address, with its functions and branches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

use super::instruction::Instruction;

/// Bytes of an instruction.
pub(super) const INSTRUCTION: u64 = 4;

/// A program.
pub(super) struct Program {
    /// Address of the first instruction.
    base: u64,
    /// Instructions, one behind the other; `None` for data between them.
    instructions: Vec<Option<Instruction>>,
    /// Symbols among the instructions: functions, and labels of assembly.
    functions: BTreeMap<u64, String>,
    /// Targets of direct branches.
    targets: BTreeSet<u64>,
    /// Places that no direct branch leads to, and that no instruction falls into.
    unreached: BTreeSet<u64>,
    /// Functions whose address is in a register or in memory, for a call by `BLR` or `BR`.
    pointed_at: BTreeSet<u64>,
}

impl Program {
    /// Reads a program of A64.
    pub(super) fn parse(elf: &[u8]) -> Result<Self> {
        let file = object::File::parse(elf).context("not an ELF file")?;
        let sections = || file.sections().filter(|section| section.size() != 0);
        let code = || sections().filter(|section| section.kind() == SectionKind::Text);
        let ranges: Vec<Range<u64>> = code()
            .map(|section| section.address()..section.address() + section.size())
            .collect();

        let mut functions = BTreeMap::new();
        // By the mapping symbols of the ABI: true where data begins, false where instructions do.
        let mut is_data = BTreeMap::new();
        for symbol in file.symbols() {
            let (name, address) = (symbol.name()?, symbol.address());
            if !ranges.iter().any(|range| range.contains(&address)) {
                continue;
            }
            match name.as_bytes() {
                [b'$', b'd', ..] => _ = is_data.insert(address, true),
                [b'$', ..] => _ = is_data.insert(address, false),
                _ => _ = functions.insert(address, name.to_owned()),
            }
        }

        let mut words = BTreeMap::new();
        for section in code() {
            let data = section.data()?;
            for (address, word) in (section.address()..).step_by(4).zip(data.chunks_exact(4)) {
                let kind = is_data.range(..=address).next_back();
                if !kind.is_some_and(|(_, &is_data)| is_data) {
                    words.insert(address, u32::from_le_bytes(word.try_into()?));
                }
            }
        }

        let mut program = Self::new(words, functions);
        let constants = sections().filter(|section| {
            matches!(
                section.kind(),
                SectionKind::Data | SectionKind::ReadOnlyData
            )
        });
        for section in constants {
            for pointer in section.data()?.chunks_exact(8) {
                program.point_at(u64::from_le_bytes(pointer.try_into()?));
            }
        }
        Ok(program)
    }

    /// Makes a program of instruction words by address, and functions.
    pub(super) fn new(words: BTreeMap<u64, u32>, functions: BTreeMap<u64, String>) -> Self {
        let mut program = Self {
            base: words.keys().next().copied().unwrap_or(0),
            instructions: Vec::new(),
            functions,
            targets: BTreeSet::new(),
            unreached: BTreeSet::new(),
            pointed_at: BTreeSet::new(),
        };
        for (&address, &word) in &words {
            let index = program.index(address);
            program.instructions.resize(index, None);
            program.instructions.push(Some(Instruction::decode(word)));
        }
        program.targets = (program.instructions())
            .filter_map(|(address, instruction)| {
                Some(address.wrapping_add_signed(instruction.target()?))
            })
            .collect();
        program.unreached = (program.instructions())
            .filter(|(_, instruction)| instruction.is_last())
            .map(|(address, _)| address + INSTRUCTION)
            .filter(|&next| !program.is_target(next) && program.at(next).is_some())
            .collect();
        for address in formed_addresses(&words) {
            program.point_at(address);
        }
        program
    }

    /// Notes that there is a pointer to `address`, if a function begins there.
    fn point_at(&mut self, address: u64) {
        if self.functions.contains_key(&address) {
            self.pointed_at.insert(address);
        }
    }

    /// Returns the place of the instruction at `address` among all instructions.
    pub(super) fn index(&self, address: u64) -> usize {
        (address.wrapping_sub(self.base) / INSTRUCTION) as usize
    }

    /// Returns the number of instructions, with the data between them.
    pub(super) fn length(&self) -> usize {
        self.instructions.len()
    }

    /// Returns the instruction at `address`.
    pub(super) fn at(&self, address: u64) -> Option<Instruction> {
        *self.instructions.get(self.index(address))?
    }

    /// Returns all instructions, by address.
    pub(super) fn instructions(&self) -> impl Iterator<Item = (u64, Instruction)> {
        let addresses = (self.base..).step_by(INSTRUCTION as usize);
        let all = addresses.zip(&self.instructions);
        all.filter_map(|(address, instruction)| Some((address, (*instruction)?)))
    }

    /// Returns true if a branch, or a call, may lead to `address`.
    pub(super) fn is_target(&self, address: u64) -> bool {
        self.targets.contains(&address) || self.functions.contains_key(&address)
    }

    /// Returns the addresses of the functions, and of all other code that no branch is seen to lead
    /// to: exception vectors, arms of jump tables.
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        let functions = self.functions.keys();
        functions.chain(&self.unreached).copied()
    }

    /// Returns the functions that `BLR` and `BR` may call.
    pub(super) fn pointed_at(&self) -> &BTreeSet<u64> {
        &self.pointed_at
    }

    /// Returns true if the `BR` of register `register` at `address` is that of a jump table: an
    /// `ADD` has computed its target.
    pub(super) fn is_jump_table(&self, address: u64, register: u8) -> bool {
        self.at(address.wrapping_sub(INSTRUCTION)) == Some(Instruction::Add(register))
    }

    /// Returns the arms of the jump tables of the function around `address`: the places that no
    /// branch is seen to lead to, and that no instruction falls into. Arms that other code shares
    /// are missing: the walk goes there by that code alone.
    pub(super) fn arms(&self, address: u64) -> impl Iterator<Item = u64> {
        let start = self.functions.range(..=address).next_back();
        let end = self.functions.range(address + 1..).next();
        let start = start.map_or(self.base, |(&start, _)| start);
        let end = end.map_or(u64::MAX, |(&end, _)| end);
        self.unreached.range(start..end).copied()
    }

    /// Returns the name of the function around `address`.
    pub(super) fn function_name(&self, address: u64) -> &str {
        let function = self.functions.range(..=address).next_back();
        function.map_or("?", |(_, name)| name)
    }
}

/// Returns the addresses that instructions form: by `ADR`, or by `ADRP` and `ADD`.
fn formed_addresses(words: &BTreeMap<u64, u32>) -> Vec<u64> {
    let mut formed = Vec::new();
    let mut pages = [None; 32];
    for (&address, &word) in words {
        let register = (word & 0x1f) as usize;
        let source = (word >> 5 & 0x1f) as usize;
        let high = ((word << 8).cast_signed() >> 13) << 2;
        let offset = i64::from(high | (word >> 29 & 3).cast_signed());
        match word & 0x9f00_0000 {
            0x1000_0000 => formed.push(address.wrapping_add_signed(offset)),
            0x9000_0000 => {
                let page = address >> 12;
                pages[register] = Some(page.wrapping_add_signed(offset) << 12);
            }
            _ if word & 0xffc0_0000 == 0x9100_0000 => {
                let low = u64::from(word >> 10 & 0xfff);
                formed.extend(pages[source].map(|page: u64| page.wrapping_add(low)));
            }
            _ => {}
        }
    }
    formed
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a program of functions, each a name and its words, one behind the other.
    pub(in super::super) fn program(functions: &[(&str, &[u32])]) -> Program {
        let (mut words, mut names) = (BTreeMap::new(), BTreeMap::new());
        let mut address = 0x1000;
        for (name, body) in functions {
            names.insert(address, (*name).to_owned());
            for word in *body {
                words.insert(address, *word);
                address += INSTRUCTION;
            }
        }
        Program::new(words, names)
    }

    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;

    #[test]
    fn pointers_to_functions_are_found() {
        // adrp x0, 0x1000; add x1, x0, #8
        let pointing: &[u32] = &[0x9000_0000, 0x9100_2001];
        let program = program(&[("f", pointing), ("g", &[RET]), ("h", &[RET])]);
        assert_eq!(program.pointed_at().iter().collect::<Vec<_>>(), [&0x1008]);
    }

    #[test]
    fn code_without_a_branch_to_it_is_a_start() {
        let program = program(&[("f", &[NOP, RET, NOP, RET])]);
        assert_eq!(program.starts().collect::<Vec<_>>(), [0x1000, 0x1008]);
    }

    #[test]
    fn a_jump_table_leads_to_what_nothing_falls_into() {
        // br x0; two arms of nop, ret
        let program = program(&[("f", &[0xd61f_0000, NOP, RET, NOP, RET]), ("g", &[RET])]);
        let arms: Vec<_> = program.arms(0x1000).collect();
        assert_eq!(arms, [0x1004, 0x100c]);
    }
}

//! The map of the code that runs at EL2: its functions, and the parts of the virtual interrupt
//! controller.
//!
//! The map is a text, a fact in each line, in any order:
//! * `stack BYTES`: the size of the stacks, a power of two; each lies at a multiple of it;
//! * `vectors ADDRESS`: the table of vectors for exceptions that are taken from EL2;
//! * `function ADDRESS NAME`: the begin of a function;
//! * `vgic START END`: code of the virtual interrupt controller.

use std::num::ParseIntError;

/// Offsets of the vectors for exceptions from EL2 with `SP_EL2`, in a table of vectors.
const FROM_EL2: std::ops::Range<u64> = 0x200..0x400;

/// Bytes of a vector, and of a table of vectors.
const VECTOR: u64 = 0x80;
const VECTORS: u64 = 0x800;

/// A map of the code.
#[derive(Debug, Default)]
pub(crate) struct CodeMap {
    /// Number of low address bits that are inside a stack.
    stack_bits: u32,
    vectors: u64,
    /// Sorted starts of functions.
    functions: Vec<u64>,
    /// Sorted ranges of code, which do not overlap.
    vgic: Vec<(u64, u64)>,
}

impl CodeMap {
    /// Reads a map. Returns the first line that is not understood as an error.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut map = Self::default();
        for line in text.lines() {
            let known = map.add(line).map_err(|error| format!("{line}: {error}"))?;
            if !known {
                return Err(format!("{line}: no such fact"));
            }
        }

        map.functions.sort_unstable();
        map.vgic.sort_unstable();
        if map.stack_bits == 0 || map.vectors == 0 || map.functions.is_empty() {
            return Err("stacks, vectors or functions are missing".to_owned());
        }
        Ok(map)
    }

    /// Adds the fact in a line. Returns false if there is none.
    fn add(&mut self, line: &str) -> Result<bool, ParseIntError> {
        let hex = |word: &str| u64::from_str_radix(word, 16);
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["stack", bytes] => self.stack_bits = hex(bytes)?.trailing_zeros(),
            ["vectors", address] => self.vectors = hex(address)?,
            ["function", address, _] => self.functions.push(hex(address)?),
            ["vgic", start, end] => self.vgic.push((hex(start)?, hex(end)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Tells whether an instruction is the virtual interrupt controller's.
    pub(crate) fn is_vgic(&self, address: u64) -> bool {
        let after = self.vgic.partition_point(|range| range.0 <= address);
        after
            .checked_sub(1)
            .is_some_and(|at| address < self.vgic[at].1)
    }

    /// Tells whether a branch from `address` to `target` enters another function.
    pub(crate) fn enters_function(&self, address: u64, target: u64) -> bool {
        let after = self.functions.partition_point(|&start| start <= address);
        let own = after.checked_sub(1).map(|at| self.functions[at]);
        own != Some(target) && self.functions.binary_search(&target).is_ok()
    }

    /// Tells whether an instruction is the first of a vector for exceptions from EL2.
    pub(crate) fn is_vector(&self, address: u64) -> bool {
        may_be_vector(address) && address - address % VECTORS == self.vectors
    }

    /// Returns the number of the stack that a stack pointer is in. The pointer of an empty stack is
    /// the stack's end.
    pub(crate) fn stack(&self, pointer: u64) -> u64 {
        pointer.wrapping_sub(1) >> self.stack_bits
    }
}

/// Tells whether an address may be the first of a vector for exceptions from EL2: tables of vectors
/// lie at multiples of their size.
pub(crate) const fn may_be_vector(address: u64) -> bool {
    let offset = address % VECTORS;
    offset.is_multiple_of(VECTOR) && FROM_EL2.start <= offset && offset < FROM_EL2.end
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "stack 4000\nfunction 1000 a\nfunction 1100 b\nvgic 1100 1180\n\
                        vgic 1080 1084\nvectors 2000\n";

    #[test]
    fn code_has_owners_and_functions() {
        let map = CodeMap::read(TEXT).unwrap();
        assert!(map.is_vgic(0x1080) && !map.is_vgic(0x1084) && map.is_vgic(0x117c));
        assert!(!map.is_vgic(0x1180) && !map.is_vgic(0));
        assert!(map.enters_function(0x1000, 0x1100) && map.enters_function(0x1100, 0x1000));
        assert!(!map.enters_function(0x1104, 0x1100), "a loop");
        assert!(
            !map.enters_function(0x1000, 0x1104),
            "not a function's begin"
        );
    }

    #[test]
    fn vectors_are_those_for_exceptions_from_el2() {
        let map = CodeMap::read(TEXT).unwrap();
        assert!(map.is_vector(0x2200) && map.is_vector(0x2380));
        assert!(
            !map.is_vector(0x2180) && !map.is_vector(0x2400),
            "of other levels"
        );
        assert!(!map.is_vector(0x2204) && !map.is_vector(0x2a00));
    }

    #[test]
    fn an_empty_stack_is_the_stack_below() {
        let map = CodeMap::read(TEXT).unwrap();
        assert_eq!(map.stack(0x8000), map.stack(0x4010));
        assert_ne!(map.stack(0x8000), map.stack(0x8010));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "stack 4000\n", "stack x\n", "other 1\n", "vgic 1\n"] {
            assert!(CodeMap::read(text).is_err(), "{text}");
        }
    }
}

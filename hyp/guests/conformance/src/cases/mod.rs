//! The cases, a file for each topic.

mod extended;
mod features;
mod ident;
mod interface;
mod its;
mod its_errors;
mod kvm;
mod lpi;
mod mixed;
mod overflow;
mod registers;
mod routing;
mod sgi;
mod spi;
mod step;
mod storm;
mod tables;
mod thousand;
mod timer;
mod two_its;
mod unknown;
mod worst;

use crate::harness::{Case, NotPassed};
use crate::machine::Machine;

/// All cases, by topic.
pub(crate) const ALL: &[&[Case]] = &[
    ident::CASES,
    features::CASES,
    step::CASES,
    unknown::CASES,
    registers::CASES,
    sgi::CASES,
    spi::CASES,
    routing::CASES,
    extended::REGISTERS,
    extended::CASES,
    timer::VIRTUAL,
    timer::PHYSICAL,
    timer::CASES,
    interface::CASES,
    overflow::FIVE,
    overflow::SIXTEEN,
    overflow::SIXTY_FOUR,
    overflow::TWO_HUNDRED,
    thousand::CASES,
    mixed::CASES,
    its::CASES,
    its_errors::CASES,
    lpi::CASES,
    tables::CASES,
    two_its::CASES,
    storm::CASES,
    worst::CASES,
];

/// Case that some bits of a register read as given.
macro_rules! reads {
    ($name:literal, $rule:literal, $frame:ident, $offset:expr, $mask:expr, $value:expr) => {
        Case::new($name, $rule, |m| {
            equal($rule, read_32(m.$frame($offset)) & $mask, $value)
        })
    };
}
use reads;

/// Returns the base of the ITS, or skips the case if the machine has none.
fn gits(machine: &Machine) -> Result<usize, NotPassed> {
    machine
        .gits
        .ok_or(NotPassed::Skipped("the machine has no ITS"))
}

impl Machine {
    /// Returns the address of a register of CPU 0's redistributor.
    fn gicr_0(&self, offset: usize) -> usize {
        self.gicr(0, offset)
    }

    /// Returns the address of a register of CPU 0's SGIs and PPIs.
    fn sgi_0(&self, offset: usize) -> usize {
        self.sgi_base(0, offset)
    }
}

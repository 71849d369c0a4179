//! The cases, a file for each topic.

mod banked;
mod full;
mod group;
mod ident;
mod interface;
mod messages;
mod random;
mod reserved;
mod sgi;
mod sgi_sources;
mod spi;
mod targets;
mod timer;
mod width;

use crate::harness::Case;

/// All cases, by topic.
pub(crate) const ALL: &[&[Case]] = &[
    ident::CASES,
    ident::AT_RESET,
    reserved::CASES,
    banked::CASES,
    width::CASES,
    targets::CASES,
    sgi::CASES,
    sgi_sources::CASES,
    spi::CASES,
    timer::VIRTUAL,
    timer::PHYSICAL,
    timer::CASES,
    interface::CASES,
    group::CASES,
    full::EIGHT,
    full::SIXTEEN,
    full::FORTY,
    full::CASES,
    messages::CASES,
    random::CASES,
];

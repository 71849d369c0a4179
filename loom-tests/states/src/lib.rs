//! States of a VM on more CPUs than loom explores.
//!
//! A scenario is some CPUs at work together, each with a program without an end.
//! [stateright](https://docs.rs/stateright) visits every state that they can reach, in whatever
//! order their steps come. A step is one access to a word that CPUs share, one section under the
//! lock of an ap_list, or one action of a guest or of the embedder. An access calls the library:
//! the library's type is made from the value in the state, and the value is read back.
//!
//! The programs are written again from the library's functions, which the modules name. The
//! interrupts, the list registers and the free list are sets. All accesses are sequentially
//! consistent.
//!
//! | module | content |
//! |---|---|
//! | `scenario` | the CPUs of a scenario, and the deliberate faults |
//! | `state` | a state: the words, and the place of each CPU in its program |
//! | `program` | the places, and the steps |
//! | `owner`, `producer`, `writer`, `teardown`, `deferred` | the programs |
//! | `properties` | properties of every state, and situations that have to be among the states |

mod deferred;
mod owner;
mod producer;
mod program;
mod properties;
mod scenario;
mod state;
mod teardown;
mod writer;

pub use scenario::{Fault, Role, Scenario};

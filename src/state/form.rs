//! The form of a [`VmState`] in `serde`: that of its version.
//!
//! A binary form does not tell which fields are there. The version, which comes first, does: the
//! fields of [`VERSION`] are followed by nothing, so that a state of that version has the bytes
//! from before there were others.

use alloc::vec::Vec;
use core::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::state::{ExtendedState, ItsState, LpiState, SpiState, VERSION, VcpuState, VmState};

/// The names of the fields, in the order of a binary form.
const FIELDS: &[&str] = &[
    "version",
    "group_enables",
    "propbaser",
    "spis",
    "vcpus",
    "lpis",
    "its",
    "extended",
];

impl<'de> Deserialize<'de> for VmState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("VmState", FIELDS, Reader)
    }
}

/// The reader of the fields.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = VmState;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the state of a VM's interrupt controller")
    }

    /// Reads the fields of a form without names.
    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<VmState, A::Error> {
        let version = next(&mut fields, 0)?;
        Ok(VmState {
            version,
            group_enables: next(&mut fields, 1)?,
            propbaser: next(&mut fields, 2)?,
            spis: next(&mut fields, 3)?,
            vcpus: next(&mut fields, 4)?,
            lpis: next(&mut fields, 5)?,
            its: next(&mut fields, 6)?,
            extended: if version == VERSION {
                ExtendedState::default()
            } else {
                next(&mut fields, 7)?
            },
        })
    }

    /// Reads the fields of a form with names.
    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<VmState, A::Error> {
        let Named {
            version,
            group_enables,
            propbaser,
            spis,
            vcpus,
            lpis,
            its,
            extended,
        } = Named::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(VmState {
            version,
            group_enables,
            propbaser,
            spis,
            vcpus,
            lpis,
            its,
            extended,
        })
    }
}

/// Returns the next field, which is number `place`.
fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(
    fields: &mut A,
    place: usize,
) -> Result<T, A::Error> {
    let found = fields.next_element()?;
    found.ok_or_else(|| Error::invalid_length(place, &Reader))
}

/// The fields of a form with names. Those of a later version may be missing.
#[derive(serde::Deserialize)]
struct Named {
    version: u16,
    group_enables: u32,
    propbaser: u64,
    spis: Vec<SpiState>,
    vcpus: Vec<VcpuState>,
    lpis: Vec<LpiState>,
    its: Vec<ItsState>,
    #[serde(default)]
    extended: ExtendedState,
}

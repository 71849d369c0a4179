//! Seeds for the random number generators of guests. They are expanded from the seed that the boot
//! loader passes in the machine's device tree.

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use spin::{Mutex, Once};

/// Property of `/chosen` with a seed.
pub(crate) const PROPERTY: &str = "rng-seed";

/// A seed.
pub(crate) type Seed = [u8; 32];

static GENERATOR: Once<Mutex<ChaCha20Rng>> = Once::new();

/// Returns the first bytes of the tree's seed, if there are enough.
pub(super) fn read(tree: &Fdt<'_>) -> Option<Seed> {
    let seed = tree.find_node("/chosen")?.property(PROPERTY)?;
    seed.value().first_chunk().copied()
}

/// Sets the boot loader's seed.
pub(crate) fn init(seed: Seed) {
    GENERATOR.call_once(|| Mutex::new(ChaCha20Rng::from_seed(seed)));
}

/// Returns a new seed, if the boot loader has passed one.
pub(crate) fn seed() -> Option<Seed> {
    let mut seed = Seed::default();
    GENERATOR.get()?.lock().fill_bytes(&mut seed);
    Some(seed)
}

//! Prints the deliberate faults available in this build of the library.

fn main() {
    #[cfg(all(loom, vgic_mutants))]
    loom_tests::list();
}

//! Prints the deliberate faults of the library that this build can make.

fn main() {
    #[cfg(all(loom, vgic_mutants))]
    loom_tests::list();
}

//! Tells the linker where the program lies in memory.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let directory =
            env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's directory");
        println!("cargo:rustc-link-arg-bins=-T{directory}/link.ld");
    }
}

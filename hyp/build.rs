//! Tells the linker where the hypervisor's image lies in memory.

use std::env;

fn main() {
    let script = "link.ld";
    println!("cargo:rerun-if-changed={script}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let directory =
            env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's directory");
        println!("cargo:rustc-link-arg-bins=-T{directory}/{script}");
        // Sections end at multiples of 4 KiB; a larger page could span two of them.
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }
}

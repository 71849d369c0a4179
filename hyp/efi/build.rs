//! Names the hypervisor's flat image, which the application contains.

use std::env;

/// The variable with the path of the image: `cargo xtask image` sets it.
const IMAGE: &str = "HYP_IMAGE";

fn main() {
    println!("cargo:rerun-if-env-changed={IMAGE}");
    let image = env::var(IMAGE).unwrap_or_else(|_| {
        panic!("{IMAGE} is not set: `cargo xtask image` builds hyp.efi with the hypervisor in it")
    });
    println!("cargo:rerun-if-changed={image}");
    println!("cargo:rustc-env={IMAGE}={image}");
}

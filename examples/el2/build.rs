fn main() {
    println!("cargo:rustc-link-arg-bins=--image-base=0x40200000");
    println!("cargo:rustc-link-arg-bins=--entry=boot");
}

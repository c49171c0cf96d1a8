//! Has the linker pack what a position-independent program relocates at its start: 0.7 MiB less of the program, all of which
//! the start would read. The loader knows the packed form since glibc 2.36 (`DT_RELR`), so it is used where that is at hand.

#![expect(clippy::disallowed_methods, reason = "cargo tells a build script by the environment what it builds for")]

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let gnu = |name: &str| var(name).is_ok_and(|value| value == "gnu");
    let native = matches!((var("HOST"), var("TARGET")), (Ok(host), Ok(target)) if host == target);
    if native && gnu("CARGO_CFG_TARGET_ENV") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's glibc, where it tells.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

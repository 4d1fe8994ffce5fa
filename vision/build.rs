//! Compiles what calls libtorch by itself, and tells the linker where libtorch will be found when this package's binary,
//! tests and examples start.
//!
//! `torch-sys` tells cargo where to *link* from, but link arguments do not travel to the packages that depend on it,
//! so the run path is set here. It holds, in this order, what an installed command needs and what a build tree has:
//! beside the binary, `../lib/tidemill` from the binary, and the libtorch of the build. They are written as RUNPATH
//! (`--enable-new-dtags`), which `LD_LIBRARY_PATH` overrules: a libtorch with CUDA can be put in front at run time.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_LIB");

    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo:rerun-if-changed=src/fused.cpp");

    fused();
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN:$ORIGIN/../lib/tidemill");
    let root = env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH"));
    if let Some(root) = root.map(PathBuf::from) {
        let lib = root.join("lib");
        let lib = lib.canonicalize().unwrap_or(lib);
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}

/// Where the headers are, and by which names of C++'s library, is asked as `torch-sys` asks.
fn fused() {
    let root = env::var_os("LIBTORCH_INCLUDE").or_else(|| env::var_os("LIBTORCH"));
    let root = root.map_or_else(|| PathBuf::from("/usr"), PathBuf::from);
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        // Its headers are not ours to warn about.
        .flag(format!("-isystem{}", root.join("include").display()))
        .file("src/fused.cpp")
        .compile("tidemill_fused");
}

//! The command `tidemill`, without libtorch: it starts in milliseconds.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill_cli::main(None)
}

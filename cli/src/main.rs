//! The command `tidemill`, without libtorch: it starts in milliseconds.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The system clears a page of 2 MiB whole, whatever of it is used, and the allocator has four of them touched before a command
/// knows what it is to do. So the system is told before there is an allocator.
#[used]
#[expect(unsafe_code, reason = "what runs before `main` is found by the name of its section")]
// SAFETY: of this section the C library calls each function once, before `main`; this one makes two system calls.
#[unsafe(link_section = ".init_array.00100")]
static BEFORE_MAIN: extern "C" fn() = tidemill_cli::without_large_pages;

fn main() -> ExitCode {
    tidemill_cli::main(None)
}

//! The program `larder-loader`. Everything it does is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder_loader::cli::main()
}

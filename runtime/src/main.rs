//! `lfm-run`: runs `.lfmb` bundles on the device.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}

//! Writing for people: errors with their causes, sizes, progress.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints an error and what caused it.
pub(crate) fn error(error: &(dyn Error + 'static)) {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    let mut last = error.to_string();
    while let Some(error) = cause {
        // A transparent wrapper says what its source says.
        if error.to_string() != last {
            text.push_str(&format!("cause: {error}\n"));
        }
        last = error.to_string();
        cause = error.source();
    }
    // Nothing can be done when stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints a line on stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A progress bar in bytes, on a terminal; nothing elsewhere.
pub(crate) fn bytes_bar(message: &'static str) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(message)
}

/// `4.73 GB`, in decimal units.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.2} {name}", bytes as f64 / unit),
        None => format!("{bytes} B"),
    }
}

//! The demo checkpoint.

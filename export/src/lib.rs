//! Placeholder.
pub mod quantize;
pub mod capture;
pub mod lower;

//! The ahead-of-time compiler: a burn model and its checkpoint go in, a bundle comes out.
//!
//! ```text
//! burn module ─capture→ operations ─lower→ Graph ─passes→ fused Graph ─bundle→ storage, plan, weights, one file
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`capture`] | a module → its operations with symbolic sizes, without a weight in memory |
//! | [`lower`] | burn's operations → core operations |
//! | [`passes`] | rewrites, one a file, verified after each |
//! | [`graph`] | configuration → graph at any stage, with the number of fusions asserted |
//! | [`gguf`] | GGUF files as a source, block by block |
//! | [`quantize`] | f32 rows → canonical rows of a format; recipes; random weights |
//! | [`bundle`] | source → bundle file |
//! | [`mod@compare`] | every node of a run against the burn model |
//! | [`mod@diff`] | what two bundles or graphs have not in common |

pub mod bundle;
pub mod capture;
pub mod compare;
pub mod diff;
pub mod gguf;
pub mod graph;
pub mod lower;
pub mod passes;
pub mod quantize;

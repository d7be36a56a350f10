//! The lean executor of `.lfmb` bundles: open one, make a session, take tokens in, get logits out.
//!
//! ```no_run
//! # fn main() -> Result<(), lfm_runtime::Error> {
//! use lfm_runtime::{Model, Options};
//!
//! let model = Model::open("model.lfmb")?;
//! let mut session = model.session(&Options::default())?;
//! let logits = session.prefill(&[1, 6, 98])?;
//! println!("{} logits", logits.len());
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`model`] | a bundle: mapped, verified, its steps resolved |
//! | `paging` | the same with less memory than the weights take (feature `paging`) |
//! | [`session`] | states, arena and threads of one conversation |
//! | [`generate`] | token after token, by a sampler, until something ends it |
//! | [`sample`] | from logits to the next token |
//! | [`golden`] | runs that must give the same bits on every machine |
//! | [`proof`] | what can be proved about a bundle |
//! | `signature` | who vouches for it (feature `sign`) |
//! | [`perplexity`], [`mod@bench`] | how good and how fast a model is |
//! | [`profile`] | where its time goes |
//! | [`machine`] | what this runs on |
//! | [`text`] | tokenizer and chat template (feature `text`) |
//! | [`cpu`] | kernels and thread pool |
//! | `gpu` | the same on Vulkan, Metal and DX12 devices (feature `wgpu`) |
//!
//! Nothing is allocated while tokens are computed, after the first.

pub mod bench;
pub mod cpu;
mod error;
mod exec;
mod few;
pub mod generate;
pub mod golden;
#[cfg(feature = "wgpu")]
pub mod gpu;
pub mod machine;
pub mod model;
pub mod paging;
pub mod perplexity;
pub mod profile;
pub mod proof;
pub mod sample;
pub mod session;
#[cfg(feature = "sign")]
pub mod signature;
#[cfg(feature = "text")]
pub mod text;

pub use error::{Error, Result};
#[cfg(feature = "observe")]
pub use exec::NodeRows;
pub use exec::Route;
pub use generate::{Finish, Generation, Limits};
pub use model::{GenerationDefaults, Model};
pub use paging::Budget;
pub use session::{Backend, Options, Session, Start};

//! Flags of how tokens are chosen.

use clap::Args;
use lfm_runtime::sample::Settings;

/// How tokens are chosen; what is absent is as the checkpoint recommends.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling [default: as the checkpoint recommends]")]
pub(crate) struct SamplingOptions {
    /// Always the most likely token, other settings neutral
    #[arg(long, conflicts_with_all = ["temperature", "min_p", "top_p", "top_k"])]
    greedy: bool,
    /// Divides logits; 0 is greedy
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Least share of the best token's probability; 0 is off
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Probability that the kept tokens reach together; 1 is off
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Most tokens that are kept; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Divides positive logits of tokens that have occurred and multiplies others; 1 is off
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingOptions {
    /// The settings: flags win over `defaults`.
    pub(crate) fn settings(&self, defaults: &Settings) -> Settings {
        let greedy = Settings::greedy();
        let base = if self.greedy { &greedy } else { defaults };
        Settings {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            seed: self.seed,
        }
    }
}

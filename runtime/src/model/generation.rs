//! What a checkpoint recommends for generation.

use lfm_graphs::bundle::Kind;
use serde::Deserialize;

use super::Model;
use crate::error::{Error, Result};
use crate::sample::Settings;

/// The fields of `generation_config.json` that count; others are other programs' business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    eos_token_id: Option<Ids>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

/// How a model wants to be sampled, and where its answers end.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationDefaults {
    /// How tokens are chosen.
    pub settings: Settings,
    /// Ids that end an answer; empty where the section does not say.
    pub stop: Vec<u32>,
}

impl Default for GenerationDefaults {
    /// What the publisher of the LFM2 models recommends.
    fn default() -> GenerationDefaults {
        let settings =
            Settings { temperature: 0.3, min_p: 0.15, repetition_penalty: 1.05, ..Settings::default() };
        GenerationDefaults { settings, stop: Vec::new() }
    }
}

impl GenerationDefaults {
    /// Reads a `generation_config.json`. One that says nothing about sampling leaves the recommended settings; in
    /// one that does, what is absent is neutral.
    fn parse(json: &[u8]) -> std::result::Result<GenerationDefaults, String> {
        let section: Section = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let Section { do_sample, temperature, top_k, top_p, min_p, repetition_penalty, eos_token_id } =
            section;
        let stop = match eos_token_id {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
        };
        let silent = temperature.is_none()
            && top_k.is_none()
            && top_p.is_none()
            && min_p.is_none()
            && repetition_penalty.is_none();
        let neutral = Settings::default();
        let settings = match do_sample {
            Some(false) => Settings::greedy(),
            Some(true) | None if silent => GenerationDefaults::default().settings,
            Some(true) | None => Settings {
                temperature: temperature.unwrap_or(neutral.temperature),
                top_k: top_k.unwrap_or(neutral.top_k),
                top_p: top_p.unwrap_or(neutral.top_p),
                min_p: min_p.unwrap_or(neutral.min_p),
                repetition_penalty: repetition_penalty.unwrap_or(neutral.repetition_penalty),
                seed: neutral.seed,
            },
        };
        settings.check().map_err(|e| e.to_string())?;
        Ok(GenerationDefaults { settings, stop })
    }
}

impl Model {
    /// The generation defaults, from section `generation`; those recommended for LFM2 where there is none.
    ///
    /// # Errors
    /// When the section is malformed.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults> {
        let Some(json) = self.section(Kind::Generation) else { return Ok(GenerationDefaults::default()) };
        GenerationDefaults::parse(json).map_err(|fault| Error::Unsound {
            path: self.path().to_path_buf(),
            section: "generation",
            faults: vec![fault],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> GenerationDefaults {
        GenerationDefaults::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_the_section_says_counts() {
        let found = parse(r#"{"do_sample": true, "temperature": 0.7, "top_k": 50, "eos_token_id": 7}"#);
        let expected = Settings { temperature: 0.7, top_k: 50, ..Settings::default() };
        assert_eq!(found, GenerationDefaults { settings: expected, stop: vec![7] });
        assert_eq!(parse(r#"{"min_p": 0.5, "eos_token_id": [7, 2]}"#).stop, [7, 2]);
        assert_eq!(parse(r#"{"do_sample": false, "temperature": 0.7}"#).settings, Settings::greedy());
    }

    #[test]
    fn a_section_without_sampling_leaves_the_recommendation() {
        let found = parse(r#"{"bos_token_id": 1, "do_sample": true, "transformers_version": "5"}"#);
        assert_eq!(found, GenerationDefaults::default());
    }

    #[test]
    fn faults_are_named() {
        let fault = |json: &str| GenerationDefaults::parse(json.as_bytes()).unwrap_err();
        assert_eq!(fault(r#"{"top_p": 1.5}"#), "--top-p 1.5: expected 0 < p <= 1");
        assert!(fault(r#"{"eos_token_id": -1}"#).contains("Ids"));
        assert!(fault("[").starts_with("EOF"));
    }
}

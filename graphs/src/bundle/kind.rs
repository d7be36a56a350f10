//! The sections a bundle can have: their names, order, alignment and caps.

use std::fmt;

/// Largest text section that describes code or vocabulary: graph, plan, tokenizer.
const LARGE: u64 = 64 << 20;
/// Largest other text section.
const SMALL: u64 = 4 << 20;
/// Largest golden section. It is the one section whose parsed form can be larger than its text.
const GOLDEN: u64 = 1 << 20;

/// What a section holds. The order of the variants is the order of the sections in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who made the bundle from what: RON of [`Manifest`](super::Manifest).
    Manifest,
    /// The fused graph: canonical RON.
    Graph,
    /// The memory plan and the place of every weight: RON.
    Plan,
    /// The device profile that the weights are packed for: RON.
    Target,
    /// The tokenizer, `tokenizer.json` byte for byte.
    Tokenizer,
    /// The Jinja chat template, as the checkpoint has it.
    ChatTemplate,
    /// Special tokens and other settings of the text side.
    TextConfig,
    /// Default sampling settings.
    Generation,
    /// Licence text of the checkpoint.
    Licence,
    /// What the export was asked for: RON of [`Request`](super::Request).
    Request,
    /// All weights, packed; opaque to this module.
    Weights,
    /// Expected tokens and logits: RON of [`Golden`](super::Golden). Last, because it is computed by running
    /// the sections before it.
    Golden,
}

impl Kind {
    /// Every kind, in file order.
    pub const ALL: [Self; 12] = [
        Self::Manifest,
        Self::Graph,
        Self::Plan,
        Self::Target,
        Self::Tokenizer,
        Self::ChatTemplate,
        Self::TextConfig,
        Self::Generation,
        Self::Licence,
        Self::Request,
        Self::Weights,
        Self::Golden,
    ];

    /// The name in the section table and in errors: at most 16 bytes of ASCII.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Graph => "graph",
            Self::Plan => "plan",
            Self::Target => "target",
            Self::Tokenizer => "tokenizer",
            Self::ChatTemplate => "chat_template",
            Self::TextConfig => "text_config",
            Self::Generation => "generation",
            Self::Licence => "licence",
            Self::Request => "request",
            Self::Weights => "weights",
            Self::Golden => "golden",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Bytes that the section's offset is a multiple of; a power of two.
    pub const fn alignment(self) -> u64 {
        match self {
            Self::Weights => 4096,
            Self::Manifest
            | Self::Graph
            | Self::Plan
            | Self::Target
            | Self::Tokenizer
            | Self::ChatTemplate
            | Self::TextConfig
            | Self::Generation
            | Self::Licence
            | Self::Request
            | Self::Golden => 64,
        }
    }

    /// Most bytes that the section may have.
    pub const fn cap(self) -> u64 {
        match self {
            Self::Graph | Self::Plan | Self::Tokenizer => LARGE,
            Self::Manifest
            | Self::Target
            | Self::ChatTemplate
            | Self::TextConfig
            | Self::Generation
            | Self::Licence
            | Self::Request => SMALL,
            Self::Golden => GOLDEN,
            Self::Weights => u64::MAX,
        }
    }

    /// Whether the section must be UTF-8.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Tokenizer | Self::Weights)
    }

    /// Whether a bundle without the section is an error.
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Manifest | Self::Graph | Self::Plan | Self::Target | Self::Weights)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_the_canonical_order_and_names_fit_the_table() {
        assert!(Kind::ALL.is_sorted());
        for kind in Kind::ALL {
            assert!(kind.name().len() <= super::super::header::NAME_LEN, "{kind}");
            assert!(kind.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{kind}");
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert!(kind.alignment().is_power_of_two(), "{kind}");
        }
        assert_eq!(Kind::from_name("Manifest"), None);
        assert_eq!(Kind::from_name(""), None);
    }
}

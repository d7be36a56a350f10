//! Which weight gets which format.
//!
//! | recipe | matrices, experts | embedding and tied head | router, convolution kernels, vectors |
//! |---|---|---|---|
//! | `q4_0` (default) | q4_0 | q6_k, or q8_0 where K % 256 != 0 | f32 |
//! | `q8_0` | q8_0 | f16 | f32 |
//! | `q6_k` | q6_k, or q8_0 where K % 256 != 0 | the same | f32 |
//! | `f16` | f16 | f16 | f32 |
//! | `f32` | f32 | f32 | f32 |
//!
//! A GGUF file has the formats that it has, q4_k and q5_k among them; the recipe of its bundle has the name of the one
//! that most of its matrices have.
//!
//! The router is never quantised: a flipped expert is a different model. In `q8_0`, whose point is to be close to the
//! original, the embedding stays in f16: its error goes through every layer, and eight bits there cost as much
//! accuracy as eight bits everywhere else (a third of the error of a small mixture's logits).

use std::fmt;
use std::str::FromStr;

use lfm_graphs::weights::Format;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::is_made;

/// What a weight is used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WeightRole {
    /// Token embedding, also the output matrix where the two are tied.
    Embedding,
    /// A matrix that every token is multiplied with.
    Matrix,
    /// The matrices of a mixture's experts.
    Expert,
    /// The matrix that scores the experts.
    Router,
    /// A depthwise convolution kernel.
    ConvKernel,
    /// A norm weight or a bias.
    Vector,
}

/// A choice of formats, named after that of its matrices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipe {
    matrices: Format,
}

impl WeightRole {
    /// Every role, in declaration order.
    pub const ALL: [WeightRole; 6] = [
        WeightRole::Embedding,
        WeightRole::Matrix,
        WeightRole::Expert,
        WeightRole::Router,
        WeightRole::ConvKernel,
        WeightRole::Vector,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            WeightRole::Embedding => "embedding",
            WeightRole::Matrix => "matrix",
            WeightRole::Expert => "expert",
            WeightRole::Router => "router",
            WeightRole::ConvKernel => "conv_kernel",
            WeightRole::Vector => "vector",
        }
    }
}

impl Recipe {
    /// The recipe whose matrices have this format.
    pub const fn new(matrices: Format) -> Recipe {
        Recipe { matrices }
    }

    /// The format of a weight with `k` elements per row.
    pub const fn format_for(self, role: WeightRole, k: usize) -> Format {
        match role {
            WeightRole::Router | WeightRole::ConvKernel | WeightRole::Vector => Format::F32,
            WeightRole::Matrix | WeightRole::Expert => unpadded(self.matrices, k),
            WeightRole::Embedding => match self.matrices {
                Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K => unpadded(Format::Q6K, k),
                Format::F32 | Format::F16 => self.matrices,
                Format::Q8_0 => Format::F16,
            },
        }
    }
}

/// Blocks of 256 pad too much of a short row: they give way to q8_0 where they would pad at all.
const fn unpadded(format: Format, k: usize) -> Format {
    match format {
        Format::Q6K | Format::Q4K | Format::Q5K if !k.is_multiple_of(format.unit_k()) => Format::Q8_0,
        _ => format,
    }
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe::new(Format::Q4_0)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matrices.fmt(f)
    }
}

/// A name that is no recipe to quantise by.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecipeError {
    /// The name of no format.
    #[error("unknown weight recipe `{found}`, expected one of f32, f16, q8_0, q4_0, q6_k")]
    Unknown {
        /// The name as given.
        found: String,
    },
    /// A format that is taken over from GGUF files and never made.
    #[error(
        "weights cannot be quantised to {format}, which is only taken over from GGUF files; expected one of f32, f16, \
         q8_0, q4_0, q6_k"
    )]
    NoQuantiser {
        /// The format.
        format: Format,
    },
}

impl FromStr for Recipe {
    type Err = RecipeError;

    fn from_str(name: &str) -> Result<Recipe, RecipeError> {
        let format: Format = name.parse().map_err(|_| RecipeError::Unknown { found: name.to_owned() })?;
        if is_made(format) { Ok(Recipe::new(format)) } else { Err(RecipeError::NoQuantiser { format }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_formats() {
        let unknown = "int4".parse::<Recipe>().unwrap_err().to_string();
        for format in Format::ALL {
            assert_eq!(Recipe::new(format).to_string(), format.name());
            assert_eq!(unknown.contains(format.name()), is_made(format), "{unknown}");
            match format.name().parse::<Recipe>() {
                Ok(recipe) => assert_eq!(recipe, Recipe::new(format)),
                Err(error) => assert_eq!(error, RecipeError::NoQuantiser { format }),
            }
        }
        let error = "q4_k".parse::<Recipe>().unwrap_err().to_string();
        assert!(
            error.contains("quantised to q4_k") && error.ends_with("f32, f16, q8_0, q4_0, q6_k"),
            "{error}"
        );
    }

    #[test]
    fn the_default_recipe_keeps_more_bits_where_they_count() {
        let recipe = Recipe::default();
        assert_eq!(recipe.format_for(WeightRole::Expert, 1792), Format::Q4_0);
        assert_eq!(recipe.format_for(WeightRole::Embedding, 2048), Format::Q6K);
        assert_eq!(recipe.format_for(WeightRole::Embedding, 1000), Format::Q8_0);
        assert_eq!(recipe.format_for(WeightRole::Matrix, 8), Format::Q4_0);
    }

    #[test]
    fn router_kernels_and_vectors_are_never_quantised() {
        for format in Format::ALL {
            for role in [WeightRole::Router, WeightRole::ConvKernel, WeightRole::Vector] {
                assert_eq!(Recipe::new(format).format_for(role, 256), Format::F32);
            }
        }
        assert_eq!(Recipe::new(Format::Q6K).format_for(WeightRole::Matrix, 1792), Format::Q6K);
        assert_eq!(Recipe::new(Format::Q6K).format_for(WeightRole::Matrix, 128), Format::Q8_0);
    }
}

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
//! The router is never quantised: a flipped expert is a different model. In `q8_0`, whose point is to be close to the
//! original, the embedding stays in f16: its error goes through every layer, and eight bits there cost as much
//! accuracy as eight bits everywhere else (a third of the error of a small mixture's logits).

use std::fmt;
use std::str::FromStr;

use lfm_graphs::weights::Format;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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
                Format::Q4_0 | Format::Q6K => unpadded(Format::Q6K, k),
                Format::F32 | Format::F16 => self.matrices,
                Format::Q8_0 => Format::F16,
            },
        }
    }
}

/// Blocks of 256 pad too much of a short row: q6_k gives way to q8_0 where it would pad at all.
const fn unpadded(format: Format, k: usize) -> Format {
    match format {
        Format::Q6K if !k.is_multiple_of(Format::Q6K.unit_k()) => Format::Q8_0,
        Format::F32 | Format::F16 | Format::Q8_0 | Format::Q4_0 | Format::Q6K => format,
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

/// A name that is no recipe.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown weight recipe `{found}`, expected one of f32, f16, q8_0, q4_0, q6_k")]
pub struct UnknownRecipe {
    /// The name as given.
    pub found: String,
}

impl FromStr for Recipe {
    type Err = UnknownRecipe;

    fn from_str(name: &str) -> Result<Recipe, UnknownRecipe> {
        let format = name.parse().map_err(|_| UnknownRecipe { found: name.to_owned() })?;
        Ok(Recipe::new(format))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_formats() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(Recipe::new(format)));
            assert_eq!(Recipe::new(format).to_string(), format.name());
        }
        let error = "int4".parse::<Recipe>().unwrap_err().to_string();
        assert!(Format::ALL.iter().all(|format| error.contains(format.name())), "{error}");
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

//! A run of the model with one layer in memory at a time: each is read when its turn comes, and dropped after it.

use std::ops::Range;

use burn::Tensor;
use burn::nn::{EmbeddingConfig, LinearConfig};
use burn::tensor::module::linear;
use burn::tensor::{Device, Int, TensorData};

use crate::block::Block;
use crate::checkpoint::CheckpointError;
use crate::config::Config;
use crate::lfm2::Lfm2;
use crate::load::{Loader, Read};
use crate::norm::RmsNorm;
use crate::observe::{Part, Point, Value};
use crate::rope::Rope;
use crate::state::State;

/// Elements of expert matrices that are gathered for some tokens together (see [`Experts`](crate::Experts)).
const GATHERED: usize = 64 << 20;

impl Lfm2 {
    /// Runs `tokens` from an empty state and shows all values to `observe`, for some tokens at a time: the index of
    /// the first of them, which value, and the value. What `observe` gives ends the run.
    ///
    /// `experts` gives the experts of a layer for a range of positions, [positions × k], where they are not the router's
    /// choice. Without them, the values are those of [`forward_observed`](Self::forward_observed), and the logits, in
    /// another order.
    ///
    /// # Errors
    /// What `read` and `observe` give.
    pub fn run_by_layer<E, F>(
        config: &Config,
        device: &Device,
        tokens: &[u32],
        read: Read<'_, E>,
        experts: impl Fn(usize, Range<usize>) -> Option<Vec<u32>>,
        mut observe: F,
    ) -> Result<(), E>
    where
        E: From<CheckpointError>,
        F: FnMut(usize, Point, Value<'_>) -> Result<(), E>,
    {
        let mut loader = Loader::new(config, device, read);
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let whole = |part| Point { layer: None, part };
        let ids = |tokens: &[u32]| {
            let ids: Vec<i64> = tokens.iter().map(|id| i64::from(*id)).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), device)
        };
        let table = EmbeddingConfig::new(vocab, hidden);
        let mut pieces = Vec::new();
        {
            let table = loader.load(&["embed_tokens"], table.init(device))?;
            let together = together(config);
            for (index, tokens) in tokens.chunks(together).enumerate() {
                let first = index * together;
                let positions: Vec<i64> = (first as i64..).take(tokens.len()).collect();
                let positions = TensorData::new(positions, [tokens.len()]);
                let rope = Rope::new(Tensor::<1, Int>::from_data(positions, device), &config.inv_freq());
                observe(first, whole(Part::RopeCos), Value::Heads(&rope.cos))?;
                observe(first, whole(Part::RopeSin), Value::Heads(&rope.sin))?;
                let x = table.forward(ids(tokens));
                observe(first, whole(Part::Embed), Value::Float(&x))?;
                pieces.push((first, rope, x));
            }
        }
        for (layer, mut state) in State::empty(config, device).layers.into_iter().enumerate() {
            let path = ["layers", &layer.to_string()];
            let block = loader.load(&path, Block::new(config, layer, device))?;
            for (first, rope, x) in &mut pieces {
                let mut shown = Ok(());
                let mut show = |part, value: Value<'_>| {
                    if shown.is_ok() {
                        shown = observe(*first, Point { layer: Some(layer), part }, value);
                    }
                };
                let [_, seq, _] = x.dims();
                let experts = experts(layer, *first..*first + seq).map(|ids| {
                    let shape = [1, seq, ids.len() / seq];
                    let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
                    Tensor::<3, Int>::from_data(TensorData::new(ids, shape), device)
                });
                (*x, state) = block.forward_through(x.clone(), rope, state, experts, &mut show);
                shown?;
            }
        }
        let norm = loader.load(&["embedding_norm"], RmsNorm::new(hidden, config.norm_eps, device))?;
        let head = if config.tie_embedding {
            loader.load(&["embed_tokens"], table.init(device))?.weight.val().transpose()
        } else {
            let head = LinearConfig::new(hidden, vocab).with_bias(false).init(device);
            loader.load(&["lm_head"], head)?.weight.val()
        };
        for (first, _, x) in pieces {
            let x = norm.forward(x);
            observe(first, whole(Part::FinalNorm), Value::Float(&x))?;
            observe(first, whole(Part::Logits), Value::Float(&linear(x, head.clone(), None)))?;
        }
        Ok(())
    }
}

/// How many tokens run together.
fn together(config: &Config) -> usize {
    let gathered =
        |moe: &crate::config::MoeConfig| 2 * moe.top_k * moe.intermediate_size * config.hidden_size;
    config.moe.as_ref().map_or(usize::MAX, |moe| (GATHERED / gathered(moe).max(1)).max(1))
}

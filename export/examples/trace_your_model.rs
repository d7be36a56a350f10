//! Any burn module can be compiled to a graph. This one is a variant of LFM2: the short convolution looks at five
//! tokens, and its output is normalised once more before it is added to the residual stream.
//!
//! `cargo run -p lfm-export --example trace_your_model` prints the graph.

use std::error::Error;
use std::io::Write;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::module::linear;
use lfm_export::capture::{Traceable, Tracer, capture};
use lfm_export::lower::lower;
use lfm_export::passes::{Options, optimize};
use lfm_graphs::{Dim, Update};
use lfm_model::{Config, Mlp, RmsNorm, ShortConv};

#[derive(Module, Debug)]
struct Layer {
    operator_norm: RmsNorm,
    conv: ShortConv,
    post_norm: RmsNorm,
    ffn_norm: RmsNorm,
    feed_forward: Mlp,
}

#[derive(Module, Debug)]
struct Variant {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    embedding_norm: RmsNorm,
}

struct Traced(Config);

impl Traceable for Traced {
    fn name(&self) -> String {
        "variant".into()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let (config, device) = (&self.0, tracer.device().clone());
        let (width, kept) = (config.hidden_size, config.conv_kernel - 1);
        let norm = || RmsNorm::new(width, config.norm_eps, &device);
        let layer = |_| Layer {
            operator_norm: norm(),
            conv: ShortConv::new(config, &device),
            post_norm: norm(),
            ffn_norm: norm(),
            feed_forward: Mlp::new(config, &device),
        };
        let model = tracer.module(Variant {
            embed_tokens: EmbeddingConfig::new(config.vocab_size, width).init(&device),
            layers: (0..config.layers()).map(layer).collect(),
            embedding_norm: norm(),
        });
        let mut x = model.embed_tokens.forward(tracer.input("tokens").unsqueeze());
        for (i, layer) in model.layers.iter().enumerate() {
            let name = format!("l{i}.conv.window");
            let window = tracer.state(&name, [width, kept].map(|n| Dim::fixed(n as u32)), Update::Window);
            let (y, next) = layer.conv.forward(layer.operator_norm.forward(x.clone()), window.unsqueeze());
            tracer.next(&name, next.squeeze_dim::<2>(0));
            x = x + layer.post_norm.forward(y);
            x = x.clone() + layer.feed_forward.forward(layer.ffn_norm.forward(x));
        }
        let x = model.embedding_norm.forward(x);
        let logits = linear(x, model.embed_tokens.weight.val().transpose(), None);
        tracer.output(logits.squeeze_dim::<2>(0));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::from_json(
        r#"{"model_type": "lfm2", "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "conv_L_cache": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "conv"],
            "block_ff_dim": 128, "block_auto_adjust_ff_dim": false, "norm_eps": 1e-5, "max_position_embeddings": 128}"#,
    )?;
    let lowered = lower(&capture(&Traced(config))?)?;
    let fused = optimize(&lowered, &Options::default())?.graph;
    write!(std::io::stdout(), "{}", fused.text())?;
    Ok(())
}

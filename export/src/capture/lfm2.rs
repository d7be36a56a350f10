//! How LFM2 is traced: tokens and positions in, one state an operator, the logits out.

use burn::Tensor;
use lfm_graphs::{Dim, Update};
use lfm_model::{Config, LayerState, Lfm2, OperatorKind, State};

use super::{Traceable, Tracer};

/// An LFM2 or LFM2-MoE of some configuration.
#[derive(Debug)]
pub struct Lfm2Trace<'a>(pub &'a Config);

fn dim(n: usize) -> Dim {
    Dim::fixed(n as u32)
}

impl Traceable for Lfm2Trace<'_> {
    fn name(&self) -> String {
        if self.0.moe.is_some() { "lfm2_moe" } else { "lfm2" }.to_owned()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let config = self.0;
        let model = tracer.module(Lfm2::new(config, tracer.device()));
        let tokens = tracer.input("tokens");
        let positions = tracer.input("positions");
        let layers = config.operators.iter().enumerate().map(|(layer, operator)| match operator {
            OperatorKind::Conv => {
                let shape = [dim(config.hidden_size), dim(config.conv_kernel - 1)];
                let window: Tensor<2> = tracer.state(&window_name(layer), shape, Update::Window);
                if config.conv_kernel == 1 {
                    // An empty window is passed on as it is. burn takes a size of zero in a reshape for "keep",
                    // so the module gets an empty tensor of its own.
                    tracer.next(&window_name(layer), window);
                    let window = Tensor::empty([1, config.hidden_size, 0], tracer.device());
                    return LayerState::Conv { window };
                }
                LayerState::Conv { window: window.unsqueeze() }
            }
            OperatorKind::Attention => {
                let shape = [dim(config.kv_heads), Dim::PAST, dim(config.head_dim)];
                let [k, v] =
                    kv_names(layer).map(|name| tracer.state(&name, shape, Update::Append { axis: 1 }));
                LayerState::Attention { k: k.unsqueeze(), v: v.unsqueeze() }
            }
        });
        let state = State { layers: layers.collect() };
        let (logits, next) = model.forward(tokens.unsqueeze(), positions, state);
        for (layer, state) in next.layers.into_iter().enumerate() {
            match state {
                LayerState::Conv { .. } if config.conv_kernel == 1 => {}
                LayerState::Conv { window } => tracer.next(&window_name(layer), window.squeeze_dim::<2>(0)),
                LayerState::Attention { k, v } => {
                    let [k_name, v_name] = kv_names(layer);
                    tracer.next(&k_name, k.squeeze_dim::<3>(0));
                    tracer.next(&v_name, v.squeeze_dim::<3>(0));
                }
            }
        }
        tracer.output(logits.squeeze_dim::<2>(0));
    }
}

fn window_name(layer: usize) -> String {
    format!("l{layer}.conv.window")
}

fn kv_names(layer: usize) -> [String; 2] {
    ["k", "v"].map(|part| format!("l{layer}.attn.{part}"))
}

#!/usr/bin/env python3
"""Convert a Hugging Face folder of an LFM2 model (`lfm2` or `lfm2_moe`) to a GGUF file that llama.cpp loads.

    hf_to_gguf.py FOLDER OUT.gguf [--type F32|F16|BF16|Q8_0|Q4_0] [--embedding TYPE]

Matrices get TYPE, where their rows fill its blocks; norms, kernels, routers and biases stay F32. The (tied) embedding gets
TYPE too, or --embedding. Needs the packages gguf and numpy.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tensors import Tensors

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# Names within a layer, without `.weight`.
NAMES = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "feed_forward.gate": "ffn_gate_inp",
}
EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
PLAIN = ("attn_norm", "ffn_norm", "shortconv.conv", "attn_q_norm", "attn_k_norm", "ffn_gate_inp")


def feed_forward_width(config):
    """The width of the dense feed-forward layers, which the dense family states in a roundabout way."""
    if config["model_type"] == "lfm2_moe":
        return config["intermediate_size"]
    width = config.get("block_ff_dim") or config["intermediate_size"]
    if config.get("block_auto_adjust_ff_dim", config["model_type"] == "lfm2"):
        width = int(2 * width / 3)
        width = int(config.get("block_ffn_dim_multiplier", 1.0) * width)
        multiple = config.get("block_multiple_of", 256)
        width = (width + multiple - 1) // multiple * multiple
    return width


def attention_layers(config):
    layers = config["num_hidden_layers"]
    if "layer_types" in config:
        return [kind == "full_attention" for kind in config["layer_types"]]
    attention = config.get("full_attn_idxs")
    return [attention is None or i in attention for i in range(layers)]


def model_keys(writer, config, file_type):
    moe = config["model_type"] == "lfm2_moe"
    attention = attention_layers(config)
    rope = config.get("rope_parameters") or {}
    writer.add_type("model")
    writer.add_name(config.get("name", "LFM2"))
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(feed_forward_width(config))
    writer.add_head_count(config["num_attention_heads"])
    kv = config["num_key_value_heads"]
    writer.add_head_count_kv([kv if is_attention else 0 for is_attention in attention])
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 1e6))))
    writer.add_layer_norm_rms_eps(config.get("norm_eps", 1e-5))
    if moe:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        writer.add_leading_dense_block_count(config["num_dense_layers"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if file_type == "F32" else f"MOSTLY_{file_type}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def text_keys(writer, folder, config):
    """The tokenizer and the chat template, if the folder has them; else a mark that there are none."""
    if not (folder / "tokenizer.json").exists():
        writer.add_tokenizer_model("no_vocab")
        return
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    size = config["vocab_size"]
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], kinds[i] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    eos = config.get("eos_token_id", 7)
    writer.add_bos_token_id(config.get("bos_token_id", 1))
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    writer.add_pad_token_id(config.get("pad_token_id", 0))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def tensors(checkpoint, config):
    """Names in the file with functions that read them, experts stacked."""
    def read(name):
        return lambda: checkpoint.read(name)

    for name in checkpoint.names():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+?)(\.weight)?", name)
        if layer is None:
            plain = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.embedding_norm.weight": "token_embd_norm.weight",
                "lm_head.weight": "output.weight",
            }
            if name == "lm_head.weight" and config.get("tie_embedding", config.get("tie_word_embeddings", True)):
                continue
            yield plain[name], read(name)
            continue
        number, rest = layer[1], layer[2]
        expert = re.fullmatch(r"feed_forward\.experts\.(\d+)\.(w[123])", rest)
        block = f"blk.{number}."
        if rest == "feed_forward.expert_bias":
            yield f"{block}exp_probs_b.bias", read(name)
        elif rest == "feed_forward.experts.gate_up_proj":
            half = config["moe_intermediate_size"]
            yield f"{block}ffn_gate_exps.weight", lambda name=name: checkpoint.read(name)[:, :half]
            yield f"{block}ffn_up_exps.weight", lambda name=name: checkpoint.read(name)[:, half:]
        elif rest == "feed_forward.experts.down_proj":
            yield f"{block}ffn_down_exps.weight", read(name)
        elif expert is None:
            yield f"{block}{NAMES[rest]}.weight", read(name)
        elif expert[1] == "0":
            names = [
                f"model.layers.{number}.feed_forward.experts.{e}.{expert[2]}.weight"
                for e in range(config["num_experts"])
            ]
            yield (
                f"{block}{EXPERTS[expert[2]]}.weight",
                lambda names=names: np.stack([checkpoint.read(name) for name in names]),
            )


def type_of(name, array, matrices, embedding):
    stem = re.sub(r"^blk\.\d+\.", "", name).rsplit(".", 1)[0]
    if array.ndim < 2 or stem in PLAIN:
        return Type.F32
    kind = Type[embedding if stem in ("token_embd", "output") else matrices]
    return kind if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else Type.F16


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=TYPES, default="Q4_0")
    parser.add_argument("--embedding", choices=TYPES)
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    arch = {"lfm2": "lfm2", "lfm2_moe": "lfm2moe"}.get(config.get("model_type"))
    if arch is None:
        sys.exit(f"{args.folder}: model_type is {config.get('model_type')!r}, expected lfm2 or lfm2_moe")
    writer = gguf.GGUFWriter(str(args.out), arch)
    model_keys(writer, config, args.type)
    text_keys(writer, args.folder, config)
    counts = {}
    for name, read in tensors(Tensors(args.folder), config):
        array = read()
        if name.endswith("shortconv.conv.weight"):
            array = array[:, 0, :]
        kind = type_of(name, array, args.type, args.embedding or args.type)
        counts[kind.name] = counts.get(kind.name, 0) + 1
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{args.out}: {', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))}")


if __name__ == "__main__":
    main()

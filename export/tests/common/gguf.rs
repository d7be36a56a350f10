//! GGUF files made of checkpoint folders, well or badly.

use std::fs;
use std::path::Path;

use lfm_export::gguf::{Type, gguf_name};
use lfm_export::quantize::quantise_rows;
use lfm_export::quantize::recipe::{Recipe, WeightRole};
use lfm_graphs::testing::Rng;
use lfm_model::{Checkpoint, Config, OperatorKind, TensorKind};
use serde_json::Value;

/// A file to be written. All fields are there to be damaged.
#[derive(Clone)]
pub struct Writer {
    pub version: u32,
    pub alignment: u64,
    /// Name, number of the type, bytes of the value.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Entry>,
    /// Instead of the true numbers of tensors and keys.
    pub counts: Option<(u64, u64)>,
}

/// A tensor.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub dims: Option<u32>,
    pub ne: Vec<u64>,
    pub kind: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
}

/// Number of a type in the file format.
pub fn number(kind: Type) -> u32 {
    match kind {
        Type::F32 => 0,
        Type::F16 => 1,
        Type::Q4_0 => 2,
        Type::Q8_0 => 8,
        Type::Q4K => 12,
        Type::Q5K => 13,
        Type::Q6K => 14,
        Type::Bf16 => 30,
    }
}

/// The byte at which each f16 of a block of this type begins: its scales.
pub fn scales(kind: Type) -> &'static [usize] {
    match kind {
        Type::F32 | Type::F16 | Type::Bf16 => panic!("{} has no blocks", kind.name()),
        Type::Q8_0 | Type::Q4_0 => &[0],
        Type::Q4K | Type::Q5K => &[0, 2],
        Type::Q6K => &[208],
    }
}

/// Blocks of random bytes with scales from 2^-12 to 2^-8 of either sign.
pub fn blocks(kind: Type, count: u64, rng: &mut Rng) -> Vec<u8> {
    let mut data: Vec<u8> = (0..count * kind.block_bytes()).map(|_| rng.below(256) as u8).collect();
    for block in data.chunks_mut(kind.block_bytes() as usize) {
        for at in scales(kind) {
            let scale = (0x0c00 + rng.below(0x1000) + (rng.below(2) << 15)) as u16;
            block[*at..*at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    data
}

/// The demo checkpoint, whose rows fill blocks of 256, in the types of a Q4_K_M file and more, with a head of its own.
pub fn mixture(rng: &mut Rng) -> Writer {
    let mut writer = Writer::from_folder(&super::repository("model/demo"), "q4_0", false);
    let names: Vec<String> = writer.tensors.iter().map(|entry| entry.name.clone()).collect();
    for (n, name) in names.iter().enumerate().filter(|(_, name)| !name.contains("norm")) {
        let part = name.rsplit('.').nth(1).unwrap_or_default();
        let kind = match part {
            "ffn_down" | "ffn_down_exps" | "attn_v" if n % 2 == 0 => Type::Q6K,
            "attn_k" => Type::Q8_0,
            "out_proj" => Type::Q5K,
            "attn_output" => Type::Q4_0,
            "token_embd" | "attn_q" | "attn_v" | "in_proj" => Type::Q4K,
            _ if part.starts_with("ffn_") && part != "ffn_gate_inp" => Type::Q4K,
            _ => continue,
        };
        writer.retype(name, kind, rng);
    }
    let mut head = writer.tensor("token_embd.weight").clone();
    head.name = "output.weight".into();
    writer.tensors.push(head);
    writer.retype("output.weight", Type::Q6K, rng);
    writer
}

impl Writer {
    /// The model of a folder with the types that a recipe gives its weights, or BF16 instead of F32.
    pub fn from_folder(folder: &Path, recipe: &str, bf16: bool) -> Writer {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let config = checkpoint.config();
        let recipe: Recipe = recipe.parse().unwrap();
        let mut writer =
            Writer { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new(), counts: None };
        writer.model_keys(config);
        writer.text_keys(folder, config);
        for spec in config.tensors() {
            let role = match spec.kind {
                TensorKind::Embedding | TensorKind::Head => WeightRole::Embedding,
                TensorKind::Linear => WeightRole::Matrix,
                TensorKind::Experts => WeightRole::Expert,
                TensorKind::Router => WeightRole::Router,
                TensorKind::ConvKernel => WeightRole::ConvKernel,
                TensorKind::Bias | TensorKind::Norm | TensorKind::ExpertBias => WeightRole::Vector,
            };
            let values = checkpoint.read_f32(&spec.name).unwrap();
            let k = *spec.shape.last().unwrap();
            let format = recipe.format_for(role, k);
            let mut data = vec![0; values.len() / k * format.row_bytes(k).unwrap()];
            quantise_rows(format, &values, k, &mut data).unwrap();
            let mut kind = Type::ALL.into_iter().find(|kind| kind.format() == format).unwrap();
            if bf16 && kind == Type::F32 && spec.shape.len() > 1 {
                kind = Type::Bf16;
                data = data.chunks(4).flat_map(|x| [x[2], x[3]]).collect();
            }
            let mut ne: Vec<u64> = spec.shape.iter().rev().map(|n| *n as u64).collect();
            if spec.kind == TensorKind::ConvKernel {
                ne.remove(1);
            }
            let name = gguf_name(&spec.name).unwrap();
            writer.tensors.push(Entry { name, dims: None, ne, kind: number(kind), offset: None, data });
        }
        writer
    }

    fn model_keys(&mut self, config: &Config) {
        let arch = if config.moe.is_some() { "lfm2moe" } else { "lfm2" };
        self.text("general.architecture", arch);
        self.text("general.name", "a test");
        let key = |name: &str| format!("{arch}.{name}");
        self.u32(&key("block_count"), config.layers());
        self.u32(&key("context_length"), config.max_positions);
        self.u32(&key("embedding_length"), config.hidden_size);
        self.u32(&key("feed_forward_length"), config.intermediate_size);
        self.u32(&key("attention.head_count"), config.heads);
        let kv = config.operators.iter().map(|kind| match kind {
            OperatorKind::Conv => 0i32,
            OperatorKind::Attention => config.kv_heads as i32,
        });
        self.integers(&key("attention.head_count_kv"), &kv.collect::<Vec<_>>());
        self.f32(&key("attention.layer_norm_rms_epsilon"), config.norm_eps as f32);
        self.f32(&key("rope.freq_base"), config.rope_theta as f32);
        self.u32(&key("vocab_size"), config.vocab_size);
        self.u32(&key("shortconv.l_cache"), config.conv_kernel);
        if let Some(moe) = &config.moe {
            self.u32(&key("expert_count"), moe.experts);
            self.u32(&key("expert_used_count"), moe.top_k);
            self.u32(&key("expert_feed_forward_length"), moe.intermediate_size);
            self.u32(&key("leading_dense_block_count"), moe.dense_layers);
            self.u32(&key("expert_gating_func"), 2);
        }
    }

    fn text_keys(&mut self, folder: &Path, config: &Config) {
        let ids = [
            ("bos", config.bos_token_id),
            ("eos", config.eos_token_ids.first().copied()),
            ("padding", config.pad_token_id),
        ];
        for (name, id) in ids.into_iter().filter_map(|(name, id)| Some((name, id?))) {
            self.u32(&format!("tokenizer.ggml.{name}_token_id"), id as usize);
        }
        let Ok(tokenizer) = fs::read(folder.join("tokenizer.json")) else { return };
        let json: Value = serde_json::from_slice(&tokenizer).unwrap();
        let mut tokens: Vec<(String, i32)> =
            (0..config.vocab_size).map(|id| (format!("[PAD{id}]"), 5)).collect();
        for (token, id) in json["model"]["vocab"].as_object().unwrap() {
            tokens[id.as_u64().unwrap() as usize] = (token.clone(), 1);
        }
        for added in json["added_tokens"].as_array().unwrap() {
            let kind = if added["special"].as_bool().unwrap() { 3 } else { 4 };
            let content = added["content"].as_str().unwrap().to_owned();
            tokens[added["id"].as_u64().unwrap() as usize] = (content, kind);
        }
        let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
            Value::String(text) => text.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        });
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "lfm2");
        let texts: Vec<String> = tokens.iter().map(|(text, _)| text.clone()).collect();
        self.strings("tokenizer.ggml.tokens", &texts);
        self.integers("tokenizer.ggml.token_type", &tokens.iter().map(|(_, kind)| *kind).collect::<Vec<_>>());
        self.strings("tokenizer.ggml.merges", &merges.collect::<Vec<_>>());
        self.put("tokenizer.ggml.add_bos_token", 7, vec![1]);
        if let Ok(template) = fs::read_to_string(folder.join("chat_template.jinja")) {
            self.text("tokenizer.chat_template", &template);
        }
    }

    /// Sets a key, at its old place if it has one.
    pub fn put(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        let entry = (key.to_owned(), kind, value);
        match self.keys.iter_mut().find(|(name, ..)| name == key) {
            Some(old) => *old = entry,
            None => self.keys.push(entry),
        }
    }

    pub fn u32(&mut self, key: &str, value: usize) {
        self.put(key, 4, (value as u32).to_le_bytes().to_vec());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.put(key, 6, value.to_le_bytes().to_vec());
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.put(key, 8, string(value));
    }

    pub fn strings(&mut self, key: &str, values: &[String]) {
        self.put(key, 9, array(8, &values.iter().map(|text| string(text)).collect::<Vec<_>>()));
    }

    pub fn integers(&mut self, key: &str, values: &[i32]) {
        self.put(key, 9, array(5, &values.iter().map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>()));
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, ..)| name != key);
    }

    /// Gives a tensor another type, and random blocks.
    pub fn retype(&mut self, name: &str, kind: Type, rng: &mut Rng) {
        let entry = self.tensor(name);
        let count = entry.ne.iter().product::<u64>() / kind.block();
        (entry.kind, entry.data) = (number(kind), blocks(kind, count, rng));
    }

    /// A tensor by name.
    pub fn tensor(&mut self, name: &str) -> &mut Entry {
        self.tensors.iter_mut().find(|entry| entry.name == name).unwrap()
    }

    /// The file, and the length of its header.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        let (tensors, keys) = self.counts.unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        out.extend(tensors.to_le_bytes());
        out.extend(keys.to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let align = |n: u64| n.next_multiple_of(self.alignment);
        let mut offset = 0;
        for entry in &self.tensors {
            out.extend(string(&entry.name));
            out.extend(entry.dims.unwrap_or(entry.ne.len() as u32).to_le_bytes());
            entry.ne.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(entry.kind.to_le_bytes());
            out.extend(entry.offset.unwrap_or(offset).to_le_bytes());
            offset = align(offset + entry.data.len() as u64);
        }
        let header = out.len();
        out.resize(align(header as u64) as usize, 0);
        for entry in &self.tensors {
            out.extend(&entry.data);
            out.resize(align(out.len() as u64) as usize, 0);
        }
        (out, header)
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes().0).unwrap();
    }
}

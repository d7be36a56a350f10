#![no_main]

lfm_fuzz::target!("gguf_text");

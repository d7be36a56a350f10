#![no_main]

lfm_fuzz::target!("text_config");

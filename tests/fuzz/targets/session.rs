#![no_main]

lfm_fuzz::target!("session");

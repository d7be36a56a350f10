#![no_main]

lfm_fuzz::target!("plan");

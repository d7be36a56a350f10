#![no_main]

lfm_fuzz::target!("shard_index");

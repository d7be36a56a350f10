#![no_main]

lfm_fuzz::target!("chat_request");

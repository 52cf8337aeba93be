#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| polyquic_fuzz::relay(data));

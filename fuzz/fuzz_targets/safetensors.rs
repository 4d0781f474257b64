#![no_main]

#[path = "../checks/safetensors.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::in_every_way(bytes);
});

#![no_main]

#[path = "../checks/optimizer/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::agrees(bytes);
});

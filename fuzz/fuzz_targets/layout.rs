#![no_main]

#[path = "../checks/layout/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::holds(bytes);
});

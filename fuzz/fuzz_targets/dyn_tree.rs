#![no_main]

#[path = "../checks/dyn_tree.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::holds(bytes);
});

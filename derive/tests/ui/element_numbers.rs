use bytemuck::{Pod, Zeroable};
use flatleaf::Tree;

#[derive(Tree, Clone, Copy, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct TwoTypes {
    x: [f32; 2],
    y: f64,
}

#[derive(Tree, Clone, Copy, Pod, Zeroable)]
#[tree(element = f32)]
#[repr(C)]
struct NoMultiple {
    x: [u8; 5],
}

#[derive(Tree, Clone, Copy, Pod, Zeroable)]
#[tree(element = f32)]
#[repr(C)]
struct NotAligned {
    x: [u8; 8],
}

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C)]
struct NotPod {
    x: f32,
}

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C)]
struct Generic<T> {
    x: T,
}

fn main() {
    flatleaf::Layout::of(&vec![Generic { x: String::new() }]).unwrap();
}

/// As graphics cards want it: 12 bytes of numbers, and four more.
#[derive(Tree, Clone, Copy, Pod, Zeroable)]
#[tree(element)]
#[repr(C, align(16))]
struct Padded {
    x: [f32; 3],
}

use flatleaf::Tree;

#[derive(Tree, Clone, Copy)]
#[tree(element)]
struct AnyOrder {
    x: f32,
}

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C, packed)]
struct Packed {
    x: f32,
}

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C)]
enum Variants {
    A(f32),
}

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C)]
struct Nothing;

#[derive(Tree, Clone, Copy)]
#[tree(element)]
#[repr(C)]
struct PartlyFrozen {
    x: f32,
    #[tree(frozen)]
    y: f32,
}

#[derive(Tree, Clone, Copy)]
#[tree(element, view)]
#[repr(C)]
struct Viewed {
    x: f32,
}

#[derive(Tree)]
struct OnAField {
    #[tree(element = f32)]
    points: Vec<u8>,
}

#[derive(Tree, Clone, Copy)]
#[tree(element(f32))]
#[repr(C)]
struct InBrackets {
    x: f32,
}

fn main() {}

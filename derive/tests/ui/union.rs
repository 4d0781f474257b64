use flatleaf::Tree;

#[derive(Tree)]
union Either {
    float: f32,
    bits: u32,
}

fn main() {}

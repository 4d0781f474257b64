use flatleaf::Tree;

#[derive(Tree)]
struct Pair(#[tree(rename = "1")] Vec<f32>, Vec<f32>);

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
#[tree(transparent)]
struct Activation(#[tree(skip)] fn(f32) -> f32);

fn main() {}

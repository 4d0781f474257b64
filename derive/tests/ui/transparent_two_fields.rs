use flatleaf::Tree;

#[derive(Tree)]
#[tree(transparent)]
struct Dense {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
struct Norm {
    weight: Vec<f32>,
    #[tree(freeze)]
    mean: Vec<f32>,
}

fn main() {}

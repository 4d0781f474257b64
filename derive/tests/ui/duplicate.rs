use flatleaf::Tree;

#[derive(Tree)]
struct Norm {
    weight: Vec<f32>,
    #[tree(frozen)]
    #[tree(frozen)]
    mean: Vec<f32>,
}

fn main() {}

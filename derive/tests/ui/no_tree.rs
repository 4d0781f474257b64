use flatleaf::Tree;

struct Optimizer;

#[derive(Tree)]
struct Model {
    weight: Vec<f32>,
    optimizer: Optimizer,
    #[tree(frozen)]
    old: Option<Optimizer>,
}

fn main() {}

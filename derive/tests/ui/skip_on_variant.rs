use flatleaf::Tree;

#[derive(Tree)]
enum Layer {
    Dense(Vec<f32>),
    #[tree(skip)]
    Activation(fn(f32) -> f32),
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
enum Layer {
    #[tree(transparent)]
    Dense(Vec<f32>),
}

fn main() {}

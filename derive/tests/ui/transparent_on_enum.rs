use flatleaf::Tree;

#[derive(Tree)]
#[tree(transparent)]
enum Layer {
    Dense(Vec<f32>),
}

fn main() {}

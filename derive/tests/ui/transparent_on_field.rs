use flatleaf::Tree;

#[derive(Tree)]
struct Wrapper {
    #[tree(transparent)]
    inner: Vec<f32>,
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree(frozen = true)]
    weight: Vec<f32>,
}

fn main() {}

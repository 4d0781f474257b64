use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree = "skip"]
    weight: Vec<f32>,
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree]
    weight: Vec<f32>,
}

fn main() {}

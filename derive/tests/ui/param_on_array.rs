use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree(param)]
    weight: Vec<f32>,
}

fn main() {}

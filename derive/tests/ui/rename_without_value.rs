use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree(rename)]
    weight: Vec<f32>,
}

fn main() {}

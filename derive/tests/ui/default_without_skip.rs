use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    weight: Vec<f32>,
    #[tree(default)]
    cache: Vec<f32>,
}

fn main() {}

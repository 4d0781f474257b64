use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    #[tree(rename = w)]
    weight: Vec<f32>,
}

fn main() {}

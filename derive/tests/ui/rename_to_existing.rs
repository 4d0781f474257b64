use flatleaf::Tree;

#[derive(Tree)]
struct Dense {
    weight: Vec<f32>,
    #[tree(rename = "weight")]
    bias: Vec<f32>,
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
#[tree(transparent)]
struct Wrapper {
    #[tree(rename = "weight")]
    inner: Vec<f32>,
}

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
#[tree(frozen)]
struct Dense {
    weight: Vec<f32>,
}

fn main() {}

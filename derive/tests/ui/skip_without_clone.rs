use flatleaf::Tree;

struct Cache;

#[derive(Tree)]
struct Model {
    weight: Vec<f32>,
    #[tree(skip)]
    cache: Cache,
}

fn main() {}

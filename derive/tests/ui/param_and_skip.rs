use flatleaf::Tree;

#[derive(Tree)]
struct Softmax {
    #[tree(skip, param)]
    temperature: f32,
}

fn main() {}

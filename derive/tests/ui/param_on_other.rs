use flatleaf::Tree;

#[derive(Tree)]
struct Softmax {
    #[tree(param)]
    temperature: String,
}

fn main() {}

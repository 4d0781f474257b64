use flatleaf::Tree;

#[derive(Tree)]
#[tree(skip)]
struct Activation;

fn main() {}

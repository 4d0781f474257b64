use flatleaf::Tree;

#[derive(Tree)]
#[tree(bound = "T")]
struct Wrapper<T>(T);

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
#[tree(bound = "T: Tree", bound = "")]
struct Wrapper<T>(T);

fn main() {}

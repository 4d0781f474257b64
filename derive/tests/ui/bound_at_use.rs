use flatleaf::Tree;

struct Optimizer;

#[derive(Tree)]
struct Wrapper<T> {
    inner: Option<T>,
}

fn trees<T: Tree>(_: T) {}

fn main() {
    trees(Wrapper { inner: Some(Optimizer) });
}

// Types that are no trees: as a field, below a container that is one, behind a type parameter, for
// want of a derive, and as a gradient that is flat already.
use flatleaf::{FlatGrad, Tree};

struct Optimizer;

#[derive(Tree)]
struct Model {
    weight: Vec<f32>,
    optimizer: Optimizer,
    #[tree(frozen)]
    old: Option<Optimizer>,
}

#[derive(Tree)]
struct Wrapper<T> {
    inner: Option<T>,
}

struct Dense {
    weight: Vec<f32>,
}

/// As `destructure` does.
fn walk(_tree: &impl Tree) {}

/// As `Optimizer::update` does.
fn update(_grads: &impl Tree) {}

fn step(grad: FlatGrad) {
    update(&grad);
}

fn main() {
    walk(&Wrapper { inner: Some(Optimizer) });
    walk(&vec![Dense { weight: vec![1.0] }]);
}

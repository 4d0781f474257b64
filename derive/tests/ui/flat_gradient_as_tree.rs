use flatleaf::{FlatGrad, Tree};

/// As `Optimizer::update` does.
fn update(_grads: &impl Tree) {}

fn step(grad: FlatGrad) {
    update(&grad);
}

fn main() {}

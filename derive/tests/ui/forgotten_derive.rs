use flatleaf::Tree;

struct Dense {
    weight: Vec<f32>,
}

/// As `destructure` does.
fn walk(_tree: &impl Tree) {}

fn main() {
    walk(&vec![Dense { weight: vec![1.0] }]);
}

// A mistake in an attribute is the only thing that is said about the type: it counts as a tree
// elsewhere.
use flatleaf::{Layout, Tree};

#[derive(Tree)]
struct Dense<'a, T: Clone, const N: usize> {
    #[tree(frozen, skip)]
    weight: &'a [T; N],
}

#[derive(Tree)]
struct Model<'a> {
    first: Dense<'a, f32, 2>,
}

fn main() {
    let model = Model { first: Dense { weight: &[1.0, 2.0] } };
    let _ = Layout::of(&model);
}

//! What cannot have a view says so where the field is.

use flatleaf::Tree;

trait Layer: Tree {}

#[derive(Tree)]
#[tree(view)]
struct Net {
    weight: Vec<f32>,
    layers: Vec<Box<dyn Layer>>,
}

fn main() {}

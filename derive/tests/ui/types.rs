// Words above types, and a type that is no tree. Each mistake has one message.

use flatleaf::Tree;

trait Layer: Tree {}

#[derive(Tree)]
#[tree(bound = "T")]
struct BadBound<T>(T);

#[derive(Tree)]
#[tree(crate = "flat-leaf")]
struct BadCrate(Vec<f32>);

#[derive(Tree)]
#[tree(object = "Layer")]
struct BadObject(Vec<f32>);

#[derive(Tree)]
#[tree(bound = "T: Tree", bound = "")]
struct DuplicateBound<T>(T);

#[derive(Tree)]
#[tree(object = "dyn Layer", object = "dyn Layer")]
struct DuplicateObject(Vec<f32>);

#[derive(Tree)]
#[tree(frozen)]
struct FrozenOnType {
    weight: Vec<f32>,
}

#[derive(Tree)]
#[tree(skip)]
struct SkipOnType;

#[derive(Tree)]
union Union {
    float: f32,
    bits: u32,
}

fn main() {}

// Structs that add no segment to paths. Each mistake has one message.

use flatleaf::Tree;

#[derive(Tree)]
#[tree(transparent)]
struct TransparentNoField(#[tree(skip)] fn(f32) -> f32);

#[derive(Tree)]
#[tree(transparent)]
enum TransparentOnEnum {
    Dense(Vec<f32>),
}

#[derive(Tree)]
struct TransparentOnField {
    #[tree(transparent)]
    inner: Vec<f32>,
}

#[derive(Tree)]
enum TransparentOnVariant {
    #[tree(transparent)]
    Dense(Vec<f32>),
}

#[derive(Tree)]
#[tree(transparent)]
struct TransparentTwoFields {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Tree)]
#[tree(transparent)]
struct RenameInTransparent {
    #[tree(rename = "weight")]
    inner: Vec<f32>,
}

fn main() {}

// Words above fields and variants, and what stands around the words. Each mistake has one message.

use flatleaf::Tree;

#[derive(Tree)]
struct DefaultWithoutSkip {
    weight: Vec<f32>,
    #[tree(default)]
    cache: Vec<f32>,
}

#[derive(Tree)]
struct Duplicate {
    weight: Vec<f32>,
    #[tree(frozen)]
    #[tree(frozen)]
    mean: Vec<f32>,
}

#[derive(Tree)]
struct EqualsSign {
    #[tree = "skip"]
    weight: Vec<f32>,
}

#[derive(Tree)]
struct FlagWithValue {
    #[tree(frozen = true)]
    weight: Vec<f32>,
}

#[derive(Tree)]
struct FrozenAndSkip {
    weight: Vec<f32>,
    #[tree(frozen, skip)]
    mean: Vec<f32>,
}

#[derive(Tree)]
struct NoParentheses {
    #[tree]
    weight: Vec<f32>,
}

#[derive(Tree)]
struct ParamAndSkip {
    #[tree(skip, param)]
    temperature: f32,
}

#[derive(Tree)]
struct ParamOnArray {
    #[tree(param)]
    weight: Vec<f32>,
}

#[derive(Tree)]
struct ParamsOnField {
    #[tree(params)]
    k: f32,
}

#[derive(Tree)]
enum SkipOnVariant {
    Dense(Vec<f32>),
    #[tree(skip)]
    Activation(fn(f32) -> f32),
}

#[derive(Tree)]
struct UnknownPath {
    weight: Vec<f32>,
    #[tree(tree::frozen)]
    mean: Vec<f32>,
}

#[derive(Tree)]
struct UnknownWord {
    weight: Vec<f32>,
    #[tree(freeze)]
    mean: Vec<f32>,
}

fn main() {}

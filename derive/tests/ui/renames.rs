// Names of fields in paths. Each mistake has one message.

use flatleaf::Tree;

#[derive(Tree)]
struct RenameToExisting {
    weight: Vec<f32>,
    #[tree(rename = "weight")]
    bias: Vec<f32>,
}

#[derive(Tree)]
struct RenameToIndex(#[tree(rename = "1")] Vec<f32>, Vec<f32>);

#[derive(Tree)]
struct RenameToNoString {
    #[tree(rename = w)]
    weight: Vec<f32>,
}

#[derive(Tree)]
struct RenameWithoutValue {
    #[tree(rename)]
    weight: Vec<f32>,
}

fn main() {}

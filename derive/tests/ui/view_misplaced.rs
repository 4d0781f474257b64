use flatleaf::Tree;

#[derive(Tree)]
struct OnField {
    #[tree(view)]
    weight: Vec<f32>,
}

#[derive(Tree)]
#[tree(view = "Net")]
struct WithValue(Vec<f32>);

#[derive(Tree)]
#[tree(view, view)]
struct Twice(Vec<f32>);

fn main() {}

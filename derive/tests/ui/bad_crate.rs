use flatleaf::Tree;

#[derive(Tree)]
#[tree(crate = "flat-leaf")]
struct Dense(Vec<f32>);

fn main() {}

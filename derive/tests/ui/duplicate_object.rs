use flatleaf::Tree;

trait Layer: Tree {}

#[derive(Tree)]
#[tree(object = "dyn Layer", object = "dyn Layer")]
struct Dense(Vec<f32>);

fn main() {}

use flatleaf::Tree;

#[derive(Tree)]
struct Spring {
    #[tree(params)]
    k: f32,
}

fn main() {}

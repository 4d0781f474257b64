use flatleaf::Tree;

#[derive(Tree)]
struct Plain(Vec<f32>);

fn main() {
    let _ = flatleaf::view(&Plain(vec![1.0]));
}

//! flatleaf on candle's variables, gradients and files.

mod acceptance;
mod checkpoints;
mod gradients;
mod locks;
mod models;
mod steps;
mod variables;

/// What a test returns: errors of both sides.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A member of a test that wants another process: this program again, told by an environment
/// variable what to do. Without it there is nothing to do.
#[test]
fn member() -> Outcome {
    match std::env::var("FLATLEAF_CANDLE_MEMBER").as_deref() {
        Ok("fingerprint") => variables::print_fingerprint(),
        Ok("first half") => checkpoints::train_first_half(),
        Ok("second half") => checkpoints::train_second_half(),
        _ => Ok(()),
    }
}

/// Runs this program as a member, and what it prints.
fn run_member(
    member: &str,
    folder: &std::path::Path,
) -> Result<String, Box<dyn std::error::Error>> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "member", "--nocapture"])
        .env("FLATLEAF_CANDLE_MEMBER", member)
        .env("FLATLEAF_CANDLE_FOLDER", folder)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{member}: {text}");
    Ok(text)
}

/// A folder of a test's own, removed when it is over.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> std::io::Result<Self> {
        let name = format!("flatleaf-candle-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

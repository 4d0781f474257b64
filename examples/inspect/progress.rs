//! A bar for what takes longer than a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
}

impl Progress {
    pub(crate) fn over(elements: usize) -> Progress {
        let style = ProgressStyle::with_template(
            "{bar:40.cyan/blue} {percent:>3} %  {human_pos} of {human_len} elements, {eta} left",
        );
        let bar =
            ProgressBar::with_draw_target(Some(elements as u64), ProgressDrawTarget::hidden());
        Progress {
            bar: bar.with_style(style.expect("the template is well formed")),
            start: Instant::now(),
        }
    }

    pub(crate) fn advance(&mut self, elements: usize) {
        if self.bar.is_hidden() && self.start.elapsed() > Duration::from_secs(1) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(elements as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

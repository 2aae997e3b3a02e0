//! What people see while they wait: bars on standard error if that is a terminal, and plain lines about things
//! that they should know in any case, such as a source that did not work.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use candlewick::{Progress, ProgressFn};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const DOWNLOAD: &str = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
const DOWNLOAD_OF_UNKNOWN_SIZE: &str = "{prefix} {bytes} {bytes_per_sec}";
const FILE: &str = "[{bar:30}] {bytes}/{total_bytes}, {msg}";
const STREAM: &str = "{spinner} {msg}";

/// Whether bars can be drawn at all.
pub(crate) fn bars_are_wanted(no_progress: bool) -> bool {
    !no_progress && std::io::stderr().is_terminal()
}

/// Prints a line to standard error. There is nowhere to report that this fails.
fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "candlewick: {line}");
}

/// Draws a bar for each download of a model that has `sources`, and says which of them did not work.
pub(crate) fn downloads(sources: usize, bars: bool) -> ProgressFn {
    let downloads = Mutex::new(Downloads { bar: ProgressBar::hidden(), sources_left: sources, bars });
    ProgressFn::new(move |progress| {
        downloads.lock().expect("drawing a bar does not panic").report(progress);
    })
}

struct Downloads {
    bar: ProgressBar,
    sources_left: usize,
    bars: bool,
}

impl Downloads {
    fn report(&mut self, progress: &Progress) {
        match progress {
            Progress::Started { file, total_bytes } => {
                self.bar.finish_and_clear();
                let template = if total_bytes.is_some() { DOWNLOAD } else { DOWNLOAD_OF_UNKNOWN_SIZE };
                self.bar = new_bar(self.bars, *total_bytes, template).with_prefix(file.clone());
            }
            Progress::Advanced { bytes, .. } => self.bar.set_position(*bytes),
            Progress::Finished { .. } => self.bar.finish_and_clear(),
            Progress::Waiting { path } => {
                self.bar.finish_and_clear();
                print_line(format_args!("waiting for the process that holds {}", path.display()));
            }
            Progress::SourceFailed { source, reason } => {
                self.bar.finish_and_clear();
                self.sources_left = self.sources_left.saturating_sub(1);
                // The error that ends it all names every source; this is for those who get their model anyhow.
                if self.sources_left > 0 {
                    print_line(format_args!("{source}: {}; trying the next source", on_one_line(reason)));
                }
            }
            _ => {}
        }
    }
}

fn on_one_line(reason: &str) -> String {
    reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Counts texts, and the bytes of the input where its size is known.
pub(crate) struct TextsBar {
    bar: ProgressBar,
    texts: u64,
    started: Instant,
}

impl TextsBar {
    pub(crate) fn new(bars: bool, total_bytes: Option<u64>) -> TextsBar {
        let bar = new_bar(bars, total_bytes, if total_bytes.is_some() { FILE } else { STREAM });
        if bars {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        TextsBar { bar, texts: 0, started: Instant::now() }
    }

    pub(crate) fn add(&mut self, texts: usize, bytes: u64) {
        self.texts += texts as u64;
        self.bar.inc(bytes);
        if !self.bar.is_hidden() {
            let rate = self.texts as f64 / self.started.elapsed().as_secs_f64();
            self.bar.set_message(format!("{} texts, {rate:.0}/s", HumanCount(self.texts)));
        }
    }
}

impl Drop for TextsBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn new_bar(shown: bool, total: Option<u64>, template: &str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("a test parses all templates");
    ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [DOWNLOAD, DOWNLOAD_OF_UNKNOWN_SIZE, FILE, STREAM] {
            new_bar(true, None, template);
        }
    }

    #[test]
    fn reasons_are_put_on_one_line() {
        assert_eq!(on_one_line("`pip` failed:\n\n  no route\nto host\n"), "`pip` failed: no route to host");
    }
}

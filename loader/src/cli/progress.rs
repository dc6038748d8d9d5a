//! Progress of a plan or run: a bar on a terminal, else a line now and then. Always on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{complain, is_for_programs, rows, say};
use crate::run::{Phase, Progress};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often the bar is drawn anew although nothing has come in.
const TICK: Duration = Duration::from_millis(120);

/// Watches one sync.
pub(super) struct Watch {
    sync: String,
    /// Whether the id of a run is a part of the result.
    announce: bool,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines {
        /// Rows of the phase.
        rows: AtomicU64,
        /// The phase under way and when the last line was printed.
        last: Mutex<(&'static str, Instant)>,
    },
}

impl Watch {
    /// Starts watching a sync.
    pub(super) fn new(sync: &str, announce: bool) -> Self {
        let shown = if std::io::stderr().is_terminal() && !is_for_programs() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_prefix(sync.to_owned());
            set_phase(&bar, Phase::Reading, None);
            bar.enable_steady_tick(TICK);
            Shown::Bar(bar)
        } else {
            Shown::Lines { rows: AtomicU64::new(0), last: Mutex::new((word(Phase::Reading), Instant::now())) }
        };
        Self { sync: sync.to_owned(), announce, shown }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Watch {
    fn started(&self, run: &str) {
        if !self.announce {
            return;
        }
        let line = format!("{}: run {run}", self.sync);
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| say(line)),
            Shown::Lines { .. } => say(line),
        }
    }

    fn phase(&self, phase: Phase, total: Option<u64>) {
        match &self.shown {
            Shown::Bar(bar) => set_phase(bar, phase, total),
            Shown::Lines { rows, last } => {
                rows.store(0, Ordering::Relaxed);
                if let Ok(mut last) = last.lock() {
                    last.0 = word(phase);
                }
            }
        }
    }

    fn extend(&self, more: u64) {
        if let Shown::Bar(bar) = &self.shown {
            bar.inc_length(more);
        }
    }

    fn advance(&self, more: u64) {
        match &self.shown {
            Shown::Bar(bar) => bar.inc(more),
            Shown::Lines { rows: count, last } => {
                let count = count.fetch_add(more, Ordering::Relaxed) + more;
                // Whoever finds the lock taken leaves the line to its holder.
                if let Ok(mut last) = last.try_lock()
                    && last.1.elapsed() >= LINE_EVERY
                {
                    last.1 = Instant::now();
                    complain(format_args!("{}: {} {} rows", self.sync, last.0, rows(count)));
                }
            }
        }
    }
}

fn set_phase(bar: &ProgressBar, phase: Phase, total: Option<u64>) {
    let template = match total {
        Some(_) => "{prefix}: {msg} {human_pos} of {human_len} rows [{bar:30}] {elapsed}",
        None => "{spinner} {prefix}: {msg} {human_pos} rows, {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(word(phase));
    total.map_or_else(|| bar.unset_length(), |total| bar.set_length(total));
    bar.set_position(0);
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Reading => "reading",
        Phase::Comparing => "comparing",
        Phase::Pushing => "sending",
        Phase::Committing => "committing",
    }
}

//! Templates of mappings, beside the `liquid` crate on the same templates and rows.
//!
//! Contestants take turns, window by window, in random order; times are processor time of one thread, and a ratio is of
//! the least times over all windows. The crate gets its object of the row ready made, which a loader would have to build
//! for every row; ours reads the row's values where they are. Both must write the same.

mod rows;

use std::hint::black_box;

use anyhow::{anyhow, ensure};
use larder_loader::liquid::Template;

use self::rows::{Columns, Rows};
use crate::random::Random;
use crate::storage::report::{Goal, Report, Row, Unit};
use crate::storage::times::{Times, timed};

const SEED: u64 = 7;

/// In the order of the table of times.
const CONTESTANTS: [&str; 2] = ["ours", "the liquid crate"];

/// Renders a second of processor time that simple templates should reach, in thousands.
const GOAL: Goal = Goal::AtLeast(1000.0);

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Windows for each contestant
    #[arg(long, default_value_t = 30)]
    windows: usize,
    /// Renders in a window
    #[arg(long, default_value_t = 4_000)]
    renders: usize,
    /// Show the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A template, and how its rows are called in the report.
struct Subject {
    rate: &'static str,
    ratio: &'static str,
    text: &'static str,
    /// Whether the goal is for it.
    is_simple: bool,
}

const SUBJECTS: [Subject; 7] = [
    Subject {
        rate: "a column in text",
        ratio: "a column in text / crate",
        text: "Hello {{ row.first_name }}!",
        is_simple: true,
    },
    Subject {
        rate: "two filters",
        ratio: "two filters / crate",
        text: "{{ row.first_name | downcase | append: '@example.com' }}.",
        is_simple: true,
    },
    Subject {
        rate: "default and upcase",
        ratio: "default and upcase / crate",
        text: "{{ row.nickname | default: row.first_name | upcase }}.",
        is_simple: true,
    },
    Subject {
        rate: "a condition",
        ratio: "a condition / crate",
        text: "{% if row.cents > 100000 %}gold{% elsif row.cents > 10000 %}silver{% else %}plain{% endif %}",
        is_simple: true,
    },
    Subject {
        rate: "arithmetic",
        ratio: "arithmetic / crate",
        text: "{{ row.cents | plus: 100 | times: 3 }}.",
        is_simple: true,
    },
    Subject { rate: "a date", ratio: "a date / crate", text: "{{ row.at | date: '%Y-%m-%d' }}.", is_simple: true },
    Subject {
        rate: "a loop over three items",
        ratio: "a loop over three items / crate",
        text: "{% for tag in row.tags %}{{ tag }}{% unless forloop.last %}, {% endunless %}{% endfor %}",
        is_simple: false,
    },
];

/// Measures.
///
/// # Errors
/// When there is nothing to measure, or the contestants do not write the same.
pub(crate) fn measure(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.windows > 0 && options.renders > 0, "there is nothing to measure: give a window and a render");
    let rows = Rows::new();
    let mut random = Random::new(SEED);
    let mut report = Report { full: true, ..Report::default() };
    for subject in &SUBJECTS {
        measure_one(subject, &rows, options, &mut random, &mut report)?;
    }
    Ok(report)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn measure_one(
    subject: &Subject,
    rows: &Rows,
    options: &Options,
    random: &mut Random,
    report: &mut Report,
) -> anyhow::Result<()> {
    let ours = Template::parse(subject.text, &[])?;
    let columns = rows.columns(&ours);
    let crates = liquid::ParserBuilder::with_stdlib().build()?.parse(subject.text)?;
    let mut times = Times::new(subject.text.to_owned(), &CONTESTANTS);
    for _ in 0..options.windows {
        let mut order = [0, 1];
        random.shuffle(&mut order);
        for contestant in order {
            let (result, nanos) = timed(|| match contestant {
                0 => render_ours(&ours, &columns, options.renders),
                _ => render_crates(&crates, rows, options.renders),
            });
            result?;
            times.add(contestant, nanos / options.renders as f64);
        }
    }
    agree(&ours, &columns, &crates, rows)?;
    let ratio = times.ratio(0, 1);
    let rate = 1e6 / times.least(0);
    let note = subject.text.to_owned();
    report.rows.push(match subject.is_simple {
        true => Row::judged(subject.rate, rate, Unit::ThousandsPerCpuSecond, GOAL, note),
        false => Row::shown(subject.rate, rate, Unit::ThousandsPerCpuSecond, note),
    });
    let note = format!("of the least times; median of the windows' ratios {:.3}", ratio.median);
    report.rows.push(Row::shown(subject.ratio, ratio.of_least, Unit::Times, note));
    report.times.push(times);
    Ok(())
}

fn render_ours(template: &Template, columns: &[Columns<'_>], renders: usize) -> anyhow::Result<()> {
    for row in columns.iter().cycle().take(renders) {
        black_box(template.render(row)?);
    }
    Ok(())
}

fn render_crates(template: &liquid::Template, rows: &Rows, renders: usize) -> anyhow::Result<()> {
    for object in rows.objects.iter().cycle().take(renders) {
        black_box(template.render(object)?);
    }
    Ok(())
}

/// Whether both write the same for every row.
fn agree(ours: &Template, columns: &[Columns<'_>], crates: &liquid::Template, rows: &Rows) -> anyhow::Result<()> {
    for (row, object) in columns.iter().zip(&rows.objects) {
        let (one, other) = (ours.render(row)?.to_text(), crates.render(object)?);
        if one != other {
            return Err(anyhow!("the contestants do not write the same: {one:?} and {other:?}"));
        }
    }
    Ok(())
}

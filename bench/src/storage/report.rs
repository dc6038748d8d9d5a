//! What a measurement of the storage engine has found, and whether it is what was aimed at.

use std::fmt;

use serde::Serialize;

use super::times::Times;

/// All figures.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether the sizes are those that the goals are for.
    pub(crate) full: bool,
    pub(crate) rows: Vec<Row>,
    /// What the ratios of times come from.
    pub(crate) times: Vec<Times>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// Whether it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    Miss,
    /// There is a goal, but no figure: the row says why.
    NotMeasured,
    /// A figure for comparison.
    NoGoal,
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Bytes,
    /// Bytes, shown in MiB.
    Mebibytes,
    /// How many times as much.
    Times,
    Milliseconds,
    /// Thousands in a second of processor time.
    ThousandsPerCpuSecond,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// `None` if it could not be measured here; the note says why.
    pub(crate) figure: Option<f64>,
    pub(crate) unit: Unit,
    pub(crate) goal: Option<Goal>,
    pub(crate) verdict: Verdict,
    pub(crate) note: String,
}

impl Goal {
    fn verdict(self, figure: f64) -> Verdict {
        let reached = match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        };
        if reached { Verdict::Pass } else { Verdict::Miss }
    }
}

impl Row {
    /// A figure that is measured against a goal.
    pub(crate) fn judged(name: &'static str, figure: f64, unit: Unit, goal: Goal, note: String) -> Self {
        Self { name, figure: Some(figure), unit, goal: Some(goal), verdict: goal.verdict(figure), note }
    }

    /// A figure without a goal.
    pub(crate) fn shown(name: &'static str, figure: f64, unit: Unit, note: String) -> Self {
        Self { name, figure: Some(figure), unit, goal: None, verdict: Verdict::NoGoal, note }
    }

    /// A figure that is missing.
    pub(crate) fn missing(name: &'static str, unit: Unit, goal: Option<Goal>, why: String) -> Self {
        let verdict = if goal.is_some() { Verdict::NotMeasured } else { Verdict::NoGoal };
        Self { name, figure: None, unit, goal, verdict, note: why }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<48} {:>13} {:>16}  verdict", "", "figure", "goal")?;
        self.rows.iter().try_for_each(|row| write!(f, "{row}"))?;
        let missed = self.rows.iter().filter(|row| row.verdict == Verdict::Miss).count();
        let judged = self.rows.iter().filter(|row| row.goal.is_some()).count();
        writeln!(f, "{missed} of {judged} goals missed")?;
        if !self.full {
            writeln!(f, "the goals are for more records than these: --full has them")?;
        }
        if !self.times.is_empty() {
            writeln!(f, "\nprocessor time for each piece of work; contestants took turns")?;
        }
        self.times.iter().try_for_each(|times| write!(f, "{times}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = self.figure.map_or_else(|| "-".to_owned(), |figure| self.unit.show(figure));
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::AtMost(bound)) => format!("<= {}", self.unit.show(bound)),
            Some(Goal::AtLeast(bound)) => format!(">= {}", self.unit.show(bound)),
        };
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Miss => "MISS",
            Verdict::NotMeasured => "not measured",
            Verdict::NoGoal => "",
        };
        write!(f, "{:<48} {figure:>13} {goal:>16}  {verdict}", self.name)?;
        writeln!(f, "\n    {}", self.note)
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Bytes => format!("{figure:.1} B"),
            Self::Mebibytes => format!("{:.1} MiB", figure / 1024.0 / 1024.0),
            Self::Times => format!("{figure:.3} x"),
            Self::Milliseconds => format!("{figure:.2} ms"),
            Self::ThousandsPerCpuSecond => format!("{figure:.0} k/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let rows = vec![
            Row::judged("small", 9.0, Unit::Bytes, Goal::AtMost(9.0), "counted".to_owned()),
            Row::judged("fast", 2.2, Unit::Times, Goal::AtLeast(2.3), "timed".to_owned()),
            Row::shown("known", 392.0, Unit::Bytes, "elsewhere".to_owned()),
            Row::missing("absent", Unit::Bytes, None, "not installed".to_owned()),
            Row::missing("alone", Unit::Times, Some(Goal::AtMost(2.0)), "one processor".to_owned()),
        ];
        Report { full: false, rows, times: Vec::new() }
    }

    #[test]
    fn each_figure_is_shown_with_its_goal_and_verdict() {
        let text = report().to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["small", "9.0", "B", "<=", "9.0", "B", "pass"]);
        assert_eq!(lines[3], ["fast", "2.200", "x", ">=", "2.300", "x", "MISS"]);
        assert_eq!(lines[5], ["known", "392.0", "B"]);
        assert_eq!(lines[7..9], [vec!["absent", "-"], vec!["not", "installed"]]);
        assert_eq!(lines[9], ["alone", "-", "<=", "2.000", "x", "not", "measured"]);
        assert!(text.contains("1 of 3 goals missed"), "{text}");
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(report()).unwrap();
        let row = |at: usize| &json["rows"][at];
        assert_eq!(row(1)["goal"]["at_least"], 2.3);
        assert_eq!([0, 1, 2, 4].map(|at| &row(at)["verdict"]), ["pass", "miss", "no_goal", "not_measured"]);
        assert!(row(3)["figure"].is_null() && row(2)["goal"].is_null());
        assert_eq!(row(0)["unit"], "bytes");
    }
}

//! `alerts`: what is wrong now, what waits to be sent, and trying a channel.

use clap::Subcommand;
use serde::Serialize;

use super::output::{complain, say};
use super::{InProject, Shown, say_json, with_project};
use crate::observe::alerts::test_channel;
use crate::project::Project;
use crate::project::suggest::hint;
use crate::run::ExitClass;
use crate::state::State;
use crate::state::alerts::{Firing, Waiting};

/// What to do about alerts.
#[derive(Debug, Subcommand)]
pub(super) enum AlertsCommand {
    /// List the alerts that are not well, and the notices that wait to be sent.
    List(Shown),
    /// Send a test message to a channel of larder.yml.
    Test {
        /// The channel.
        channel: String,
        #[command(flatten)]
        project: InProject,
    },
}

pub(super) fn alerts(command: AlertsCommand) -> ExitClass {
    match command {
        AlertsCommand::List(shown) => with_project(&shown.project, |project| list(project, shown.json)),
        AlertsCommand::Test { channel, project } => with_project(&project, |project| test(project, &channel)),
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    /// Something is wrong.
    Alert {
        sync: &'a str,
        /// Absent for the sync as a whole.
        destination: Option<&'a str>,
        rule: &'a str,
        level: &'a str,
        since: String,
        what: &'a str,
    },
    /// A notice has not been taken yet.
    Notice { id: &'a str, channel: &'a str, title: &'a str, at: &'a str, attempts: u32, error: Option<&'a str> },
}

impl<'a> Line<'a> {
    fn of_alert(alert: &'a Firing) -> Self {
        let Firing { sync, destination, rule, level, since, what } = alert;
        let destination = Some(destination.as_str()).filter(|name| !name.is_empty());
        let (rule, level, since) = (rule.as_str(), level.as_str(), since.to_string());
        Self::Alert { sync, destination, rule, level, since, what }
    }

    fn of_notice(waiting: &'a Waiting) -> Self {
        let Waiting { channel, notice, attempts, error, .. } = waiting;
        let (id, title, at) = (&notice.id, &notice.title, &notice.at);
        Self::Notice { id, channel, title, at, attempts: *attempts, error: error.as_deref() }
    }

    fn print(&self) {
        match self {
            Self::Alert { sync, destination, rule, level, since, what } => {
                let to = destination.map(|name| format!(" to {name}")).unwrap_or_default();
                say(format_args!("{level}: {sync}{to}: {rule} since {since}: {what}"));
            }
            Self::Notice { channel, title, at, attempts, error, .. } => {
                let error = error.map(|error| format!(", last: {error}")).unwrap_or_default();
                say(format_args!("waits for {channel}: {title} (of {at}, attempts {attempts}{error})"));
            }
        }
    }
}

/// Lists what is wrong and what waits to be sent.
fn list(project: &Project, json: bool) -> ExitClass {
    let found =
        State::open(&project.state_dir).and_then(|state| Ok((state.database.firing()?, state.database.waiting()?)));
    let (firing, waiting) = match found {
        Ok(found) => found,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return ExitClass::Failed;
        }
    };
    let lines: Vec<Line<'_>> = firing.iter().map(Line::of_alert).chain(waiting.iter().map(Line::of_notice)).collect();
    if lines.is_empty() && !json {
        say("no alerts");
    }
    lines.iter().for_each(|line| if json { say_json(line) } else { line.print() });
    ExitClass::Ok
}

/// Sends a test message to a channel.
fn test(project: &Project, name: &str) -> ExitClass {
    let channels = &project.alerting.channels;
    let Some(channel) = channels.get(name) else {
        let hint = hint(name, channels.keys().map(String::as_str));
        complain(format_args!("error: larder.yml has no alert channel `{name}`; {hint}"));
        return ExitClass::Config;
    };
    match test_channel(name, channel) {
        Ok(()) => {
            say(format_args!("{name}: sent"));
            ExitClass::Ok
        }
        Err(error) => {
            complain(format_args!("error: channel {name} did not take the message: {error}"));
            ExitClass::Failed
        }
    }
}

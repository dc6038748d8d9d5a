//! The command line: what people and scripts type.
//!
//! Results go to standard output, progress and problems to standard error. With `--json`, standard output holds one
//! JSON object a line and nothing else. Exit codes: 0 done, 1 failed, 2 wrong usage or project, 3 some rows were
//! rejected, 4 stopped by a guard, 5 the sync is being run by another loader.

mod alerts;
mod approve;
mod cancel;
mod compile;
mod completions;
mod debug;
mod drivers;
mod explain_key;
mod export;
mod history;
mod init;
mod interrupt;
mod output;
mod plan;
mod preview;
mod progress;
mod requests;
mod reset;
mod rows;
mod run;
mod schedule;
mod schema;
mod serve;
mod status;
#[cfg(test)]
mod tests;
mod validate;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use larder_types::names::SyncName;
use tracing_subscriber::EnvFilter;

use crate::project::suggest::hint;
use crate::project::{FileKind, Problem, Problems, Project, SyncSpec};
use crate::run::{ExitClass, RunOptions};
use output::{LogFormat, complain, say};

const ENVIRONMENT: &str = "\
Exit codes:
  0 done, 1 failed, 2 wrong usage or project, 3 some rows were rejected, 4 stopped by a guard,
  5 the sync is being run by another loader; `plan --detailed-exitcode`: 10 there are changes

Environment:
  LARDER_ENV    the environment of larder.yml, unless --env names one
  LARDER_LOG    what to log, for example `debug`; default `warn`, for `serve` `info`
  NO_COLOR      if not empty, no colours
  Every variable that the project's files name as ${NAME}.";

/// Syncs the rows of a warehouse into the collections of a Larder cluster.
#[derive(Debug, Parser)]
#[command(name = "larder-loader", version, max_term_width = 100, after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How progress, warnings and logs are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// No colours, as if `NO_COLOR` were set.
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a small working project to start from. Nothing is overwritten.
    Init {
        /// The folder; made if it is not there.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Where the rows come from: `files`, which runs at once, `sqlite`, `postgresql`, `duckdb` or `snowflake`.
        #[arg(long, value_name = "NAME", default_value = "files", value_parser = init::Template::parse)]
        template: init::Template,
    },
    /// Check the whole project: its files, its sources, every column and template. Sends nothing.
    Validate {
        /// Ask the cluster too: who owns the fields, which types they have, the primary index.
        #[arg(long)]
        online: bool,
        /// Exit with 2 on warnings, for example of a secret that is written out.
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        place: InProject,
    },
    /// Check that sources and destinations can be reached: drivers, logins, models, the cluster and its key.
    Debug {
        /// A source or destination; all of them if none is named.
        name: Option<String>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Look after the ADBC drivers through which databases are read.
    Drivers {
        #[command(subcommand)]
        command: drivers::DriversCommand,
    },
    /// Show the SQL that the source gets for a sync, its columns, and what fields are made from.
    Compile {
        /// The sync.
        sync: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show rows of a sync as the source has them and as records. Sends nothing.
    Preview {
        /// The sync.
        sync: String,
        /// How many rows to show.
        #[arg(long, default_value_t = 10, value_name = "N")]
        limit: usize,
        /// Show only rows with this primary key. Reads until they are found, or to the end.
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show what a run would add, change and remove, and what a guard would say. Sends nothing.
    Plan(plan::PlanCommand),
    /// Run syncs: send what changed since the last run.
    Run(run::RunArguments),
    /// Send every row of a sync and sweep what the query no longer has, as `run --full`.
    Resync {
        /// The sync.
        sync: String,
        /// Let the run remove more rows than the guard allows.
        #[arg(long)]
        accept_removals: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// Run syncs by their schedules, and answer an HTTP API, until told to end.
    Serve {
        /// Where to listen; what `serve.listen` of larder.yml says, or 127.0.0.1:8090.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<std::net::SocketAddr>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show and pause schedules.
    Schedule(schedule::ScheduleCommand),
    /// Send only what an earlier run left: rows that were rejected, or not sent. Removes nothing.
    Retry {
        /// A run's id, or a sync, for its last run.
        run: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Let the next run of a sync do what a guard stopped, once, and no more than that.
    Approve {
        /// The id of the run that was stopped.
        run: String,
        /// Run the sync at once.
        #[arg(long = "run")]
        at_once: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// Stop a run that is under way, also in another process. What was acknowledged is kept.
    Cancel {
        /// The run's id.
        run: String,
        #[command(flatten)]
        place: InProject,
    },
    /// Forget what was acknowledged of a sync, and send nothing. The next run sends every row.
    Reset {
        /// The sync.
        sync: String,
        /// Only for this destination.
        #[arg(long, value_name = "NAME")]
        destination: Option<String>,
        #[command(flatten)]
        place: InProject,
    },
    /// List runs, the newest first.
    History(history::HistoryCommand),
    /// Show what is wrong now, and try the channels on which people are told.
    Alerts {
        #[command(subcommand)]
        command: alerts::AlertsCommand,
    },
    /// Print the JSON Schema of a kind of YAML file, or write those of all kinds into the project, for editors.
    Schema {
        /// `larder`, `source` or `sync`; none writes the files.
        #[arg(value_parser = schema::parse_kind)]
        kind: Option<FileKind>,
        #[command(flatten)]
        place: InProject,
    },
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Hold one driver for the loader that started this process.
    #[command(name = crate::source::adbc::WORKER_COMMAND, hide = true)]
    SourceWorker,
    /// List the requests of a run: each attempt to send a batch, and how it ended.
    Requests(requests::RequestsCommand),
    /// List the rejected rows of a run. Shows primary keys.
    Rows(rows::RowsCommand),
    /// Explain a key: its row now, what was acknowledged, when it was sent last, the record in each cluster.
    ExplainKey(explain_key::ExplainKeyCommand),
    /// Show how syncs are doing: last run, last success, next run, rows, holds.
    Status(status::StatusCommand),
}

#[derive(Debug, Args)]
struct InProject {
    /// The project's folder.
    #[arg(long, default_value = ".", value_name = "DIR")]
    project: PathBuf,
    /// The environment of `larder.yml` to use; default LARDER_ENV.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    project: InProject,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs the program: reads the arguments of the process, does what they say, and tells the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let arguments = Arguments::parse();
    // What the daemon does it says in its log alone.
    let default = if matches!(arguments.command, Command::Serve { .. }) { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    output::set_format(arguments.log_format);
    let is_plain = arguments.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !is_plain && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(colours).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    if matches!(arguments.command, Command::SourceWorker) {
        return crate::source::adbc::worker_main();
    }
    ExitCode::from(dispatch(arguments.command).code())
}

fn dispatch(command: Command) -> ExitClass {
    match command {
        // Answered where the exit code is its own.
        Command::SourceWorker => ExitClass::Config,
        Command::Alerts { command } => alerts::alerts(command),
        Command::Init { dir, template } => init::init(&dir, template),
        Command::Schema { kind: Some(kind), .. } => schema::print(kind),
        Command::Schema { kind: None, place } => schema::write(&place.project),
        Command::Completions { shell } => completions::completions(shell),
        Command::Validate { online, strict, place } => {
            with_project(&place, |project| validate::validate(project, validate::Depth { online, strict }))
        }
        Command::Debug { name, shown } => {
            with_project(&shown.project, |project| debug::debug(project, name.as_deref(), shown.json))
        }
        Command::Drivers { command } => drivers::drivers(command),
        Command::Compile { sync, shown } => with_project(&shown.project, |project| {
            with_sync(project, sync, |sync| compile::compile(project, sync, shown.json))
        }),
        Command::Preview { sync, limit, key, shown } => with_project(&shown.project, |project| {
            let wanted = preview::Wanted { limit, key };
            with_sync(project, sync, |sync| preview::preview(project, sync, &wanted, shown.json))
        }),
        Command::Plan(command) => plan::plan(&command),
        Command::Run(arguments) => with_project(&arguments.shown.project, |project| {
            with_syncs(project, &arguments.syncs, |syncs| arguments.run(project, syncs))
        }),
        Command::Resync { sync, accept_removals, shown } => with_project(&shown.project, |project| {
            let cancel = interrupt::cancelled_by_signals();
            let options = RunOptions { full: true, accept_removals, cancel, ..RunOptions::default() };
            with_sync(project, sync, |sync| run::run(project, sync, &options, shown.json))
        }),
        Command::Retry { run, shown } => with_project(&shown.project, |project| run::retry(project, &run, shown.json)),
        Command::Approve { run, at_once, shown } => {
            with_project(&shown.project, |project| approve::approve(project, &run, at_once, shown.json))
        }
        Command::Cancel { run, place } => with_project(&place, |project| cancel::cancel(project, &run)),
        Command::Reset { sync, destination, place } => with_project(&place, |project| {
            with_sync(project, sync, |sync| reset::reset(project, sync, destination.as_deref()))
        }),
        Command::Serve { listen, shown } => serve::serve(&shown.project, listen, shown.json),
        Command::Schedule(command) => schedule::schedule(command),
        Command::History(command) => history::history(&command),
        Command::Requests(command) => requests::requests(&command),
        Command::Rows(command) => rows::rows(&command),
        Command::ExplainKey(command) => explain_key::explain_key(&command),
        Command::Status(command) => status::run(&command),
    }
}

/// Loads the project, or says everything that is wrong with it.
fn with_project(place: &InProject, action: impl FnOnce(&Project) -> ExitClass) -> ExitClass {
    match place.load() {
        Ok(project) => {
            project.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
            action(&project)
        }
        Err(problems) => refuse(&problems.0),
    }
}

impl InProject {
    fn load(&self) -> Result<Project, Problems> {
        let environment = self.env.clone().or_else(|| std::env::var("LARDER_ENV").ok().filter(|name| !name.is_empty()));
        Project::load(&self.project, environment.as_deref())
    }
}

fn refuse(problems: &[Problem]) -> ExitClass {
    problems.iter().for_each(|problem| complain(format_args!("error: {problem}")));
    let count = problems.len();
    complain(format_args!("{count} {}", if count == 1 { "problem" } else { "problems" }));
    ExitClass::Config
}

/// Finds the named syncs, or takes all of them if none is named.
fn with_syncs(project: &Project, names: &[String], action: impl FnOnce(&[&SyncSpec]) -> ExitClass) -> ExitClass {
    let mut syncs: Vec<&SyncSpec> = Vec::new();
    for name in names {
        match SyncName::new(name).ok().and_then(|name| project.syncs.get(&name)) {
            Some(sync) if syncs.iter().any(|other| other.name == sync.name) => {}
            Some(sync) => syncs.push(sync),
            None => {
                let hint = hint(name, project.syncs.keys().map(SyncName::as_str));
                complain(format_args!("error: there is no sync `{name}`; {hint}"));
                return ExitClass::Config;
            }
        }
    }
    if names.is_empty() {
        syncs.extend(project.syncs.values());
    }
    action(&syncs)
}

/// Finds the one sync that is named.
fn with_sync(project: &Project, name: String, action: impl FnOnce(&SyncSpec) -> ExitClass) -> ExitClass {
    with_syncs(project, &[name], |syncs| syncs.first().map_or(ExitClass::Config, |sync| action(sync)))
}

/// The exit of several syncs: that of the worst one.
fn worst(exits: impl IntoIterator<Item = ExitClass>) -> ExitClass {
    const FROM_BEST: [ExitClass; 7] = [
        ExitClass::Ok,
        ExitClass::Changes,
        ExitClass::Partial,
        ExitClass::Blocked,
        ExitClass::Locked,
        ExitClass::Config,
        ExitClass::Failed,
    ];
    let rank = |exit: &ExitClass| FROM_BEST.iter().position(|other| other == exit);
    exits.into_iter().max_by_key(rank).unwrap_or(ExitClass::Ok)
}

/// Prints a value as one line of JSON.
fn say_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say(text),
        Err(error) => complain(format_args!("error: the result cannot be written as JSON: {error}")),
    }
}

/// The names of the templates of [`Command::Init`].
#[cfg(test)]
pub(crate) fn template_names() -> impl Iterator<Item = &'static str> {
    init::TEMPLATES.iter().map(|template| template.name)
}

/// Writes a project by a template. Tells whether that worked.
#[cfg(test)]
pub(crate) fn write_template(folder: &std::path::Path, name: &str) -> bool {
    init::Template::parse(name).is_ok_and(|template| init::init(folder, template) == ExitClass::Ok)
}

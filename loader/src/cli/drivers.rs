//! `drivers`: which ADBC drivers are found where, whether they load, and how to get and use them.

use clap::Subcommand;
use serde::Serialize;

use super::output::{complain, say};
use super::say_json;
use crate::cancel::Cancel;
use crate::project::DriverSource;
use crate::project::suggest::hint;
use crate::run::ExitClass;
use crate::source::adbc::Adbc;
use crate::source::adbc::known::{self, KNOWN, Known};
use crate::source::adbc::locate::{self, Found};

/// What to do with drivers.
#[derive(Debug, Subcommand)]
pub(super) enum DriversCommand {
    /// List the known drivers and those that have a manifest: where each was found, or how to install it.
    List {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Load drivers, each in a process of its own, without logging in. Exits with 1 if one does not load.
    Check {
        /// The drivers; all that are found if none is named.
        names: Vec<String>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Tell all about one driver: what it connects to, its uri and options, and how to install it.
    Explain {
        /// The driver.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// A driver as it is shown.
#[derive(Serialize)]
struct Line<'a> {
    driver: &'a str,
    found: bool,
    manifest: Option<String>,
    library: Option<String>,
    version: Option<String>,
    licence: Option<String>,
    /// Why it was not found or does not load.
    problem: Option<String>,
    install: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loads: Option<bool>,
}

/// All about one driver.
#[derive(Serialize)]
struct Explanation<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    title: Option<&'static str>,
    dialect: Option<&'static str>,
    uri: Option<&'static str>,
    options: Vec<Choice>,
    note: Option<&'static str>,
    searched: Vec<String>,
}

#[derive(Serialize)]
struct Choice {
    name: &'static str,
    what: &'static str,
}

pub(super) fn drivers(command: DriversCommand) -> ExitClass {
    match command {
        DriversCommand::List { json } => list(json),
        DriversCommand::Check { names, json } => check(names, json),
        DriversCommand::Explain { name, json } => explain(&name, json),
    }
}

impl<'a> Line<'a> {
    fn of(name: &'a str, found: &Result<Found, String>) -> Self {
        let known = known::find(name);
        let place = found.as_ref().ok();
        let show = |path: &std::path::PathBuf| path.display().to_string();
        Line {
            driver: name,
            found: place.is_some(),
            manifest: place.and_then(|found| found.manifest.as_ref()).map(show),
            library: place.map(|found| show(&found.library)),
            version: place.and_then(|found| found.version.clone()),
            licence: place
                .and_then(|found| found.licence.clone())
                .or_else(|| known.map(|known| known.licence.to_owned()))
                .filter(|licence| !licence.is_empty()),
            problem: found.as_ref().err().cloned(),
            install: known.map(Known::install),
            loads: None,
        }
    }
}

/// The known drivers, then whatever else has a manifest.
fn all_names(folders: &[std::path::PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = KNOWN.iter().map(|known| known.name.to_owned()).collect();
    names.extend(locate::names(folders).into_iter().filter(|name| known::find(name).is_none()));
    names
}

fn list(json: bool) -> ExitClass {
    let folders = locate::folders();
    if !json {
        ["files", "sqlite"].iter().for_each(|name| say(format_args!("{name:12} embedded")));
    }
    for name in all_names(&folders) {
        let found = locate::by_name(&name, &folders);
        let line = Line::of(&name, &found);
        if json {
            say_json(&line);
            continue;
        }
        let version = line.version.as_deref().unwrap_or("-");
        match (&line.manifest, &line.install) {
            (Some(manifest), _) => say(format_args!("{name:12} {version:10} {manifest}")),
            // A manifest that is there and wrong.
            (None, _) if locate::names(&folders).contains(&name) => {
                say(format_args!("{name:12} broken     {}", line.problem.as_deref().unwrap_or_default()));
            }
            (None, install) => {
                say(format_args!("{name:12} missing    {}", install.as_deref().unwrap_or_default()));
            }
        }
    }
    ExitClass::Ok
}

fn check(names: Vec<String>, json: bool) -> ExitClass {
    let folders = locate::folders();
    let names = if names.is_empty() { locate::names(&folders) } else { names };
    let mut exit = ExitClass::Ok;
    if names.is_empty() {
        complain("no driver is installed; `larder-loader drivers list` tells how to install one");
    }
    for name in names {
        let found = locate::by_name(&name, &folders);
        let mut line = Line::of(&name, &found);
        if found.is_ok() {
            line.problem = DriverSource::bare(&name)
                .and_then(|source| Adbc::new(&source, &Cancel::default()).and_then(|adbc| adbc.load()).err())
                .map(|error| error.to_string());
        }
        let loads = line.problem.is_none();
        line.loads = Some(loads);
        if !loads {
            exit = ExitClass::Failed;
        }
        match (&line.problem, json) {
            (_, true) => say_json(&line),
            (None, false) => say(format_args!("{name}: ok, {}", line.library.as_deref().unwrap_or_default())),
            (Some(problem), false) => {
                complain(format_args!("{name}: {problem}"));
                if let Some(install) = line.install.as_ref().filter(|_| !line.found) {
                    complain(format_args!("{name}: install it with `{install}`"));
                }
            }
        }
    }
    exit
}

fn explain(name: &str, json: bool) -> ExitClass {
    let folders = locate::folders();
    let known = known::find(name);
    let found = locate::by_name(name, &folders);
    if known.is_none() && found.is_err() && !locate::names(&folders).iter().any(|other| other == name) {
        let names = all_names(&folders);
        let hint = hint(name, names.iter().map(String::as_str));
        complain(format_args!("error: there is no driver `{name}`; {hint}"));
        return ExitClass::Config;
    }
    let explanation = Explanation {
        line: Line::of(name, &found),
        title: known.map(|known| known.title),
        dialect: known.map(|known| known.dialect.as_str()),
        uri: known.map(|known| known.uri).filter(|uri| !uri.is_empty()),
        options: known.into_iter().flat_map(|known| known.options).map(|(name, what)| Choice { name, what }).collect(),
        note: known.map(|known| known.note).filter(|note| !note.is_empty()),
        searched: folders.iter().map(|folder| folder.display().to_string()).collect(),
    };
    if json {
        say_json(&explanation)
    } else {
        print(&explanation)
    }
    ExitClass::Ok
}

fn print(explanation: &Explanation<'_>) {
    let Explanation { line, .. } = explanation;
    say(format_args!("{}: {}", line.driver, explanation.title.unwrap_or("not a driver that the loader knows")));
    match (&line.library, &line.problem) {
        (Some(library), _) => {
            let manifest = line.manifest.as_deref().unwrap_or_default();
            say(format_args!("  found     {manifest}"));
            say(format_args!("  library   {library}"));
        }
        (None, problem) => {
            say(format_args!("  missing   {}", problem.as_deref().unwrap_or_default()));
            if let Some(install) = &line.install {
                say(format_args!("  install   {install}    (or give the library's path as `driver`)"));
            }
        }
    }
    let shown = [
        ("version", line.version.as_deref()),
        ("licence", line.licence.as_deref()),
        ("dialect", explanation.dialect),
        ("uri", explanation.uri),
        ("note", explanation.note),
    ];
    for (name, value) in shown {
        if let Some(value) = value {
            say(format_args!("  {name:9} {value}"));
        }
    }
    for option in &explanation.options {
        say(format_args!("  option    {}: {}", option.name, option.what));
    }
    say(format_args!("  searched  {}", explanation.searched.join(", ")));
}

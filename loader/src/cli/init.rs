//! `init`: a small working project to start from.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::output::{complain, say};
use super::schema;
use crate::run::ExitClass;

/// A file of a project and what is in it.
type File = (&'static str, &'static str);

/// Files that every project begins with.
const COMMON: [File; 2] =
    [("larder.yml", include_str!("template/larder.yml")), (".gitignore", include_str!("template/gitignore"))];

/// A project over files that it brings along, so that it runs at once.
const OVER_FILES: [File; 4] = [
    ("models/customers.sql", include_str!("template/files/models/customers.sql")),
    ("syncs/customers.yml", include_str!("template/files/syncs/customers.yml")),
    ("data/customers.csv", include_str!("template/files/data/customers.csv")),
    ("data/orders.csv", include_str!("template/files/data/orders.csv")),
];

/// A project over a database that is there.
const OVER_DATABASE: [File; 2] = [
    ("models/customers.sql", include_str!("template/warehouse/models/customers.sql")),
    ("syncs/customers.yml", include_str!("template/warehouse/syncs/customers.yml")),
];

/// Where a project's rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) name: &'static str,
    source: &'static str,
    files: &'static [File],
}

/// All templates; the first is the one that runs without anything else.
pub(super) const TEMPLATES: [Template; 5] = [
    Template { name: "files", source: include_str!("template/source/files.yml"), files: &OVER_FILES },
    Template { name: "sqlite", source: include_str!("template/source/sqlite.yml"), files: &OVER_DATABASE },
    Template { name: "postgresql", source: include_str!("template/source/postgresql.yml"), files: &OVER_DATABASE },
    Template { name: "duckdb", source: include_str!("template/source/duckdb.yml"), files: &OVER_DATABASE },
    Template { name: "snowflake", source: include_str!("template/source/snowflake.yml"), files: &OVER_DATABASE },
];

impl Template {
    /// The template with this name.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let found = TEMPLATES.into_iter().find(|template| template.name == name);
        found.ok_or_else(|| crate::project::suggest::hint(name, TEMPLATES.iter().map(|template| template.name)))
    }

    fn files(self) -> impl Iterator<Item = File> {
        COMMON.into_iter().chain([("sources/shop.yml", self.source)]).chain(self.files.iter().copied())
    }
}

/// Writes the project into a folder, unless one of its files is there already.
pub(super) fn init(folder: &Path, template: Template) -> ExitClass {
    let taken: Vec<&str> =
        template.files().map(|(name, _)| name).filter(|name| folder.join(name).symlink_metadata().is_ok()).collect();
    if !taken.is_empty() {
        let taken = taken.join(", ");
        complain(format_args!("error: {} already has {taken}; nothing was written", folder.display()));
        return ExitClass::Config;
    }
    for (name, content) in template.files() {
        if let Err(error) = write_new(&folder.join(name), content) {
            complain(format_args!("error: {}: {error}", folder.join(name).display()));
            return ExitClass::Failed;
        }
        say(format_args!("wrote {}", folder.join(name).display()));
    }
    if schema::write(folder) != ExitClass::Ok {
        return ExitClass::Failed;
    }
    let place = if folder == Path::new(".") { String::new() } else { format!(" --project {}", folder.display()) };
    say(format_args!("next: larder-loader validate{place}"));
    ExitClass::Ok
}

fn write_new(file: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(file)?.write_all(content.as_bytes())
}

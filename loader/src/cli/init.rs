//! `init`: a small working project to start from.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::output::{complain, say};
use crate::run::ExitClass;

/// The files of the project and what is in them.
const FILES: [(&str, &str); 7] = [
    ("larder.yml", include_str!("template/larder.yml")),
    ("sources/shop.yml", include_str!("template/sources/shop.yml")),
    ("models/customers.sql", include_str!("template/models/customers.sql")),
    ("syncs/customers.yml", include_str!("template/syncs/customers.yml")),
    ("data/customers.csv", include_str!("template/data/customers.csv")),
    ("data/orders.csv", include_str!("template/data/orders.csv")),
    (".gitignore", include_str!("template/gitignore")),
];

/// Writes the project into a folder, unless one of its files is there already.
pub(super) fn init(folder: &Path) -> ExitClass {
    let taken: Vec<&str> =
        FILES.iter().map(|(name, _)| *name).filter(|name| folder.join(name).symlink_metadata().is_ok()).collect();
    if !taken.is_empty() {
        let taken = taken.join(", ");
        complain(format_args!("error: {} already has {taken}; nothing was written", folder.display()));
        return ExitClass::Config;
    }
    for (name, content) in FILES {
        if let Err(error) = write_new(&folder.join(name), content) {
            complain(format_args!("error: {}: {error}", folder.join(name).display()));
            return ExitClass::Failed;
        }
        say(format_args!("wrote {}", folder.join(name).display()));
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

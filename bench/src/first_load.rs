//! The command `first-load`: a collection filled for the first time by larder-loader, beside a script that does the least
//! that fills Redis with the same rows.
//!
//! Both read one CSV file of made-up customers. The loader infers types, hashes every row for the next comparison, maps
//! it, and sends it in batches that the server has on disk before it acknowledges them. The script splits lines and
//! pipelines `HSET`s over a socket file: once into a Redis that keeps nothing on disk, and once into one that has every
//! command on disk before it answers, which is what Larder promises. Contestants take turns, each on an empty server, so
//! that whatever else the machine does meets them alike. Rates are rows a second by the clock on the wall, from the start
//! of the process that loads to the last acknowledgement.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::compare::API_KEY;
use crate::compare::child::{self, Server};
use crate::compare::filling::Filler;
use crate::redis::{self, Durability, PIPELINED};
use crate::storage::customer::{Customer, CustomerKey, FIELDS};
use crate::storage::times::median;

/// Options of `first-load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The larder-server to start; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// The larder-loader to run; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    loader_bin: Option<PathBuf>,
    /// Rows to load
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
    /// Rounds: one load by each contestant
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: u64,
    /// Rows a second by round.
    larder: Vec<f64>,
    /// The same of a Redis that keeps nothing on disk; empty if there is no Redis.
    redis: Vec<f64>,
    /// The same of a Redis that has every command on disk before it answers.
    redis_durable: Vec<f64>,
    redis_version: Option<String>,
}

/// Runs the measurement.
///
/// # Errors
/// When a program does not start, or a row does not arrive.
pub(crate) async fn measure(options: Options) -> anyhow::Result<Report> {
    let server = child::binary(options.server_bin.as_deref())?;
    let loader = match options.loader_bin {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("larder-loader"),
    };
    ensure!(loader.is_file(), "there is no larder-loader at {}; --loader-bin names another", loader.display());
    let folder = tempfile::tempdir().context("there is no scratch folder")?;
    let file = folder.path().join("customers.csv");
    write_rows(&file, options.rows)?;
    let mut report =
        Report { rows: options.rows, larder: vec![], redis: vec![], redis_durable: vec![], redis_version: None };
    for _ in 0..options.rounds {
        let scratch = tempfile::tempdir_in(folder.path())?;
        report.larder.push(rate(options.rows, by_loader(&server, &loader, scratch.path(), &file, options.rows).await?));
        for durability in [Durability::None, Durability::EveryCommand] {
            let scratch = tempfile::tempdir_in(folder.path())?;
            let Some(mut redis) = redis::Server::start(scratch.path(), durability)? else { continue };
            let rate = rate(options.rows, by_script(&mut redis, &file, options.rows)?);
            match durability {
                Durability::None => report.redis.push(rate),
                Durability::EveryCommand => report.redis_durable.push(rate),
            }
            report.redis_version = Some(redis.version()?);
        }
    }
    Ok(report)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(rows: u64, time: Duration) -> f64 {
    rows as f64 / time.as_secs_f64()
}

/// Writes the customers as CSV. None of their values needs a quote.
fn write_rows(file: &Path, rows: u64) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(file).context("cannot write into the scratch folder")?);
    writeln!(out, "{}", FIELDS.join(","))?;
    for number in 0..rows {
        let values: Vec<String> = Customer::new(number).fields()?.iter().map(|(_, value)| value.to_text()).collect();
        writeln!(out, "{}", values.join(","))?;
    }
    Ok(out.flush()?)
}

/// Loads the rows into a new server and looks a few up.
async fn by_loader(server: &Path, loader: &Path, scratch: &Path, file: &Path, rows: u64) -> anyhow::Result<Duration> {
    let server = Server::start_larder(server, scratch, API_KEY).await?;
    let project = write_project(scratch, file, &server)?;
    let began = Instant::now();
    let output = Command::new(loader)
        .args(["run", "customers", "--project"])
        .arg(project)
        .env("LARDER_BENCH_KEY", API_KEY)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", loader.display()))?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "larder-loader ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let mut reader = Filler::connect(&server.target, API_KEY).await?;
    for number in [0, rows / 2, rows - 1] {
        let path = format!("/v1/collections/customers/records/id/{}", CustomerKey::text(number));
        let found = reader.get(&path).await.context("a customer was loaded and cannot be looked up")?;
        ensure!(found.as_object().map(serde_json::Map::len) == Some(FIELDS.len()), "a customer lacks fields: {found}");
    }
    Ok(took)
}

fn write_project(scratch: &Path, file: &Path, server: &Server) -> anyhow::Result<PathBuf> {
    let project = scratch.join("project");
    for folder in ["sources", "syncs"] {
        std::fs::create_dir_all(project.join(folder)).context("cannot write into the scratch folder")?;
    }
    let cluster = format!("cluster: {{url: \"http://{}\", key: \"${{LARDER_BENCH_KEY}}\"}}\n", server.target.address);
    let source = format!("driver: files\ntables: {{customers: {:?}}}\n", file.display().to_string());
    let sync =
        format!("source: csv\ntable: customers\nkey: id\ncollection: customers\ncolumns: [{}]\n", FIELDS.join(", "));
    for (name, text) in [("larder.yml", cluster), ("sources/csv.yml", source), ("syncs/customers.yml", sync)] {
        std::fs::write(project.join(name), text).context("cannot write into the scratch folder")?;
    }
    Ok(project)
}

/// What a script does: a line, its values, a hash of them.
fn by_script(redis: &mut redis::Server, file: &Path, rows: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut lines = BufReader::new(File::open(file)?).lines().skip(1);
    loop {
        let batch: Vec<String> = lines.by_ref().take(PIPELINED).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        let hashes = batch.iter().map(|line| {
            let values: Vec<&str> = line.split(',').collect();
            (values[0].to_owned(), values)
        });
        redis.hset(&FIELDS, hashes)?;
    }
    let took = began.elapsed();
    let keys = redis.keys()?;
    ensure!(keys == rows, "Redis holds {keys} hashes of {rows}");
    Ok(took)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let larder = median(&self.larder);
        writeln!(
            f,
            "first load of {} rows of {} fields, rows/s, medians of {} rounds",
            self.rows,
            FIELDS.len(),
            self.larder.len()
        )?;
        writeln!(f, "{:<44} {larder:>9.0}", "larder-loader, on disk before acknowledged")?;
        let Some(version) = &self.redis_version else {
            return writeln!(f, "redis-server is not installed, so there is nothing beside it");
        };
        for (name, rates) in [
            (format!("script, HSET x {PIPELINED}, Redis {version} in memory"), &self.redis),
            (format!("script, HSET x {PIPELINED}, Redis appendfsync always"), &self.redis_durable),
        ] {
            writeln!(f, "{name:<44} {:>9.0}   larder / this: {:.2}", median(rates), larder / median(rates))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_all_and_their_ratios() {
        let mut report = Report {
            rows: 9,
            larder: vec![100.0, 300.0, 200.0],
            redis: vec![400.0],
            redis_durable: vec![50.0],
            redis_version: Some("7.0".to_owned()),
        };
        let text = report.to_string();
        assert!(text.contains("larder / this: 0.50") && text.contains("larder / this: 4.00"), "{text}");
        report.redis_version = None;
        assert!(report.to_string().contains("not installed"), "{report}");
    }

    #[test]
    fn a_script_fills_redis_with_every_row() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.csv");
        let rows = PIPELINED as u64 + 3;
        write_rows(&file, rows).unwrap();
        for durability in [Durability::None, Durability::EveryCommand] {
            let scratch = tempfile::tempdir().unwrap();
            if let Some(mut redis) = redis::Server::start(scratch.path(), durability).unwrap() {
                by_script(&mut redis, &file, rows).unwrap();
                by_script(&mut redis, &file, rows).expect_err("hashes that are there already gain no field");
            }
        }
    }
}

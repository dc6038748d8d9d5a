//! A PostgreSQL as warehouse whose rows change, leave and come back, while the loader, the node and the database's
//! connections are killed at random: after every run that ends well each collection is what its query gives, and no row
//! was sent that had not changed.
//!
//! `LARDER_TEST_ROWS` sets the number of rows (default 40 000), `LARDER_TEST_ROUNDS` that of the rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::postgres::{PASSWORD, Postgres};
use larder_tests::process::{Node, ROOT_KEY, binary, free_address};
use larder_tests::random::Random;
use larder_tests::{drivers, scratch};
use serde_json::{Value, json};

/// What becomes of rows that leave, one sync each; all read the same query.
const SYNCS: [&str; 3] = ["keep", "clear", "delete"];
/// Records of each collection that are looked up after a round, beside all those that the round changed.
const LOOKUPS: u64 = 300;
/// Changed records that are looked up after a round.
const CHANGED: usize = 300;
/// Attempts at one round's run until it ends well: no fault comes after the fourth.
const ATTEMPTS: u32 = 12;
const FAULTY: u32 = 4;

/// A row as the query gives it: name, amount as its digits, and city.
type Row = (String, String, String);
/// The query's result.
type Rows = BTreeMap<u64, Row>;

/// One record as it should be found.
#[derive(Clone, Debug, PartialEq)]
enum Record {
    Whole(Value),
    /// The sync's fields were cleared, and nobody else has any.
    Cleared,
}

struct World {
    project: tempfile::TempDir,
    warehouse: Postgres,
    node: Option<Node>,
    random: Random,
    /// What each sync's collection must hold, after the last run that ended well.
    collections: BTreeMap<&'static str, BTreeMap<u64, Record>>,
    /// The version of the mapping that the last run had.
    version: u64,
    /// How long all syncs take when nothing is killed: faults come within this time.
    undisturbed: Duration,
    /// Attempts that a fault kept from ending well.
    broken: u32,
}

#[test]
fn collections_are_what_their_query_gives_whatever_is_killed() -> Result<()> {
    let rows = number("LARDER_TEST_ROWS", 40_000)?;
    let rounds = number("LARDER_TEST_ROUNDS", 8)?;
    let data = scratch::folder()?;
    let mut world = World::new(data.path(), rows)?;
    for round in 0..rounds {
        // The first round loads everything, the second is quiet, and one in four changes the mapping.
        let version = 1 + round / 4;
        if round > 0 {
            world.change_rows(round, rows)?;
        }
        world.round(round, version, round != 1)?;
    }
    println!("{} attempts of {rounds} rounds were broken off, {}", world.broken, world.random.seed());
    assert!(world.broken > 0, "no fault met a run, so nothing was tried, {}", world.random.seed());
    Ok(())
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(default),
    }
}

impl World {
    fn new(data: &Path, rows: u64) -> Result<Self> {
        let warehouse = Postgres::start()?;
        warehouse.sql(&format!(
            "CREATE TABLE people (id bigint PRIMARY KEY, name text, spent numeric(12, 2), city text, active bool);
             INSERT INTO people SELECT id, 'person ' || id, id % 100000 / 100.0, 'city ' || id % 97, id % 50 <> 0
             FROM generate_series(1, {rows}) AS id"
        ))?;
        let project = scratch::folder()?;
        let uri = warehouse.uri().replace(PASSWORD, "${PGPASSWORD}");
        let file = |name: &str, text: &str| scratch::write(&project.path().join(name), text);
        file("larder.yml", "cluster: {url: \"${LARDER_URL}\", key: \"${LARDER_KEY}\"}\n")?;
        file("sources/warehouse.yml", &format!("driver: postgresql\nuri: {uri}\n"))?;
        file("models/active.sql", "SELECT id, name, spent, city FROM people WHERE active\n")?;
        let node = Node::start_with(data, free_address()?, &[])?;
        let collections = SYNCS.into_iter().map(|sync| (sync, BTreeMap::new())).collect();
        let random = Random::from_environment();
        let (node, undisturbed) = (Some(node), Duration::from_secs(2));
        Ok(Self { project, warehouse, node, random, collections, version: 0, undisturbed, broken: 0 })
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("the node did not come back")
    }

    /// One row in a hundred changes, others leave, come back, or are new.
    fn change_rows(&mut self, round: u64, rows: u64) -> Result<()> {
        let [changed, left] = [100, 150].map(|of| self.random.below(of));
        let (first, last) = (rows + round * 1_000_000, rows + round * 1_000_000 + rows / 200);
        self.warehouse
            .sql(&format!(
                "UPDATE people SET spent = spent + {round}.01, name = name || '.' WHERE id % 100 = {changed};
                 UPDATE people SET active = (id % 300 < 150) WHERE id % 150 = {left};
                 INSERT INTO people SELECT id, 'new ' || id, 1.5, 'city ' || id % 97, true
                 FROM generate_series({first}, {last}) AS id"
            ))
            .map(drop)
    }

    fn round(&mut self, round: u64, version: u64, faults: bool) -> Result<()> {
        self.write_syncs(version)?;
        let rows = self.query()?;
        let mut changes = BTreeMap::new();
        for sync in SYNCS {
            changes.insert(sync, self.expect(sync, version, &rows));
        }
        for attempt in 0.. {
            ensure!(attempt < ATTEMPTS, "round {round} does not end well, {}", self.random.seed());
            let ended = self.attempt(faults && attempt < FAULTY)?;
            for report in &ended {
                let Some(sent) = report["run"]["sent"].as_u64() else { continue };
                let sync = report["sync"].as_str().context("a report names no sync")?;
                let most = changes[sync].len() as u64;
                assert!(sent <= most, "{sync}, round {round}: {sent} rows sent for {most} changes: {report}");
                if !faults && self.version == version {
                    assert_eq!(sent, most, "{sync}, round {round}: {report}");
                }
            }
            if ended.len() == SYNCS.len() && ended.iter().all(|report| report["exit_code"] == 0) {
                break;
            }
            self.broken += 1;
        }
        self.version = version;
        for (sync, changed) in changes {
            self.check(sync, &changed).with_context(|| format!("{sync}, round {round}, {}", self.random.seed()))?;
        }
        self.nothing_is_left(rows.len() as u64)
    }

    fn write_syncs(&self, version: u64) -> Result<()> {
        for sync in SYNCS {
            let text = format!(
                "source: warehouse\nmodel: active\nkey: id\ncollection: {sync}\non_exit: {sync}\n\
                 columns: [name, spent, city]\nfields: {{greeting: {{template: 'v{version} {{{{ row.name }}}}'}}}}\n"
            );
            scratch::write(&self.project.path().join(format!("syncs/{sync}.yml")), &text)?;
        }
        Ok(())
    }

    fn query(&self) -> Result<Rows> {
        let text = self.warehouse.sql("SELECT id, name, spent, city FROM people WHERE active")?;
        let rows = text.lines().map(|line| {
            let parts: Vec<&str> = line.split('|').collect();
            let [id, name, spent, city] = parts[..] else { anyhow::bail!("the row {line} is not one of the query's") };
            Ok((id.parse()?, (name.to_owned(), spent.to_owned(), city.to_owned())))
        });
        rows.collect()
    }

    /// Works the query's result into what the collection must hold, and returns the keys whose records change.
    fn expect(&mut self, sync: &'static str, version: u64, rows: &Rows) -> Vec<u64> {
        let mut changed = Vec::new();
        let records = self.collections.entry(sync).or_default();
        for (id, (name, spent, city)) in rows {
            // Compared as text, since the answer has the amount's digits as they are.
            let record = Record::Whole(
                json!({"name": name, "spent": spent, "city": city, "greeting": format!("v{version} {name}")}),
            );
            if records.get(id) != Some(&record) {
                changed.push(*id);
                records.insert(*id, record);
            }
        }
        let gone: Vec<u64> = records.keys().filter(|id| !rows.contains_key(id)).copied().collect();
        for id in gone {
            match (sync, &records[&id]) {
                ("clear", Record::Whole(_)) => drop(records.insert(id, Record::Cleared)),
                ("delete", _) => drop(records.remove(&id)),
                _ => continue,
            }
            changed.push(id);
        }
        changed
    }

    /// Starts the loader on all syncs and, if `fault`, kills something at random. Returns the reports of runs that ended.
    fn attempt(&mut self, fault: bool) -> Result<Vec<Value>> {
        let began = Instant::now();
        let mut loader = self.start_loader()?;
        if fault {
            let longest = u64::try_from(self.undisturbed.as_millis())?;
            // At any moment of the run: this is no wait for something to happen.
            std::thread::sleep(Duration::from_millis(self.random.below(longest)));
            match self.random.below(4) {
                0 | 1 => loader.kill()?,
                2 => self.node = Some(self.node.take().context("there is no node")?.crash_and_restart()?),
                _ => drop(self.warehouse.disconnect_all()?),
            }
        }
        let done = loader.wait_with_output()?;
        if !fault {
            self.undisturbed = began.elapsed();
        }
        let text = String::from_utf8_lossy(&done.stdout);
        // Of a killed loader, the last line may be cut off.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn loader(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("larder-loader")?);
        command
            .args(arguments)
            .current_dir(self.project.path())
            .env("ADBC_DRIVER_PATH", drivers::folder())
            .env("LARDER_URL", self.node()?.url())
            .env("LARDER_KEY", ROOT_KEY)
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(command)
    }

    fn start_loader(&self) -> Result<Child> {
        self.loader(&["run", "--json"])?.spawn().context("cannot start larder-loader")
    }

    /// Looks up records that changed, and others at random, also ones that must not be there.
    fn check(&mut self, sync: &'static str, changed: &[u64]) -> Result<()> {
        let expected = self.collections.remove(sync).context("nothing is expected")?;
        let info = self.node()?.client().get(&format!("/v1/collections/{sync}"))?.expect(200).value();
        let whole = expected.values().filter(|record| matches!(record, Record::Whole(_))).count();
        if sync != "clear" {
            assert_eq!(info["records"], whole, "{info}");
        }
        let every = changed.len().div_ceil(CHANGED).max(1);
        let mut keys: Vec<u64> = changed.iter().step_by(every).copied().collect();
        let all: Vec<u64> = expected.keys().copied().collect();
        keys.extend((0..LOOKUPS).map(|_| all[usize::try_from(self.random.below(all.len() as u64)).unwrap_or(0)]));
        for key in keys {
            let answer = self.node()?.client().get(&format!("/v1/collections/{sync}/records/id/{key}"))?;
            let found = (answer.status == 200).then(|| answer.text());
            match expected.get(&key) {
                Some(Record::Whole(record)) => {
                    let text = found.with_context(|| format!("key {key} is missing"))?;
                    ensure!(as_texts(&text)? == *record, "key {key}: {text} instead of {record}");
                }
                Some(Record::Cleared) => {
                    ensure!(found.as_deref().is_none_or(|text| text == "{}"), "key {key}: {found:?}")
                }
                None => ensure!(answer.status == 404, "key {key} is there: {found:?}"),
            }
        }
        self.collections.insert(sync, expected);
        Ok(())
    }

    /// A plan finds nothing to send.
    fn nothing_is_left(&self, rows: u64) -> Result<()> {
        let done = self.loader(&["plan", "--json"])?.output()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let plans: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(plans.len(), SYNCS.len(), "{text}");
        for plan in plans {
            assert_eq!(plan["plan"]["to_send"], 0, "{plan}");
            assert_eq!(plan["plan"]["rows"]["unchanged"], rows, "{plan}");
        }
        Ok(())
    }
}

/// The record with its amount as the text that it is written with.
fn as_texts(record: &str) -> Result<Value> {
    let raw: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(record)?;
    raw.into_iter()
        .map(|(name, value)| match serde_json::from_str(value.get())? {
            Value::String(text) => Ok((name, Value::String(text))),
            _ => Ok((name, Value::String(value.get().to_owned()))),
        })
        .collect()
}

//! `schedule:` of a sync and the defaults for all of them in `larder.yml`: when a sync runs by itself.
//!
//! ```yaml
//! schedule: manual                        # only when asked to; the default
//! schedule: {every: 10m}                  # at whole multiples of the span since 1970-01-01 00:00 UTC
//! schedule: {cron: "*/15 * * * *", timezone: Europe/Paris, jitter: 30s}
//! schedule: {after: [users], on: success} # when all of these have run since this sync's last run
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;

use super::Problem;
use super::SyncSpec;
use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Node};
use super::sheet::{Fields, Sheet};
use super::span::{parse_span, write_span};
use crate::schedule::cron::{Cron, find_zone};

/// A shorter `every` would start a run before the last one has closed its files.
const MIN_EVERY: Duration = Duration::from_secs(1);
/// Most syncs that one sync may wait for.
const MAX_AFTER: usize = 64;
/// Most retries of one run: with the pauses between them, more would be a schedule of its own.
const MAX_RETRIES: u64 = 100;

const OVERLAPS: [(&str, Overlap); 2] = [("skip", Overlap::Skip), ("queue", Overlap::Queue)];
const CATCH_UPS: [(&str, CatchUp); 2] = [("one", CatchUp::One), ("none", CatchUp::None)];
const CONDITIONS: [(&str, On); 2] = [("success", On::Success), ("finished", On::Finished)];

const TIMEZONE: Key = Key::optional("timezone", Shape::Text, "The time zone of `cron`. Default UTC.");
const JITTER: Key = Key::optional("jitter", Shape::Span, "Fires are delayed by up to so much. Default 0s.");
const OVERLAP: Key = Key::optional(
    "overlap",
    Shape::Word(&words(&OVERLAPS)),
    "What becomes of a fire while the run of an earlier one is under way. Default `skip`.",
);
const CATCH_UP: Key = Key::optional(
    "catch_up",
    Shape::Word(&words(&CATCH_UPS)),
    "What becomes of the fires that nobody was there for. Default `one` run for all of them.",
);
static RETRIES_SHAPE: Shape = Shape::Either(&[Shape::Count, Shape::Section(&RETRIES)]);
const fn retries() -> Key {
    Key::optional("retries", RETRIES_SHAPE, "How often a failed run is tried again. Default 0.")
}

/// What `larder.yml` may say for all syncs.
pub(super) static DEFAULTS: Section = Section {
    what: "`schedule`",
    id: "schedule_defaults",
    about: "What schedules do that do not say it themselves.",
    keys: &[TIMEZONE, JITTER, OVERLAP, CATCH_UP, retries()],
    one_of: &[],
};

static RETRIES: Section = Section {
    what: "`retries`",
    id: "retries",
    about: "How a failed run is tried again.",
    keys: &[
        Key::required("times", Shape::Count, "How often."),
        Key::optional("backoff", Shape::Span, "The pause before the first time; each further one is twice as long."),
        Key::optional("max_backoff", Shape::Span, "The longest pause."),
    ],
    one_of: &[],
};

/// What stands for a schedule.
pub(super) static SCHEDULE_SHAPE: Shape = Shape::Either(&[Shape::Word(&["manual"]), Shape::Section(&SCHEDULE)]);

pub(super) static SCHEDULE: Section = Section {
    what: "`schedule`",
    id: "schedule",
    about: "When the sync runs by itself.",
    keys: &[
        Key::optional("every", Shape::Span, "At whole multiples of this span since 1970-01-01 00:00 UTC."),
        Key::optional("cron", Shape::Text, "A cron expression of 5, 6 or 7 fields."),
        Key::optional(
            "after",
            Shape::Either(&[Shape::Text, Shape::List(&Shape::Text)]),
            "When all of these syncs have run since this one's last run.",
        ),
        Key::optional("on", Shape::Word(&words(&CONDITIONS)), "Which of their runs count. Default `success`."),
        TIMEZONE,
        JITTER,
        OVERLAP,
        CATCH_UP,
        retries(),
    ],
    one_of: &[],
};

/// When a sync runs by itself, and what is done when that does not go smoothly.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// What makes it run.
    pub when: When,
    /// A fire is delayed by up to so much; by how much follows from the sync and the time, and never changes.
    pub jitter: Duration,
    /// What becomes of a fire while the run of an earlier one is under way.
    pub overlap: Overlap,
    /// What becomes of the fires that nobody was there for.
    pub catch_up: CatchUp,
    /// What is done about failed runs.
    pub retries: Retries,
}

/// What makes a sync run.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(clippy::large_enum_variant, reason = "there is one for each sync, and half of them are the large one")]
pub enum When {
    /// Somebody asks for it.
    #[default]
    Manual,
    /// Time: whole multiples of this span since 1970-01-01 00:00 UTC.
    Every(Duration),
    /// Time: a cron expression.
    Cron(Cron),
    /// All of these syncs have run since this one's last run.
    After {
        /// The syncs, in the order in which they are written. Never empty.
        syncs: Vec<SyncName>,
        /// Which of their runs count.
        on: On,
    },
}

/// Which runs of the syncs that another one waits for count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum On {
    /// Those that sent everything, even if rows were rejected.
    #[default]
    Success,
    /// Those that ended, however they did.
    Finished,
}

/// What becomes of a fire while the run of an earlier one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits; one can wait.
    Queue,
}

/// What becomes of the fires that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// One run is made for all of them.
    #[default]
    One,
    /// They are forgotten.
    None,
}

impl Schedule {
    /// What its times follow from, in one text: as long as it stays the same, they do.
    pub(crate) fn definition(&self) -> String {
        match &self.when {
            When::Manual => "manual".to_owned(),
            When::Every(span) => format!("every {}", write_span(*span)),
            When::Cron(cron) => format!("cron {} {}", cron.text(), cron.zone()),
            When::After { .. } => "after".to_owned(),
        }
    }

    /// When it makes the sync run, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.when {
            When::Manual => "Only when asked to".to_owned(),
            When::Every(span) => format!("Every {}", write_span(*span)),
            When::Cron(cron) => cron.describe(),
            When::After { syncs, on } => {
                let names: Vec<&str> = syncs.iter().map(SyncName::as_str).collect();
                let on = match on {
                    On::Success => "succeeded",
                    On::Finished => "finished",
                };
                format!("When {} {on}", names.join(", "))
            }
        }
    }
}

/// What is done about failed runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often a failed run is tried again; 0 for never.
    pub times: u32,
    /// The pause before the first time. Each further pause is twice as long.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { times: 0, backoff: Duration::from_secs(60), max_backoff: Duration::from_secs(1800) }
    }
}

/// What `larder.yml` says for the syncs that do not say it themselves.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Defaults {
    timezone: Option<String>,
    jitter: Option<Duration>,
    overlap: Option<Overlap>,
    catch_up: Option<CatchUp>,
    retries: Option<Retries>,
}

impl Defaults {
    /// A schedule that says nothing but when.
    pub(super) fn of(&self, when: When) -> Schedule {
        Schedule {
            when,
            jitter: self.jitter.unwrap_or_default(),
            overlap: self.overlap.unwrap_or_default(),
            catch_up: self.catch_up.unwrap_or_default(),
            retries: self.retries.unwrap_or_default(),
        }
    }
}

/// Reads the section of `larder.yml`.
pub(super) fn read_defaults(node: Node, sheet: &mut Sheet) -> Option<Defaults> {
    let mut fields = sheet.fields(node, &DEFAULTS)?;
    Some(Manners::split(&mut fields).read(sheet))
}

/// The keys that a schedule and the defaults share.
struct Manners {
    timezone: Option<Node>,
    jitter: Option<Node>,
    overlap: Option<Node>,
    catch_up: Option<Node>,
    retries: Option<Node>,
}

impl Manners {
    fn split(fields: &mut Fields) -> Self {
        Self {
            timezone: fields.take("timezone"),
            jitter: fields.take("jitter"),
            overlap: fields.take("overlap"),
            catch_up: fields.take("catch_up"),
            retries: fields.take("retries"),
        }
    }

    fn read(self, sheet: &mut Sheet) -> Defaults {
        Defaults {
            timezone: self
                .timezone
                .and_then(|node| sheet.parsed(node, "timezone", |name| find_zone(name).map(|_| name.to_owned()))),
            jitter: self.jitter.and_then(|node| sheet.span(node, "jitter")),
            overlap: self.overlap.and_then(|node| sheet.choice(node, "overlap", &OVERLAPS)),
            catch_up: self.catch_up.and_then(|node| sheet.choice(node, "catch_up", &CATCH_UPS)),
            retries: self.retries.and_then(|node| read_retries(node, sheet)),
        }
    }
}

fn read_retries(node: Node, sheet: &mut Sheet) -> Option<Retries> {
    let mut retries = Retries::default();
    let line = node.line;
    let times = if matches!(node.content, Content::Map(_)) {
        let mut fields = sheet.fields(node, &RETRIES)?;
        let times = fields.take("times");
        if let Some(backoff) = fields.read("backoff", sheet, |node, sheet| sheet.span(node, "backoff")) {
            retries.backoff = backoff;
            retries.max_backoff = retries.max_backoff.max(backoff);
        }
        if let Some(longest) = fields.read("max_backoff", sheet, |node, sheet| sheet.span(node, "max_backoff")) {
            retries.max_backoff = longest;
        }
        times?
    } else {
        node
    };
    let times = sheet.count(times, "retries")?;
    if times > MAX_RETRIES {
        sheet.report(line, format!("`retries` must be {MAX_RETRIES} at most"));
    }
    if retries.backoff > retries.max_backoff {
        sheet.report(line, "`max_backoff` must not be shorter than `backoff`");
    }
    retries.times = u32::try_from(times).ok()?;
    Some(retries)
}

/// Reads the `schedule` of a sync.
pub(super) fn read(node: Node, sync: &SyncName, defaults: &Defaults, sheet: &mut Sheet) -> Option<Schedule> {
    if !matches!(node.content, Content::Map(_)) {
        return sheet.choice(node, "schedule", &[("manual", ())]).map(|()| defaults.of(When::Manual));
    }
    let line = node.line;
    let mut fields = sheet.fields(node, &SCHEDULE)?;
    let manners = Manners::split(&mut fields);
    let kinds = (fields.take("every"), fields.take("cron"), fields.take("after"));
    let on = fields.take("on");
    let own = manners.read(sheet);
    if own.timezone.is_some() && kinds.1.is_none() {
        sheet.report(line, "`timezone` goes with `cron`; `every` counts in UTC");
    }
    if on.is_some() && kinds.2.is_none() {
        sheet.report(line, "`on` goes with `after`");
    }
    let zone = own.timezone.as_ref().or(defaults.timezone.as_ref());
    let when = match kinds {
        (None, None, None) => Some(When::Manual),
        (Some(every), None, None) => sheet.parsed(every, "every", parse_every).map(When::Every),
        (None, Some(cron), None) => {
            let zone = zone.map_or("UTC", String::as_str);
            sheet.parsed(cron, "cron", |text| Cron::parse(text, zone)).map(When::Cron)
        }
        (None, None, Some(after)) => read_after(after, on, sync, sheet),
        _ => {
            sheet.report(line, "a schedule has one of `every`, `cron` and `after`");
            None
        }
    }?;
    let inherited = defaults.of(when);
    let schedule = Schedule {
        jitter: own.jitter.unwrap_or(inherited.jitter),
        overlap: own.overlap.unwrap_or(inherited.overlap),
        catch_up: own.catch_up.unwrap_or(inherited.catch_up),
        retries: own.retries.unwrap_or(inherited.retries),
        when: inherited.when,
    };
    if let When::Every(every) = schedule.when
        && schedule.jitter >= every
    {
        sheet.report(line, "`jitter` must be shorter than `every`");
    }
    Some(schedule)
}

fn parse_every(text: &str) -> Result<Duration, &'static str> {
    let every = parse_span(text)?;
    if every < MIN_EVERY { Err("must be at least 1s") } else { Ok(every) }
}

fn read_after(node: Node, on: Option<Node>, sync: &SyncName, sheet: &mut Sheet) -> Option<When> {
    let line = node.line;
    let on = match on {
        Some(node) => sheet.choice(node, "on", &CONDITIONS)?,
        None => On::default(),
    };
    let nodes = if matches!(node.content, Content::Text { .. }) { vec![node] } else { sheet.list(node, "after")? };
    let mut syncs: Vec<SyncName> = Vec::new();
    for node in nodes {
        let line = node.line;
        let name = sheet.parsed(node, "after", SyncName::new)?;
        if name == *sync {
            sheet.report(line, "`after`: a sync cannot wait for itself");
        } else if syncs.contains(&name) {
            sheet.report(line, format!("`after` names `{name}` twice"));
        }
        syncs.push(name);
    }
    if syncs.is_empty() || syncs.len() > MAX_AFTER {
        sheet.report(line, format!("`after` must name 1 to {MAX_AFTER} syncs"));
    }
    Some(When::After { syncs, on })
}

/// What only all syncs together show: waiting for a sync that is not there, and waiting in a circle. `broken` are syncs
/// whose files have mistakes of their own.
pub(super) fn conflicts(syncs: &[SyncSpec], broken: &BTreeSet<SyncName>) -> Vec<Problem> {
    let by_name: BTreeMap<&SyncName, &SyncSpec> = syncs.iter().map(|sync| (&sync.name, sync)).collect();
    let mut problems = Vec::new();
    for sync in syncs {
        for other in upstream(sync).iter().filter(|other| !by_name.contains_key(other) && !broken.contains(*other)) {
            let hint = super::suggest::hint(other.as_str(), by_name.keys().map(|name| name.as_str()));
            problems.push(Problem::of_file(&sync.file, format!("`after`: there is no sync `{other}`; {hint}")));
        }
    }
    let mut settled: BTreeSet<&SyncName> = BTreeSet::new();
    for sync in syncs {
        let mut path = Vec::new();
        if let Some(circle) = find_circle(sync, &by_name, &mut settled, &mut path) {
            let circle: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
            let message = format!("`after`: these syncs wait for each other: {}", circle.join(" -> "));
            problems.push(Problem::of_file(&sync.file, message));
            break;
        }
    }
    problems
}

/// Warnings about schedules that will not fire any more.
pub(super) fn over(syncs: &[SyncSpec], now: Timestamp) -> Vec<Problem> {
    let is_over = |sync: &&SyncSpec| matches!(&sync.schedule.when, When::Cron(cron) if cron.next(now).is_none());
    let message = "`cron`: all its times have passed; the sync runs only when asked to";
    syncs.iter().filter(is_over).map(|sync| Problem::of_file(&sync.file, message)).collect()
}

/// The syncs that this one waits for.
fn upstream(sync: &SyncSpec) -> &[SyncName] {
    match &sync.schedule.when {
        When::After { syncs, .. } => syncs,
        _ => &[],
    }
}

/// Follows `after` from a sync; a circle is returned from its first sync to the same again. `settled` syncs lead to
/// none. Depth is bounded by the number of syncs, as each is on the path once.
fn find_circle<'a>(
    sync: &'a SyncSpec,
    by_name: &BTreeMap<&'a SyncName, &'a SyncSpec>,
    settled: &mut BTreeSet<&'a SyncName>,
    path: &mut Vec<&'a SyncName>,
) -> Option<Vec<&'a SyncName>> {
    if let Some(start) = path.iter().position(|name| **name == sync.name) {
        let mut circle = path.split_off(start);
        circle.push(&sync.name);
        return Some(circle);
    }
    if settled.contains(&sync.name) {
        return None;
    }
    path.push(&sync.name);
    for other in upstream(sync).iter().filter_map(|name| by_name.get(name)) {
        if let Some(circle) = find_circle(other, by_name, settled, path) {
            return Some(circle);
        }
    }
    path.pop();
    settled.insert(&sync.name);
    None
}

#[cfg(test)]
mod tests {
    use super::super::Project;
    use super::super::serve::TokenScope;
    use super::super::tests::{LARDER, SYNC, assert_problem, load_sync, problems, try_load};
    use super::*;

    #[test]
    fn schedules_are_read() {
        let settings = format!(
            "{LARDER}schedule: {{timezone: Europe/Paris, retries: 2, overlap: queue}}\nserve: {{listen: \"127.0.0.1:0\", \
             max_concurrent_runs: 3, stop_within: 5s, tokens: [{{name: ci, token: 0123456789abcdef}}]}}\n"
        );
        let load = |schedule: &str| {
            let sync = format!("{SYNC}schedule: {schedule}\n");
            let project = try_load(&[("larder.yml", &settings), ("syncs/s.yml", &sync)]);
            let Project { serve, syncs, .. } = project.unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!((serve.max_concurrent_runs, serve.stop_within), (3, Duration::from_secs(5)));
            assert_eq!((serve.tokens[0].name.as_str(), serve.tokens[0].scope), ("ci", TokenScope::Read));
            syncs.into_values().next().unwrap().schedule
        };
        let schedule = load("{cron: \"0 9 * * *\", jitter: 30s}");
        assert_eq!(schedule.describe(), "At 09:00 (Europe/Paris)");
        assert_eq!((schedule.jitter, schedule.overlap), (Duration::from_secs(30), Overlap::Queue));
        assert_eq!(schedule.retries, Retries { times: 2, ..Retries::default() });
        let schedule =
            load("{every: 1h30m, retries: {times: 5, backoff: 2s, max_backoff: 9s}, overlap: skip, catch_up: none}");
        assert_eq!(schedule.describe(), "Every 1h30m");
        assert_eq!((schedule.overlap, schedule.catch_up), (Overlap::Skip, CatchUp::None));
        assert_eq!(schedule.retries.max_backoff, Duration::from_secs(9));
        assert_eq!(load("manual").when, When::Manual);
        assert_eq!(load("{retries: 1}").when, When::Manual);
        assert_eq!(load_sync(SYNC).schedule, Schedule::default());

        let other = SYNC.replace("[model]", "[year]");
        let waiting = format!("{other}schedule: {{after: s, on: finished}}\n");
        let project = try_load(&[("syncs/s.yml", SYNC), ("syncs/t.yml", &waiting)]).unwrap();
        assert_eq!(project.syncs["t"].schedule.describe(), "When s finished");
    }

    #[test]
    fn wrong_schedules_are_reported() {
        for (schedule, expected) in [
            ("often", "`schedule`: `often` is unknown; known: `manual`"),
            ("{every: 10}", "`every` must be a text, not an integer"),
            ("{every: 500ms}", "`every`: must be at least 1s"),
            ("{every: 10m, cron: \"* * * * *\"}", "a schedule has one of `every`, `cron` and `after`"),
            ("{every: 10m, jitter: 10m}", "`jitter` must be shorter than `every`"),
            ("{every: 10m, timezone: UTC}", "`timezone` goes with `cron`"),
            ("{every: 10m, on: success}", "`on` goes with `after`"),
            ("{cron: \"* * * *\"}", "`cron`: has 4 fields"),
            ("{cron: \"0 0 31 2 *\"}", "`cron`: has no time at all"),
            ("{cron: \"0 0 * * *\", timezone: Mars/Olympus}", "`timezone`: there is no time zone `Mars/Olympus`"),
            ("{after: [s]}", "`after`: a sync cannot wait for itself"),
            ("{after: []}", "`after` must name 1 to 64 syncs"),
            ("{after: [t, t]}", "`after` names `t` twice"),
            ("{after: tt}", "`after`: there is no sync `tt`; did you mean `t`?"),
            ("{after: t, on: failure}", "`on`: `failure` is unknown"),
            ("{every: 10m, retries: 101}", "`retries` must be 100 at most"),
            ("{every: 10m, retries: {times: 1, backoff: 1h, max_backoff: 1m}}", "`max_backoff` must not be shorter"),
            ("{every: 10m, overlap: wait}", "`overlap`: `wait` is unknown; known: `skip`, `queue`"),
            ("{every: 10m, sometimes: true}", "unknown key `sometimes` in `schedule`"),
        ] {
            let other = SYNC.replace("[model]", "[year]");
            let text = format!("{SYNC}schedule: {schedule}\n");
            let found = problems(&[("syncs/s.yml", &text), ("syncs/t.yml", &other)]);
            assert!(found.contains(expected), "expected {expected:?} for {schedule}\nfound\n{found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
        for (serve, expected) in [
            ("{listen: here}", "`listen`: "),
            ("{max_concurrent_runs: 0}", "`max_concurrent_runs` must be 1 to 1000"),
            ("{tokens: [{name: a, token: short}]}", "`token`: must be 16 to 512 characters of visible ASCII"),
            ("{tokens: [{name: a b, token: 0123456789abcdef}]}", "`name`: 1 to 64 of"),
            ("{tokens: [{name: a, token: 0123456789abcdef, scope: admin}]}", "`scope`: `admin` is unknown"),
            (
                "{tokens: [{name: a, token: 0123456789abcdef}, {name: a, token: 0123456789abcdeg}]}",
                "the token `a` is there twice",
            ),
        ] {
            assert_problem("larder.yml", &format!("{LARDER}serve: {serve}\n"), expected);
        }
    }

    #[test]
    fn sources_limit_how_many_runs_read_from_them() {
        let source = "driver: sqlite\npath: w.db\nmax_concurrent_runs: ";
        let project = try_load(&[("sources/w.yml", &format!("{source}2\n"))]).unwrap();
        assert_eq!(project.serve.max_of_source, BTreeMap::from([("w".to_owned(), 2)]));
        assert_problem("sources/w.yml", &format!("{source}0\n"), "`max_concurrent_runs` must be 1 to 1000");
    }

    #[test]
    fn syncs_that_wait_for_each_other_are_refused() {
        let sync = |column: &str, after: &str| {
            format!("{}schedule: {{after: {after}}}\n", SYNC.replace("[model]", &format!("[{column}]")))
        };
        let found = problems(&[
            ("syncs/a.yml", &sync("a", "c")),
            ("syncs/b.yml", &sync("b", "a")),
            ("syncs/c.yml", &sync("c", "[b, d]")),
            ("syncs/d.yml", &SYNC.replace("[model]", "[d]")),
            ("syncs/e.yml", &sync("e", "a")),
        ]);
        assert_eq!(found, "syncs/a.yml: `after`: these syncs wait for each other: a -> c -> b -> a");
        // A sync whose file has mistakes is not missing.
        let found = problems(&[("syncs/a.yml", &sync("a", "b")), ("syncs/b.yml", "nonsense: 1\n")]);
        assert!(found.lines().all(|line| line.starts_with("syncs/b.yml")), "{found}");
    }

    #[test]
    fn cron_whose_times_have_passed_is_warned_about() {
        let text = format!("{SYNC}schedule: {{cron: \"0 0 0 1 1 ? 2020\"}}\n");
        let project = try_load(&[("syncs/s.yml", &text)]).unwrap();
        assert!(project.warnings[0].to_string().starts_with("syncs/s.yml: `cron`: all its times have passed"));
    }
}

//! `syncs/*.yml`: which rows go to which fields of which collection.

use std::collections::BTreeMap;
use std::path::Path;

use larder_types::names::{CollectionName, IndexName, SyncName};
use larder_types::patch::ExitMode;

use super::alerts::{self, Alerting};
use super::diff;
use super::field::{self, FIELD_SHAPE, NULLS_SHAPE, OfSync};
use super::keys::{Key, Section, Shape, words};
use super::node::Node;
use super::schedule::{self, When};
use super::sheet::Sheet;
use super::suggest::hint;
use super::{DestinationName, OnDuplicate, SourceSpec, SyncSpec, dbt, guard, key, model, variable};

const EXIT_MODES: [(&str, ExitMode); 3] =
    [("keep", ExitMode::Keep), ("clear", ExitMode::Clear), ("delete", ExitMode::Delete)];
const ON_DUPLICATE: [(&str, OnDuplicate); 2] = [("fail", OnDuplicate::Fail), ("skip", OnDuplicate::Skip)];

/// What a sync may refer to.
pub(super) struct Known<'a> {
    /// The sources by name; `None` for one whose file has mistakes.
    pub(super) sources: &'a BTreeMap<String, Option<SourceSpec>>,
    /// The models' SQL by name.
    pub(super) models: &'a BTreeMap<String, String>,
    /// The manifests of dbt, as they are needed.
    pub(super) manifests: &'a dbt::Manifests,
    /// The project's folder.
    pub(super) root: &'a Path,
    /// What `larder.yml` says of schedules.
    pub(super) schedule: &'a schedule::Defaults,
    /// The destinations; `None` if `larder.yml` has mistakes.
    pub(super) clusters: Option<&'a [DestinationName]>,
    /// What `larder.yml` says of alerts; `None` if it has mistakes.
    pub(super) alerting: Option<&'a Alerting>,
}

pub(super) static SYNC: Section = Section {
    what: "the sync",
    id: "sync",
    about: "Which rows go to which fields of which collection.",
    keys: &[
        Key::required("source", Shape::Text, "The source to read from: a file of sources/ by its name."),
        Key::optional("model", Shape::Text, "The statement to run: a file of models/ by its name."),
        Key::optional("table", Shape::Text, "A table of the source, read as it is."),
        Key::optional("dbt", Shape::Section(&model::DBT), model::DBT.about),
        Key::optional("params", Shape::Map(&model::PARAM_SHAPE), "Values for the `:name` parameters of the model."),
        Key::required("key", key::KEY_SHAPE, "The column that holds the primary key, or several columns."),
        Key::required("collection", Shape::Text, "The collection to write to; the first run makes it."),
        Key::optional("primary_index", Shape::Text, "The name of the primary index, for lookups. Default `id`."),
        Key::optional("destinations", Shape::List(&Shape::Text), "The clusters to feed, by name. All if left out."),
        Key::optional("columns", Shape::List(&Shape::Text), "Columns that become fields of the same name."),
        Key::optional("fields", Shape::Map(&FIELD_SHAPE), "Fields, each with how it is made from a row."),
        Key::optional("nulls", NULLS_SHAPE, "What nulls do in fields that do not say it themselves. Default `write`."),
        Key::optional(
            "variables",
            Shape::Map(&Shape::Anything),
            "Values by name: `{variable: name}`, `{{ vars.name }}`.",
        ),
        Key::optional("on_exit", Shape::Word(&words(&EXIT_MODES)), "What becomes of rows that leave the query."),
        Key::optional("on_duplicate", Shape::Word(&words(&ON_DUPLICATE)), "What happens if a key comes twice."),
        Key::optional("guard", Shape::Section(&guard::GUARD), guard::GUARD.about),
        Key::optional("schedule", schedule::SCHEDULE_SHAPE, schedule::SCHEDULE.about),
        Key::optional("tags", Shape::List(&Shape::Text), "Words by which commands select syncs: `--select tag:WORD`."),
        Key::optional("timeout", Shape::Span, "How long a run may take; then it is cancelled."),
        Key::optional("alerts", alerts::POLICY_SHAPE, alerts::POLICY.about),
        Key::optional("diff", Shape::Word(&words(&diff::PLACES)), "Where rows are compared. Default `local`."),
        Key::optional("planner_schema", Shape::Text, "The schema for the tables of `diff: warehouse`."),
        Key::optional("incremental", Shape::Section(&diff::INCREMENTAL), diff::INCREMENTAL.about),
    ],
    one_of: &["model", "table", "dbt"],
};

/// Reads a sync. What is missing or wrong is reported to `sheet`; the result is complete only if nothing was.
pub(super) fn read(node: Node, name: SyncName, file: &Path, known: &Known<'_>, sheet: &mut Sheet) -> Option<SyncSpec> {
    let mut sync = sheet.fields(node, &SYNC)?;
    let variables = sync.read("variables", sheet, variable::read).unwrap_or_default();
    let nulls = sync.read("nulls", sheet, field::read_nulls).unwrap_or_default();
    let fields = field::read(&mut sync, &OfSync { nulls, variables: &variables }, sheet);
    let source = sync.read("source", sheet, |node, sheet| read_source(node, known, sheet));
    let model = model::read(&mut sync, known, sheet);
    let key = sync.read("key", sheet, key::read);
    let collection =
        sync.read("collection", sheet, |node, sheet| sheet.parsed(node, "collection", CollectionName::new));
    let primary_index =
        sync.read("primary_index", sheet, |node, sheet| sheet.parsed(node, "primary_index", IndexName::new));
    let destinations = read_destinations(sync.take("destinations"), known, sheet);
    let on_exit = sync.read("on_exit", sheet, |node, sheet| sheet.choice(node, "on_exit", &EXIT_MODES));
    let on_duplicate =
        sync.read("on_duplicate", sheet, |node, sheet| sheet.choice(node, "on_duplicate", &ON_DUPLICATE));
    let guard = sync.read("guard", sheet, guard::read);
    let schedule = match sync.take("schedule") {
        Some(node) => schedule::read(node, &name, known.schedule, sheet),
        None => Some(known.schedule.of(When::Manual)),
    };
    let tags = sync.read("tags", sheet, read_tags).unwrap_or_default();
    let timeout = sync.read("timeout", sheet, |node, sheet| sheet.span(node, "timeout"));
    let diff = diff::read(&mut sync, sheet);

    let alerts = alerts::read_policy(sync.take("alerts"), known.alerting, sheet);

    let (source, model) = (source?, model?);
    model::check_table(&source, &model, sync.line(), known, sheet);
    diff::check_source(&diff, known.sources.get(&source), sync.line(), sheet);
    if !sheet.is_clean() {
        return None;
    }
    Some(SyncSpec {
        name,
        file: file.to_path_buf(),
        source,
        model,
        key: key?,
        collection: collection?,
        destinations,
        primary_index,
        fields,
        variables,
        on_exit: on_exit.unwrap_or_default(),
        guard: guard.unwrap_or_default(),
        on_duplicate: on_duplicate.unwrap_or(OnDuplicate::Fail),
        tags,
        schedule: schedule?,
        timeout,
        alerts,
        diff,
    })
}

fn read_source(node: Node, known: &Known<'_>, sheet: &mut Sheet) -> Option<String> {
    let line = node.line;
    let source = sheet.text(node, "source")?;
    if !known.sources.contains_key(&source) {
        let hint = hint(&source, known.sources.keys().map(String::as_str));
        sheet.report(line, format!("there is no source `{source}` (sources/{source}.yml); {hint}"));
        return None;
    }
    Some(source)
}

fn read_tags(node: Node, sheet: &mut Sheet) -> Option<Vec<String>> {
    let tags = sheet.list(node, "tags")?;
    Some(tags.into_iter().filter_map(|node| sheet.text(node, "tags")).collect())
}

/// The named destinations, or all that there are.
fn read_destinations(node: Option<Node>, known: &Known<'_>, sheet: &mut Sheet) -> Vec<DestinationName> {
    let all = known.clusters.unwrap_or_default();
    let Some(node) = node else { return all.to_vec() };
    let line = node.line;
    let mut named = Vec::new();
    for node in sheet.list(node, "destinations").unwrap_or_default() {
        let line = node.line;
        let Some(text) = sheet.text(node, "destinations") else { continue };
        match all.iter().find(|destination| destination.as_str() == text) {
            Some(destination) if named.contains(destination) => {
                sheet.report(line, format!("destination `{text}` is named twice"));
            }
            Some(destination) => named.push(destination.clone()),
            None if known.clusters.is_some() => {
                let hint = hint(&text, all.iter().map(DestinationName::as_str));
                sheet.report(line, format!("there is no cluster `{text}` in larder.yml; {hint}"));
            }
            None => {}
        }
    }
    if named.is_empty() && sheet.is_clean() && known.clusters.is_some() {
        sheet.report(line, "`destinations` is empty: name one cluster at least, or leave the key out for all of them");
    }
    named
}

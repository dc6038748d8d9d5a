//! Loading a project's folder: every file is read and every mistake of every file is reported together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use larder_types::names::SyncName;

use super::cluster::Settings;
use super::interpolate::Variables;
use super::node::Node;
use super::serve::Serve;
use super::sheet::Sheet;
use super::sync_file::Known;
use super::{
    DestinationName, Problem, Problems, Project, SourceSpec, SyncSpec, cluster, dbt, environment, is_plain_name,
    schedule, source_file, sync_file,
};

const SETTINGS_FILE: &str = "larder.yml";

/// Loads the project in `root` as it is in `environment`, with the variables of the process.
pub(super) fn load(
    root: &Path,
    environment: Option<&str>,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Project, Problems> {
    let variables = Variables { environment: variables, fallback: BTreeMap::new(), root };
    let mut loading = Loading { root, variables, problems: Vec::new(), warnings: Vec::new() };
    if !root.join(SETTINGS_FILE).is_file() {
        let message = format!(
            "no such file in {}; give the project's folder with --project, or make a project with `larder-loader init`",
            root.display()
        );
        return Err(Problems(vec![Problem::of_file(Path::new(SETTINGS_FILE), message)]));
    }
    let settings = loading.settings(environment);
    let (sources, limits) = loading.sources();
    let models = loading.models();
    let defaults = settings.as_ref().map(|settings| settings.schedule.clone()).unwrap_or_default();
    let manifests = dbt::Manifests::default();
    let clusters: Option<Vec<DestinationName>> =
        settings.as_ref().map(|settings| settings.clusters.keys().cloned().collect());
    let known = Known {
        sources: &sources,
        models: &models,
        manifests: &manifests,
        root,
        schedule: &defaults,
        clusters: clusters.as_deref(),
        alerting: settings.as_ref().map(|settings| &settings.alerting),
    };
    let (syncs, broken) = loading.syncs(&known);
    loading.problems.extend(conflicts(&syncs));
    loading.problems.extend(schedule::conflicts(&syncs, &broken));

    let Some(settings) = settings.filter(|_| loading.problems.is_empty()) else {
        return Err(Problems(loading.problems));
    };
    let warning = |(line, message)| Problem::at(Path::new(SETTINGS_FILE), line, message);
    let mut warnings: Vec<Problem> = settings.warnings.into_iter().map(warning).collect();
    warnings.extend(loading.warnings);
    warnings.extend(schedule::over(&syncs, jiff::Timestamp::now()));
    Ok(Project {
        root: root.to_path_buf(),
        environment: environment.map(str::to_owned),
        clusters: settings.clusters,
        state_dir: root.join(settings.state),
        sources: sources.into_iter().filter_map(|(name, spec)| Some((name, spec?))).collect(),
        syncs: syncs.into_iter().map(|sync| (sync.name.clone(), sync)).collect(),
        serve: Serve { max_of_source: limits, ..settings.serve },
        push: settings.push,
        retention: settings.retention,
        redaction: settings.redaction,
        alerting: settings.alerting,
        lineage: settings.lineage,
        warnings,
    })
}

struct Loading<'a> {
    root: &'a Path,
    variables: Variables<'a>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Loading<'_> {
    /// Reads `larder.yml` as it is in an environment. What it says of variables holds for all files read after it.
    fn settings(&mut self, environment: Option<&str>) -> Option<Settings> {
        let file = Path::new(SETTINGS_FILE);
        let text = self.text(file)?;
        let mut sheet = Sheet::new(file);
        let chosen = sheet.parse(&text).and_then(|node| environment::choose(node, environment, &mut sheet));
        let settings = chosen.and_then(|(mut node, names_state)| {
            self.variables.fallback = environment::take_env(&mut node, &self.variables, &mut sheet);
            let node = sheet.interpolate(node, &self.variables);
            let mut settings = cluster::read(node, self.root, &mut sheet)?;
            if let (Some(name), false) = (environment, names_state) {
                // What one cluster has acknowledged says nothing about another.
                settings.state.as_mut_os_string().push(format!("-{name}"));
            }
            Some(settings)
        });
        self.finish(sheet, settings)
    }

    /// Reads one YAML file. `None` if anything in it is wrong.
    fn sheet<T>(&mut self, file: &Path, read: impl FnOnce(Node, &mut Sheet) -> Option<T>) -> Option<T> {
        let text = self.text(file)?;
        let mut sheet = Sheet::new(file);
        let result = sheet.parse(&text).and_then(|node| {
            let node = sheet.interpolate(node, &self.variables);
            read(node, &mut sheet)
        });
        self.finish(sheet, result)
    }

    fn finish<T>(&mut self, sheet: Sheet, result: Option<T>) -> Option<T> {
        let clean = sheet.is_clean();
        self.problems.extend(sheet.into_problems());
        result.filter(|_| clean)
    }

    fn text(&mut self, file: &Path) -> Option<String> {
        match fs::read_to_string(self.root.join(file)) {
            Ok(text) => Some(text),
            Err(error) => {
                self.problems.push(Problem::of_file(file, format!("cannot be read: {error}")));
                None
            }
        }
    }

    /// The sources, and how many runs at a time those take that have a limit.
    fn sources(&mut self) -> (BTreeMap<String, Option<SourceSpec>>, BTreeMap<String, usize>) {
        let root = self.root;
        let (mut sources, mut limits) = (BTreeMap::new(), BTreeMap::new());
        for (name, file) in self.files("sources", &["yml", "yaml"]) {
            let (spec, limit) = self.sheet(&file, |node, sheet| source_file::read(node, root, sheet)).unzip();
            limits.extend(limit.flatten().map(|limit| (name.clone(), limit)));
            if let Some(SourceSpec::Driver(source)) = &spec {
                let warning = source.written_out.iter().map(|(line, remark)| Problem::at(&file, *line, remark));
                self.warnings.extend(warning);
            }
            sources.insert(name, spec);
        }
        (sources, limits)
    }

    fn models(&mut self) -> BTreeMap<String, String> {
        let mut models = BTreeMap::new();
        for (name, file) in self.files("models", &["sql"]) {
            if let Some(text) = self.text(&file) {
                models.insert(name, text);
            }
        }
        models
    }

    /// The syncs, and the names of those whose files have mistakes.
    fn syncs(&mut self, known: &Known<'_>) -> (Vec<SyncSpec>, BTreeSet<SyncName>) {
        let mut syncs = Vec::new();
        let mut broken = BTreeSet::new();
        for (name, file) in self.files("syncs", &["yml", "yaml"]) {
            match SyncName::new(&name) {
                Ok(name) => {
                    let read = |node, sheet: &mut _| sync_file::read(node, name.clone(), &file, known, sheet);
                    match self.sheet(&file, read) {
                        Some(sync) => syncs.push(sync),
                        None => drop(broken.insert(name)),
                    }
                }
                Err(error) => self.problems.push(Problem::of_file(&file, format!("the file's name: {error}"))),
            }
        }
        (syncs, broken)
    }

    /// The files of a folder of the project that have one of the extensions: name and path, in the order of the names.
    /// Hidden files are left out. A folder that is not there has no files.
    fn files(&mut self, folder: &'static str, extensions: &[&str]) -> Vec<(String, PathBuf)> {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.problems.push(Problem::of_file(Path::new(folder), format!("cannot be read: {error}")));
                return Vec::new();
            }
        };
        for entry in entries.flatten() {
            let file = Path::new(folder).join(entry.file_name());
            let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || !extensions.contains(&extension.as_str()) {
                continue;
            }
            if !is_plain_name(&name) {
                let message = "the file's name (without extension) must be 1 to 64 of A-Z a-z 0-9 _ -";
                self.problems.push(Problem::of_file(&file, message));
            } else if let Some(other) = found.insert(name.clone(), file.clone()) {
                let message = format!("{} defines `{name}` too; remove one of them", other.display());
                self.problems.push(Problem::of_file(&file, message));
            }
        }
        found.into_iter().collect()
    }
}

/// Fields that two syncs write, and collections that two syncs would make differently.
fn conflicts(syncs: &[SyncSpec]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (position, sync) in syncs.iter().enumerate() {
        for earlier in syncs[..position].iter().filter(|other| other.collection == sync.collection) {
            for field in sync.fields.iter().filter(|field| earlier.fields.iter().any(|other| other.name == field.name))
            {
                let message = format!(
                    "field `{}` of collection `{}` is written by {} too; a field belongs to one sync",
                    field.name,
                    sync.collection,
                    earlier.file.display()
                );
                problems.push(Problem::of_file(&sync.file, message));
            }
            if let (Some(ours), Some(theirs)) = (&sync.primary_index, &earlier.primary_index)
                && ours != theirs
            {
                let message = format!(
                    "`primary_index` of collection `{}` is `{ours}` here and `{theirs}` in {}",
                    sync.collection,
                    earlier.file.display()
                );
                problems.push(Problem::of_file(&sync.file, message));
            }
        }
    }
    problems
}

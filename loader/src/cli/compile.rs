//! `compile`: what a sync comes to: the SQL that the source gets, its columns, and how fields are made of them.

use serde::Serialize;

use super::output::{complain, say};
use super::say_json;
use crate::mapping;
use crate::project::{Expression, Model, Project, SourceSpec, SyncSpec};
use crate::run::ExitClass;
use crate::source;
use crate::source::dialect::Dialect;
use crate::source::statement::Statement;

/// What a sync comes to.
#[derive(Serialize)]
struct Compiled {
    sync: String,
    source: String,
    dialect: Option<&'static str>,
    /// None if rows stream from files without SQL.
    sql: Option<String>,
    /// The names of the parameters; their values may be secret.
    params: Vec<String>,
    columns: Vec<Column>,
    fields: Vec<Field>,
}

#[derive(Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    /// Whether the key or a field is made from it. Only such columns decide whether a row has changed.
    used: bool,
}

#[derive(Serialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    from: String,
}

/// Compiles a sync against its source.
pub(super) fn compile(project: &Project, sync: &SyncSpec, json: bool) -> ExitClass {
    match compiled(project, sync) {
        Ok(compiled) => {
            if json {
                say_json(&compiled)
            } else {
                print(&compiled)
            }
            ExitClass::Ok
        }
        Err((exit, problems)) => {
            problems.iter().for_each(|problem| complain(format_args!("error: {problem}")));
            exit
        }
    }
}

fn compiled(project: &Project, sync: &SyncSpec) -> Result<Compiled, (ExitClass, Vec<String>)> {
    let failed = |error: String| (ExitClass::Failed, vec![error]);
    let spec = project.sources.get(&sync.source).ok_or_else(|| failed("the sync's source is not there".to_owned()))?;
    let dialect = match spec {
        SourceSpec::Driver(source) => source.dialect,
        SourceSpec::Sqlite { .. } | SourceSpec::Files { .. } => Dialect::Sqlite,
    };
    let has_sql = !matches!((spec, &sync.model), (SourceSpec::Files { .. }, Model::Table(_)));
    let statement = has_sql.then(|| Statement::of(&sync.model, dialect));
    let bound = statement
        .as_ref()
        .map(|statement| statement.bind(dialect))
        .transpose()
        .map_err(|error| (ExitClass::Config, vec![error.to_string()]))?;
    let schema = source::describe(spec, &sync.model).map_err(|error| failed(error.to_string()))?;
    let mapping = mapping::compile(sync, &schema)
        .map_err(|problems| (ExitClass::Config, problems.iter().map(ToString::to_string).collect()))?;
    let columns = schema.fields().iter().enumerate().map(|(index, field)| Column {
        name: field.name().clone(),
        kind: field.data_type().to_string(),
        used: mapping.uses(index),
    });
    let fields = sync.fields.iter().map(|field| Field {
        name: field.name.to_string(),
        kind: field.kind.as_str().to_owned(),
        from: told(&field.from),
    });
    Ok(Compiled {
        sync: sync.name.to_string(),
        source: sync.source.clone(),
        dialect: has_sql.then(|| dialect.as_str()),
        sql: bound.map(|bound| bound.text.trim_end().to_owned()),
        params: statement.map(|statement| statement.params.into_keys().collect()).unwrap_or_default(),
        columns: columns.collect(),
        fields: fields.collect(),
    })
}

/// Where a field's value comes from, in words. The values of constants are not shown: they may come from variables.
fn told(from: &Expression) -> String {
    match from {
        Expression::Column(name) => format!("column {name}"),
        Expression::Constant(_) => "a constant".to_owned(),
        Expression::Template(text) => format!("template {text}"),
        Expression::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, member)| format!("{name}: {}", told(member))).collect();
            format!("object {{{}}}", members.join(", "))
        }
        Expression::List(items) => {
            let items: Vec<String> = items.iter().map(told).collect();
            format!("list [{}]", items.join(", "))
        }
    }
}

fn print(compiled: &Compiled) {
    let Compiled { sync, source, dialect, sql, params, columns, fields } = compiled;
    say(format_args!("-- {sync}, from {source}{}", dialect.map(|word| format!(" ({word})")).unwrap_or_default()));
    say(sql.as_deref().unwrap_or("-- rows stream from the files as they are"));
    if !params.is_empty() {
        say(format_args!("-- parameters: {}", params.join(", ")));
    }
    for Column { name, kind, used } in columns {
        say(format_args!("-- column {name} {kind}{}", if *used { "" } else { ", not used" }));
    }
    for Field { name, kind, from } in fields {
        say(format_args!("-- field {name} {kind} <- {from}"));
    }
}

//! The rows, made up, in both forms.

use larder_loader::liquid::{Row, Template};
use larder_types::json::Fragment;
use larder_types::value::Value;
use liquid::object;

/// Rows that are rendered in turns.
const ROWS: i64 = 64;

/// Seconds from 1970 to the summer of 2006.
const START: i64 = 1_152_098_955;

/// In the order of a row's values.
const NAMES: [&str; 5] = ["first_name", "nickname", "cents", "at", "tags"];

/// The same rows for both contestants.
pub(super) struct Rows {
    values: Vec<[Value; NAMES.len()]>,
    /// What the crate renders.
    pub(super) objects: Vec<liquid::Object>,
}

/// The columns of one row that a template reads, in its order.
pub(super) struct Columns<'r>(Vec<&'r Value>);

impl Row for Columns<'_> {
    fn column(&self, place: usize) -> Result<&Value, String> {
        Ok(self.0[place])
    }
}

impl Rows {
    pub(super) fn new() -> Self {
        let names = ["Ann", "Bartholomew", "Chloé", "Dominique-Alexandra"];
        let mut rows = Self { values: Vec::new(), objects: Vec::new() };
        for (number, name) in (0..ROWS).zip(names.into_iter().cycle()) {
            let nickname = (number % 3 == 0).then(|| format!("{name}y"));
            let cents = number * 3_517;
            let seconds = START + number * 86_417;
            let tags = ["new", "vip", name];
            let json = format!("[\"new\",\"vip\",\"{name}\"]");
            let mut at = String::new();
            larder_types::time::write_timestamp(seconds * 1_000_000, &mut at);
            rows.objects.push(object!({ "row": {
                "first_name": name, "nickname": nickname, "cents": cents,
                // The spelling that the crate takes for a time.
                "at": at.replace('T', " ").replace('Z', " +0000"), "tags": tags,
            } }));
            rows.values.push([
                Value::String(name.to_owned()),
                nickname.map_or(Value::Null, Value::String),
                Value::Int(cents),
                Value::Timestamp(seconds * 1_000_000),
                Value::List(Fragment::trusted(&json)),
            ]);
        }
        rows
    }

    /// The rows as a template reads them.
    pub(super) fn columns(&self, template: &Template) -> Vec<Columns<'_>> {
        let place = |column: &String| NAMES.iter().position(|name| name == column).unwrap_or_default();
        let places: Vec<usize> = template.columns().iter().map(place).collect();
        self.values.iter().map(|values| Columns(places.iter().map(|place| &values[*place]).collect())).collect()
    }
}

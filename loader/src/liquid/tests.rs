//! What templates give, what they are refused for, where their limits are, and that nothing makes them panic. The
//! examples of `docs/liquid.md` are run here.

use std::collections::BTreeMap;

use larder_types::json::Fragment;
use larder_types::value::ValueType;
use proptest::prelude::*;

use super::limits::{MAX_MADE_BYTES, MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES};
use super::*;

/// A row by the names of its columns.
struct Named<'a> {
    columns: &'a [String],
    values: &'a BTreeMap<String, Field>,
}

impl Row for Named<'_> {
    fn column(&self, place: usize) -> Result<&Field, String> {
        let name = &self.columns[place];
        self.values.get(name).ok_or_else(|| format!("column `{name}` holds a timestamp that is out of range"))
    }
}

fn render(text: &str, values: &BTreeMap<String, Field>) -> Result<Field, String> {
    let template = Template::parse(text, &[]).map_err(|problem| problem.to_string())?;
    template.render(&Named { columns: template.columns(), values }).map_err(|failure| failure.to_string())
}

fn alone(text: &str) -> Result<Field, String> {
    render(text, &BTreeMap::new())
}

fn problem(text: &str) -> String {
    Template::parse(text, &[]).unwrap_err().to_string()
}

/// The row of the page, whose decimals and times are marked as such.
fn row_of_page(page: &str) -> BTreeMap<String, Field> {
    let json = page.split_once("```json row").unwrap().1.split_once("```").unwrap().0;
    let members: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(json).unwrap();
    let value = |json: &str| {
        let marked: Option<BTreeMap<&str, &str>> = serde_json::from_str(json).ok();
        let kinds = [("decimal", ValueType::Decimal), ("timestamp", ValueType::Timestamp), ("date", ValueType::Date)];
        let marked = marked.and_then(|marked| kinds.iter().find_map(|(name, kind)| Some((*marked.get(name)?, *kind))));
        match marked {
            Some((text, kind)) => Field::String(text.to_owned()).convert(kind).unwrap(),
            None => Field::from_json(json).unwrap(),
        }
    };
    members.into_iter().map(|(name, json)| (name, value(json.get()))).collect()
}

#[test]
fn the_examples_of_the_page_do_what_they_say() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/liquid.md")).unwrap();
    let row = row_of_page(&page);
    let blocks = page.split("```liquid\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let examples: Vec<(&str, &str)> =
        blocks.flat_map(str::lines).map(|line| line.rsplit_once(" => ").unwrap()).collect();
    assert!(examples.len() > 60);
    let mut wrong = Vec::new();
    for (template, expected) in examples {
        let shown = match render(template, &row) {
            Ok(value) => {
                let mut out = String::new();
                value.write_json(&mut out);
                out
            }
            Err(_) => "error".to_owned(),
        };
        if shown != expected {
            wrong.push(format!("{template} => {shown}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_names_every_filter() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/liquid.md")).unwrap();
    for (name, _) in filters::names() {
        assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}:")), "{name}");
    }
}

#[test]
fn the_page_names_the_limits() {
    use super::limits::*;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/liquid.md")).unwrap();
    for row in [
        format!(
            "| a template | {} KiB; blocks {MAX_NESTING} deep, brackets {MAX_BRACKETS} deep |",
            MAX_TEMPLATE_BYTES >> 10
        ),
        format!("| what it writes for a row | {} KiB |", MAX_OUTPUT_BYTES >> 10),
        format!("| rounds of all its loops | {} 000 |", MAX_ROUNDS / 1000),
        format!("| a text that a filter makes | {} MiB; a list, 10 485 items |", MAX_MADE_BYTES >> 20),
        format!("| what its filters read and make | {} MiB |", MAX_WORK_BYTES >> 20),
        format!("| a compiled pattern | {} KiB |", MAX_PATTERN_BYTES >> 10),
    ] {
        assert!(page.contains(&row), "{row}");
    }
    assert_eq!(MAX_MADE_ITEMS, 10_485);
}

#[test]
fn columns_and_undefined_variables_are_known_before_any_row() {
    for (text, columns, undefined) in [
        ("{{ row.a }}", vec!["a"], vec![]),
        ("{{row['a b']}} {{ row[\"c\"] | append: row.d }}", vec!["a b", "c", "d"], vec![]),
        ("{%- if row.a > 1 and row.b contains 'row.z' -%}x{%- elsif row.c -%}{% endif %}", vec!["a", "b", "c"], vec![]),
        ("{% for x in row.list limit:row.n %}{{ x.row }}{{ forloop.index }}{% endfor %}", vec!["list", "n"], vec![]),
        ("{% assign t = row.a | plus: 1 %}{{ t }}{{ u }}", vec!["a"], vec!["u"]),
        (
            "{% raw %}{{ row.no }}{% endraw %}{% comment %}{{ row.no }}{% endcomment %}row.no {{ '}} row.no' }}",
            vec![],
            vec![],
        ),
        ("{% for n in (1..row.b) %}{{ n[row.a] }}{% endfor %}{{ ['row'].c }}", vec!["b", "a", "c"], vec![]),
        ("{% case row.a %}{% when 'x' or y %}1{% endcase %}{% increment i %}{{ i }}", vec!["a"], vec!["y"]),
        ("{{ row[row.a] }}{% for pair in row %}{% endfor %}", vec!["a"], vec!["row"]),
    ] {
        let template = Template::parse(text, &[]).unwrap();
        assert_eq!(template.columns(), columns, "{text}");
        assert_eq!(template.undefined().collect::<Vec<_>>(), undefined, "{text}");
    }
    assert_eq!(Template::parse(" {{- row.a -}} ", &[]).unwrap().plain_column(), Some(0));
    assert_eq!(Template::parse("{{ row.a.b }}", &[]).unwrap().plain_column(), None);
}

#[test]
fn constants_are_read_by_their_paths() {
    let constants = [
        ("vars.region".to_owned(), Field::String("north".to_owned())),
        ("vars.list".to_owned(), Field::List(Fragment::parse("[1,2]").unwrap())),
    ];
    let template =
        Template::parse("{{ vars.region }} {{ vars['list'][1] }}{{ vars.nope }}{{ vars }}", &constants).unwrap();
    assert_eq!(template.undefined().collect::<Vec<_>>(), ["vars.nope", "vars"]);
    let row = Named { columns: &[], values: &BTreeMap::new() };
    assert_eq!(template.render(&row), Ok(Field::String("north 2".to_owned())));
    let problem = Template::parse("{% assign vars = 1 %}", &constants).unwrap_err();
    assert_eq!(problem.message, "`vars` is given to the template and can be no variable of it");
}

#[test]
fn problems_say_where_and_what() {
    for (text, words) in [
        ("a\n{{ row.a | shout }}", "line 2: unknown filter `shout`"),
        ("{{ row.a | upcase: 1 }}", "`upcase` takes no argument, and was given 1"),
        ("{{ row.a | plus }}", "`plus` takes one argument, and was given 0"),
        ("{{ row.a | slice: 1, 2, 3 }}", "`slice` takes 1 to 2 arguments, and was given 3"),
        ("{{ row.a | default: 1, allow: true }}", "`default` takes no argument named `allow`"),
        ("{{ row.a | date: '%Q%' }}", "`date`: bad format `%Q%`"),
        ("{{ row.a | timezone: 'Mars/Base' }}", "`timezone`: there is no time zone `Mars/Base`"),
        ("{{ row.a | cast: 'money' }}", "`cast` needs one of these in quotes: any, bool"),
        ("{{ row.a | regex_match: '(' }}", "`(` is no regular expression"),
        ("{{ row.a | regex_match: row.b }}", "a pattern must be a text in quotes"),
        ("{{ row.a | regex_match: '(\\w{1000}){1000}' }}", "is too large"),
        ("{% include 'x' %}", "the tag `include` is not available: a mapping has no other templates"),
        ("{% if a %}", "`if` has no `endif`"),
        ("{% endif %}", "`endif` ends nothing here"),
        ("{% assign row = 1 %}", "`row` is the row itself"),
        ("{{ a b }}", "expected nothing more instead of `b` in `a b`"),
        ("{{ a % b }}", "`%` means nothing in `a % b`"),
        ("{{ 'a }}", "a text has no closing `'` in `'a`"),
    ] {
        let problem = problem(text);
        assert!(problem.contains(words), "{text}: {problem}");
    }
}

#[test]
fn no_message_holds_a_key_or_a_value() {
    for text in [
        "{{ row.a | hmac_sha256: 'key'",
        "{{ row.a | hmac_sha256: 'key' | plus }}",
        "{{ row.a | hmac_sha256: 'key }}",
        "{{ 'x' | hmac_sha256: 'key' | to_number }}",
        "{{ 'value' | to_number }}",
        "{% if 'value' > 1 %}{% endif %}",
    ] {
        let message = alone(text).unwrap_err();
        assert!(!message.contains("key"), "{message}");
    }
    let values = BTreeMap::from([("a".to_owned(), Field::String("value".to_owned()))]);
    for (filter, _) in filters::names() {
        for arguments in ["", ": row.a", ": row.a, row.a"] {
            if let Err(message) = render(&format!("{{{{ row.a | {filter}{arguments} }}}}"), &values) {
                assert!(!message.contains("value") || message.contains("a value") || filter == "values", "{message}");
            }
        }
    }
}

#[test]
fn limits_of_a_template_are_problems() {
    assert!(problem(&" ".repeat(MAX_TEMPLATE_BYTES + 1)).contains("65536 bytes at most"));
    let nested = |n: usize| "{% if true %}".repeat(n) + &"{% endif %}".repeat(n);
    assert!(Template::parse(&nested(32), &[]).is_ok());
    assert!(problem(&nested(33)).contains("32 deep"));
    let lines = |n: usize| format!("{{% {} echo 1 %}}", "liquid ".repeat(n));
    assert!(Template::parse(&lines(32), &[]).is_ok());
    assert!(problem(&lines(33)).contains("32 deep"));
    let brackets = |n: usize| format!("{{{{ {}a{} }}}}", "[".repeat(n), "]".repeat(n));
    assert!(Template::parse(&brackets(16), &[]).is_ok());
    assert!(problem(&brackets(17)).contains("16 deep"));
}

#[test]
fn limits_of_a_row_are_failures() {
    let double =
        |n: usize| "{% assign x = '0123456789abcdef' %}".to_owned() + &"{% assign x = x | append: x %}".repeat(n);
    assert_eq!(alone(&format!("{}{{{{ x }}}}", double(12))), Ok(Field::String("0123456789abcdef".repeat(4096))));
    let long = alone(&format!("{}{{{{ x }}}}y", double(12)));
    assert_eq!(long, Err(format!("its template wrote more than {MAX_OUTPUT_BYTES} bytes")));
    let made = format!("a filter of its template made a value of more than {MAX_MADE_BYTES} bytes, or a list as long");
    assert_eq!(alone(&double(17)), Err(made.clone()));
    assert_eq!(alone(&format!("{}{{{{ x | replace: '', x }}}}", double(16))), Err(made.clone()));
    let groups = "$0".repeat(100);
    assert_eq!(alone(&format!("{}{{{{ x | regex_replace: '(?s).+', '{groups}' }}}}", double(16))), Err(made.clone()));
    assert_eq!(alone("{% assign a = (1..6000) | concat: (1..6000) %}"), Err(made.clone()));
    assert_eq!(alone("{{ (1..99999999999) | first }}"), Ok(Field::Int(1)));
    assert_eq!(alone("{{ (1..99999999999) | join }}"), Err(made));
    let rounds = |n: usize| format!("{{% for a in (1..{n}) %}}{{% for b in (1..99) %}}{{% endfor %}}{{% endfor %}}");
    assert_eq!(alone(&rounds(100)), Ok(Field::String(String::new())));
    assert_eq!(alone(&rounds(101)), Err("its template went through more than 10000 rounds of loops".to_owned()));
    let work = format!("{}{{% for a in (1..200) %}}{{% assign y = x | size %}}{{% endfor %}}", double(15));
    assert_eq!(alone(&work), Err("its template worked on too many bytes; do less in its loops".to_owned()));
}

#[test]
fn a_column_that_cannot_be_read_matters_only_where_it_is_read() {
    let failure = Err("column `bad` holds a timestamp that is out of range".to_owned());
    assert_eq!(alone("{{ row.bad | upcase }}"), failure);
    assert_eq!(alone("{% if false %}{{ row.bad }}{% endif %}ok"), Ok(Field::String("ok".to_owned())));
}

#[test]
fn wide_numbers_stay_exact() {
    let decimal: larder_types::decimal::Decimal = "12345678901234567890.1234".parse().unwrap();
    let values = BTreeMap::from([
        ("big".to_owned(), Field::UInt(u64::MAX)),
        ("money".to_owned(), Field::Decimal(decimal)),
        ("json".to_owned(), Field::Struct(Fragment::parse(r#"{"n":0.12345678901234567890}"#).unwrap())),
    ]);
    for (text, expected) in [
        ("{{ row.big | minus: 1 }}", "18446744073709551614"),
        ("{{ row.big | plus: 1 }}", "18446744073709551616"),
        ("{{ row.money | plus: 0.0001 }}", "12345678901234567890.1235"),
        ("{{ row.json.n }}", "0.12345678901234567890"),
        ("{% if row.big > 18446744073709551614 and row.money < 12345678901234567890.1235 %}1{% endif %}", "\"1\""),
    ] {
        let mut out = String::new();
        render(text, &values).unwrap().write_json(&mut out);
        assert_eq!(out, expected, "{text}");
    }
}

/// Things that stand in outputs and tags.
fn value() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        prop::sample::select(vec![
            "row.a",
            "row.list",
            "row.o",
            "x",
            "'é,b 1'",
            "''",
            "(1..row.a)",
            "x[row.list[0]]",
            "forloop.parentloop.index",
            "empty",
            "nil",
            "row.o.first",
            "row.list.last.k",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:.3}")),
    ]
}

/// A value and filters that take it, most of them with as many arguments as they need.
fn chain() -> impl Strategy<Value = String> + Clone {
    let call = (prop::sample::select(filters::names()), value(), value()).prop_map(|((name, least), a, b)| {
        match (name, least) {
            ("cast", _) => "cast: 'json'".to_owned(),
            ("date", _) => "date: '%Y %j %U'".to_owned(),
            ("timezone", _) => "timezone: 'Asia/Tokyo'".to_owned(),
            ("date_add", _) => format!("date_add: {a}, 'months'"),
            ("regex_replace", _) => format!("regex_replace: '(.)', {b}"),
            ("regex_match" | "regex_extract", _) => format!("{name}: '(.)'"),
            (_, 0) => name.to_owned(),
            (_, 1) => format!("{name}: {a}"),
            _ => format!("{name}: {a}, {b}"),
        }
    });
    (value(), prop::collection::vec(call, 0..4))
        .prop_map(|(first, calls)| calls.into_iter().fold(first, |chain, call| format!("{chain} | {call}")))
}

/// A template of whole tags in each other.
fn template() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        chain().prop_map(|chain| format!("{{{{ {chain} }}}}")),
        chain().prop_map(|chain| format!("{{% assign x = {chain} %}}")),
        prop::sample::select(vec![
            " é\n",
            "{%- break -%}",
            "{% continue %}",
            "{% cycle 1, x %}",
            "{% increment x %}",
            "{% liquid\necho x\n%}",
            "{% # a %}",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        (prop::collection::vec(inner, 0..5), value(), value(), 0..7).prop_map(|(parts, a, b, kind)| {
            let body = parts.concat();
            match kind {
                0 => format!("{{% for x in {a} limit: {b} reversed %}}{body}{{% else %}}-{{% endfor %}}"),
                1 => format!("{{%- for y in {a} offset: continue -%}}{body}{{% endfor %}}"),
                2 => format!("{{% if {a} < {b} or {b} contains {a} %}}{body}{{% endif %}}"),
                3 => format!("{{% tablerow x in {a} cols: {b} %}}{body}{{% endtablerow %}}"),
                4 => format!("{{% case {a} %}}{{% when {b}, x %}}{body}{{% else %}}{body}{{% endcase %}}"),
                5 => format!("{{% capture x %}}{body}{{% endcapture %}}"),
                _ => format!("{{% ifchanged %}}{body}{{% endifchanged %}}"),
            }
        })
    })
}

fn row_for_parts() -> BTreeMap<String, Field> {
    BTreeMap::from([
        ("a".to_owned(), Field::Int(3)),
        ("list".to_owned(), Field::List(Fragment::parse(r#"["a",1,2.5,null,[true,{"k":[]}],"ü"]"#).unwrap())),
        ("o".to_owned(), Field::Struct(Fragment::parse(r#"{"a":{"b":1},"k":"2013-01-01","n":-1e300}"#).unwrap())),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_template_panics(text in template(), cut in 0usize..2000) {
        let _ = render(&text, &row_for_parts());
        // And half of it.
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let _ = render(&text[..cut], &row_for_parts());
    }

    #[test]
    fn every_filter_takes_anything((name, _) in prop::sample::select(filters::names()), seed in any::<[u8; 3]>()) {
        let inputs = ["row.a", "row.list", "row.o", "nil", "''", "'é b'", "-0.5", "1e9", "99999999999999999999", "(3..-1)", "empty", "false"];
        let pick = |at: usize| inputs[usize::from(seed[at]) % inputs.len()];
        for arguments in [String::new(), format!(": {}", pick(1)), format!(": {}, {}", pick(1), pick(2)), ": '%Y%j%U'".to_owned(), format!(": '(.)', {}", pick(1))] {
            let _ = render(&format!("{{{{ {} | {name}{arguments} }}}}", pick(0)), &row_for_parts());
        }
    }

    #[test]
    fn no_text_panics(text in "[ a-c{}%|:.,'\"()\\[\\]<>=!#0-9-]{0,40}") {
        let _ = render(&text, &row_for_parts());
        let _ = render(&format!("{{{{ {text} }}}}"), &row_for_parts());
    }
}

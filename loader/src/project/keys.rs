//! Which keys the YAML files take: one table that the parser, its messages and the JSON Schema all read.
//!
//! A section is the keys of one mapping. Its reader asks [`super::sheet::Sheet::fields`] for the keys that its table
//! names and no others, so a key that a file may have is in the table, and what is in the table has a place in the
//! schema. What a reader checks beyond that (names, references, ranges) it says in its own words.

/// The keys of one mapping.
#[derive(Debug)]
pub(crate) struct Section {
    /// How sentences call the mapping: "the sync", "`guard`".
    pub(crate) what: &'static str,
    /// Its name in the schema: unique, of `a-z_`.
    pub(crate) id: &'static str,
    /// What it is for, in a sentence for editors.
    pub(crate) about: &'static str,
    /// Its keys in the order in which people write them.
    pub(crate) keys: &'static [Key],
    /// Keys of which exactly one is given; none if empty.
    pub(crate) one_of: &'static [&'static str],
}

/// One key of a section.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) is_required: bool,
    /// What it holds.
    pub(crate) shape: Shape,
    /// What it is for, in a sentence for editors.
    pub(crate) about: &'static str,
}

impl Key {
    /// A key that must be there.
    pub(crate) const fn required(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, is_required: true, shape, about }
    }

    /// A key that may be left out.
    pub(crate) const fn optional(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, is_required: false, shape, about }
    }
}

/// What a place of a YAML file may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// A text.
    Text,
    /// `true` or `false`.
    Bool,
    /// An integer that is not negative.
    Count,
    /// A number from 0 to 100.
    Percent,
    /// A span of time, for example `10m`.
    Span,
    /// A text, a number, a truth value or null.
    Scalar,
    /// Null, as YAML writes it without quotes.
    Null,
    /// Any YAML.
    Anything,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of such items.
    List(&'static Self),
    /// A mapping from names of the user's choice.
    Map(&'static Self),
    /// A mapping with these keys.
    Section(&'static Section),
    /// A mapping with some of these keys, none of them required, and so on within.
    Part(&'static Section),
    /// A mapping whose keys depend on the word that one of them holds.
    Variant(&'static Variant),
    /// Any one of these.
    Either(&'static [Self]),
}

/// A mapping whose keys depend on the word under one of them. Every case has that key in its section.
#[derive(Debug)]
pub(crate) struct Variant {
    /// How sentences call the mapping.
    pub(crate) what: &'static str,
    /// The key that decides.
    pub(crate) tag: &'static str,
    /// The words it may hold, and the keys that go with each.
    pub(crate) cases: &'static [(&'static str, &'static Section)],
    /// The keys that go with any other text, if there may be one.
    pub(crate) other: Option<&'static Section>,
}

/// The words of a table of choices, for [`Shape::Word`].
pub(crate) const fn words<T: Copy, const N: usize>(choices: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut at = 0;
    while at < N {
        words[at] = choices[at].0;
        at += 1;
    }
    words
}

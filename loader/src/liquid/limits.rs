//! Limits of templates. A template comes from a project and a row from a warehouse, so neither may make the loader use
//! memory or time without end.

/// Most bytes of a template's text.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;
/// Most bytes that one template may write for one row.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// Most rounds of all loops of a template for one row.
pub const MAX_ROUNDS: usize = 10_000;
/// Tags may stand in each other this deep: more needs a stack that grows with the template.
pub const MAX_NESTING: usize = 32;
/// Expressions may stand in each other this deep, as in `a[b[c]]`.
pub const MAX_BRACKETS: usize = 16;
/// Most bytes of a text, and a hundredth of it the most items of a list, that one filter may make. Columns may be
/// longer: only what is made is bounded.
pub const MAX_MADE_BYTES: usize = 1024 * 1024;
/// Most items of a list that one filter may make.
pub const MAX_MADE_ITEMS: usize = MAX_MADE_BYTES / 100;
/// Most bytes that all filters of a template may read and make for one row: what is left when loops and long texts
/// come together.
pub const MAX_WORK_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes of a compiled regular expression.
pub const MAX_PATTERN_BYTES: usize = 256 * 1024;

//! Names in a template: the columns it reads, the variables it uses and the constants it is given, each with a place, so
//! that nothing is looked up by name for every row.

use larder_types::value::Value as Field;

use super::error::Problem;

/// The word for the row itself.
pub(super) const ROW: &str = "row";
/// Places of the variables that loops define.
pub(super) const FOR_LOOP: usize = 0;
pub(super) const ROW_LOOP: usize = 1;

/// Columns and variables by their places.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) columns: Vec<String>,
    pub(super) variables: Vec<Variable>,
    /// By their paths, `group.name`.
    constants: Vec<(String, Field)>,
}

#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    /// Whether a tag of the template defines it.
    pub(super) is_defined: bool,
}

impl Names {
    pub(super) fn new(constants: &[(String, Field)]) -> Self {
        let defined = |name: &str| Variable { name: name.to_owned(), is_defined: true };
        Self {
            columns: Vec::new(),
            variables: vec![defined("forloop"), defined("tablerowloop")],
            constants: constants.to_vec(),
        }
    }

    /// Whether constants have this name before the point.
    pub(super) fn is_group(&self, name: &str) -> bool {
        self.constants.iter().any(|(path, _)| path.split_once('.').is_some_and(|(group, _)| group == name))
    }

    /// The place of a constant.
    pub(super) fn constant(&self, group: &str, name: &str) -> Option<usize> {
        self.constants.iter().position(|(path, _)| path.split_once('.') == Some((group, name)))
    }

    /// The value of a constant by its place.
    pub(super) fn constant_value(&self, place: usize) -> &Field {
        &self.constants[place].1
    }

    /// The place of a column that is read.
    pub(super) fn column(&mut self, name: &str) -> usize {
        self.columns.iter().position(|column| column == name).unwrap_or_else(|| {
            self.columns.push(name.to_owned());
            self.columns.len() - 1
        })
    }

    /// The place of a variable that is read.
    pub(super) fn variable(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.variables.push(Variable { name: name.to_owned(), is_defined: false });
            self.variables.len() - 1
        })
    }

    /// The place of a variable that a tag defines.
    pub(super) fn define(&mut self, name: &str) -> Result<usize, Problem> {
        if name == ROW {
            return Err(Problem::new("`row` is the row itself and can be no variable of the template"));
        }
        if self.is_group(name) {
            return Err(Problem::new(format!("`{name}` is given to the template and can be no variable of it")));
        }
        let place = self.variable(name);
        self.variables[place].is_defined = true;
        Ok(place)
    }

    /// The place of a variable, if the template has one of this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|variable| variable.name == name)
    }

    /// The variables that no tag of the template defines.
    pub(super) fn undefined(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().filter(|variable| !variable.is_defined).map(|variable| variable.name.as_str())
    }
}

//! A template's tree: what is rendered, one after the other.

use super::condition::Condition;
use super::expression::{Chain, Expression};

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Output(Chain),
    Assign {
        variable: usize,
        value: Chain,
    },
    Capture {
        variable: usize,
        body: Body,
    },
    /// `if`, `unless`: the first branch that is chosen is rendered, else the last body.
    If {
        branches: Vec<Branch>,
        otherwise: Body,
    },
    Case {
        subject: Expression,
        arms: Vec<Arm>,
    },
    Loop(Box<Loop>),
    Cycle {
        group: Option<Expression>,
        key: String,
        items: Vec<Expression>,
    },
    /// `increment` writes the counter and then counts up, `decrement` counts down and then writes it.
    Count {
        variable: usize,
        down: bool,
    },
    /// Written if it is another text than the last one of any `ifchanged`.
    IfChanged(Body),
    Break,
    Continue,
}

/// Nodes between two tags.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) nodes: Vec<Node>,
    /// Whether something in it is more than white space and silent tags. Blocks without that write nothing.
    pub(super) is_solid: bool,
}

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) condition: Condition,
    /// Chosen if the condition is false.
    pub(super) negated: bool,
    pub(super) body: Body,
}

/// One `when` or `else` of a `case`.
#[derive(Debug)]
pub(super) struct Arm {
    /// The values of a `when`; an `else` has none.
    pub(super) values: Option<Vec<Expression>>,
    pub(super) body: Body,
}

/// `for` or `tablerow`.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    /// The variable that holds an item.
    pub(super) variable: usize,
    /// `item-collection`, as written: what `forloop.name` is, and where `offset: continue` goes on.
    pub(super) name: String,
    pub(super) over: Expression,
    pub(super) limit: Option<Expression>,
    pub(super) offset: Offset,
    pub(super) reversed: bool,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum LoopKind {
    /// With what is rendered when there is nothing to go over.
    For { otherwise: Body },
    /// With the number of columns.
    TableRow { columns: Option<Expression> },
}

#[derive(Debug)]
pub(super) enum Offset {
    None,
    /// Where the last loop of the same name ended.
    Continue,
    Given(Expression),
}

impl Body {
    pub(super) fn push(&mut self, node: Node, is_solid: bool) {
        self.nodes.push(node);
        self.is_solid |= is_solid;
    }

    /// Takes out white space that stands between silent tags.
    pub(super) fn drop_space(&mut self) {
        self.nodes.retain(|node| !matches!(node, Node::Text(text) if text.trim().is_empty()));
    }
}

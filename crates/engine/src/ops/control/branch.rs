//! `If`.

use super::{Body, condition, either};
use crate::graph::{Array, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// `If`: one of two graphs.
#[derive(Clone, Debug)]
pub(crate) struct If {
    pub(crate) then_branch: Body,
    pub(crate) else_branch: Body,
    /// The first input that the graph reads.
    then_captures: usize,
    else_captures: usize,
}

impl If {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let graphs = (node.attributes.graph("then_branch")?, node.attributes.graph("else_branch")?);
        let (Some(then_branch), Some(else_branch)) = graphs else {
            problem!("a branch is missing");
        };
        let (then_branch, else_branch) = (Body::new(then_branch, 0)?, Body::new(else_branch, 0)?);
        if then_branch.outputs() != else_branch.outputs() {
            problem!("the branches have {} and {} outputs", then_branch.outputs(), else_branch.outputs());
        }
        // Captured values come in the order of the file's attributes.
        let then_first =
            node.attributes.names().find(|name| name.ends_with("_branch")) == Some("then_branch");
        let (then_captures, else_captures) =
            if then_first { (1, 1 + then_branch.captures()) } else { (1 + else_branch.captures(), 1) };
        Ok(Box::new(Self { then_branch, else_branch, then_captures, else_captures }))
    }

    /// The branch for a condition, and the first input that it reads.
    fn branch(&self, condition: bool) -> (&Body, usize) {
        if condition {
            (&self.then_branch, self.then_captures)
        } else {
            (&self.else_branch, self.else_captures)
        }
    }
}

impl Operator for If {
    fn name(&self) -> &str {
        "If"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let infer = |condition| {
            let (body, first) = self.branch(condition);
            let captured: Vec<_> =
                body.captured(inputs, first).into_iter().map(|info| info.copied()).collect();
            Ok(body.infer(&[], &captured)?.into_iter().collect::<Option<Vec<Info>>>())
        };
        if let Some(value) = &inputs.get(0)?.constant {
            return Ok(infer(condition(value)?)?.unwrap_or_default());
        }
        match (infer(true)?, infer(false)?) {
            (Some(a), Some(b)) => a.iter().zip(&b).map(|(a, b)| either(a, b)).collect(),
            _ => Ok(Vec::new()),
        }
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (body, first) = self.branch(condition(inputs.get(0)?)?);
        body.run(Vec::new(), &body.captured(&inputs, first))
    }
}

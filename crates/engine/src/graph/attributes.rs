//! A node's attributes, as an operator's reader asks for them.

use std::cell::Cell;

use super::{Array, Graph, Problem};

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// `INT`
    Int(i64),
    /// `FLOAT`
    Float(f32),
    /// `STRING`
    String(String),
    /// `TENSOR`
    Tensor(Array),
    /// `GRAPH`
    Graph(Graph),
    /// `INTS`
    Ints(Vec<i64>),
    /// `FLOATS`
    Floats(Vec<f32>),
    /// `STRINGS`
    Strings(Vec<String>),
}

/// The attributes of one node. It remembers which were asked for: one that no reader knows would change what is
/// computed.
#[derive(Debug, Default)]
pub struct Attributes {
    attributes: Vec<(String, Attribute, Cell<bool>)>,
}

macro_rules! getters {
    ($($(#[$meta:meta])* $name:ident: $variant:ident($type:ty) = $kind:literal,)*) => {
        $($(#[$meta])*
        ///
        /// # Errors
        ///
        /// When the attribute is of another type.
        pub fn $name(&self, name: &str) -> Result<Option<$type>, Problem> {
            match self.get(name) {
                None => Ok(None),
                Some(Attribute::$variant(value)) => Ok(Some(value.clone().into())),
                Some(_) => Err(Problem::new(format!(concat!("attribute `{}` is not ", $kind), name))),
            }
        })*
    };
}

impl Attributes {
    /// Attributes by name.
    pub fn new(attributes: Vec<(String, Attribute)>) -> Self {
        let unread = |(name, attribute)| (name, attribute, Cell::new(false));
        Self { attributes: attributes.into_iter().map(unread).collect() }
    }

    getters! {
        /// An integer.
        int: Int(i64) = "an integer",
        /// A number.
        float: Float(f32) = "a number",
        /// A string.
        string: String(String) = "a string",
        /// A tensor.
        tensor: Tensor(Array) = "a tensor",
        /// A graph.
        graph: Graph(Graph) = "a graph",
        /// A list of integers.
        ints: Ints(Vec<i64>) = "a list of integers",
        /// A list of numbers.
        floats: Floats(Vec<f32>) = "a list of numbers",
        /// A list of strings.
        strings: Strings(Vec<String>) = "a list of strings",
    }

    /// An integer that is 0 or 1, which is what ONNX has for truth.
    ///
    /// # Errors
    ///
    /// When the attribute is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.int(name)? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(other) => Err(Problem::new(format!("attribute `{name}` is {other}, expected 0 or 1"))),
        }
    }

    /// One of a few words.
    ///
    /// # Errors
    ///
    /// When the attribute is another word.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(word) = self.string(name)? else {
            return Ok(None);
        };
        match choices.iter().find(|(choice, _)| *choice == word) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(Problem::new(format!("attribute `{name}` is `{word}`, which is not supported"))),
        }
    }

    /// Attributes that change nothing here: training hints and the like.
    pub fn ignore(&self, names: &[&str]) {
        for name in names {
            self.get(name);
        }
    }

    /// All names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|(name, ..)| name.as_str())
    }

    /// Names that nobody asked for.
    pub fn unread(&self) -> Vec<&str> {
        let unread = self.attributes.iter().filter(|(_, _, read)| !read.get());
        unread.map(|(name, ..)| name.as_str()).collect()
    }

    fn get(&self, name: &str) -> Option<&Attribute> {
        let (_, attribute, read) = self.attributes.iter().find(|(candidate, ..)| candidate == name)?;
        read.set(true);
        Some(attribute)
    }
}

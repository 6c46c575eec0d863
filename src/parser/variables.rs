//! Variables in the order of their first setting, looked up by name.

use std::collections::HashMap;

use crate::parser::word::Variables;

/// An environment: names and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    entries: Vec<(String, String)>,
    places: HashMap<String, usize>,
    bytes: usize,
}

impl Environment {
    /// The environment that an image's config states as `NAME=value` each. An entry without `=`
    /// has the empty value, one without a name does not count: neither may ever let a variable of
    /// the builder's own environment through.
    pub fn of_image(entries: &[String]) -> Self {
        let mut environment = Self::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            if !name.is_empty() {
                environment.set(name, value);
            }
        }
        environment
    }

    /// Gives `name` a value; it keeps its place if it has one.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(&place) => {
                let old = &mut self.entries[place].1;
                self.bytes = self.bytes - old.len() + value.len();
                value.clone_into(old);
            }
            None => {
                self.bytes += name.len() + value.len() + 32;
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.0.as_str())
    }

    /// Names and values, in order.
    pub fn entries(&self) -> &[(String, String)] {
        &self.entries
    }

    /// `NAME=value` each, as an image's config has them.
    pub fn to_image(&self) -> Vec<String> {
        self.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// About how much memory a copy takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Variables for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|&place| self.entries[place].1.as_str())
    }
}

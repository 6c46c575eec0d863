//! Variables in the order of their first setting, looked up by name.

use std::collections::HashMap;

use crate::parser::word::Variables;

/// An environment: names and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    entries: Vec<(String, String)>,
    /// Where each name is, once there are more than [`FEW`]: most stages have a few, and are many.
    places: HashMap<String, usize>,
    bytes: usize,
}

/// So many names are looked through one by one.
const FEW: usize = 8;

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
        match self.place(name) {
            Some(place) => {
                let old = &mut self.entries[place].1;
                self.bytes = self.bytes - old.len() + value.len();
                value.clone_into(old);
            }
            None => {
                self.bytes += name.len() + value.len() + 32;
                self.entries.push((name.to_owned(), value.to_owned()));
                let count = self.entries.len();
                if count > FEW {
                    // All of them the first time, later the one that is new.
                    let missing = self.places.len()..count;
                    let names = self.entries[missing.clone()].iter().map(|entry| entry.0.clone());
                    self.places.extend(names.zip(missing));
                }
            }
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        match self.entries.len() <= FEW {
            true => self.entries.iter().position(|entry| entry.0 == name),
            false => self.places.get(name).copied(),
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
        self.place(name).map(|place| self.entries[place].1.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_names_are_found() {
        let mut environment = Environment::default();
        for number in 0..2 * FEW {
            let name = format!("N{number}");
            assert_eq!(environment.get(&name), None);
            environment.set(&name, "first");
            environment.set(&name, &number.to_string());
            for known in 0..=number {
                assert_eq!(environment.get(&format!("N{known}")), Some(known.to_string().as_str()));
            }
            assert_eq!(environment.entries().len(), number + 1);
        }
        environment.set("N0", "again");
        environment.set("N9", "again");
        assert_eq!(environment.entries()[0], ("N0".to_owned(), "again".to_owned()));
        assert_eq!(environment.entries()[9], ("N9".to_owned(), "again".to_owned()));
    }
}

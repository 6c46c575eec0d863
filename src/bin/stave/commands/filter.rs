//! `--filter KEY=VALUE`: of several values of a key one is enough, of several keys all must hold; labels all must.

use std::collections::BTreeMap;

use stave::diagnostic::nearest;
use stave::engine::container::Seen;
use stave::spelling;

use crate::ambient;
use crate::failure::Failure;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the filters of a command that knows these keys.
    ///
    /// # Errors
    /// Names a key that is not known, and the nearest one that is.
    pub fn parse(texts: &[String], known: &[&str]) -> Result<Self, Failure> {
        let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Failure::usage(format!("`--filter {text}` has no value"))
                    .hint("a filter is written as `KEY=VALUE`")
            })?;
            let key = key.trim().to_lowercase();
            if !known.contains(&key.as_str()) {
                let failure = Failure::usage(format!("there is no filter `{key}`"));
                return Err(match nearest(&key, known.iter().copied()) {
                    Some(near) => failure.hint(format!("did you mean `{near}`?")),
                    None => failure.hint(format!("there are `{}`", known.join("`, `"))),
                });
            }
            filters.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Self(filters))
    }

    /// The values of a key.
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the key was not asked for, or one of its values holds.
    pub fn admits(&self, key: &str, holds: impl FnMut(&String) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(holds))
    }

    /// Whether all labels asked for are among these, and none of `label!`.
    pub fn admits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }

    /// A key whose value is a truth value.
    ///
    /// # Errors
    /// For other values.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, Failure> {
        let Some(text) = self.values(key).last() else { return Ok(None) };
        match spelling::boolean(text) {
            Some(truth) => Ok(Some(truth)),
            None => Err(invalid(key, text).hint("it is `true` or `false`")),
        }
    }

    /// The moment before which things must have been made.
    ///
    /// # Errors
    /// For what is no moment.
    pub fn until(&self) -> Result<Option<i64>, Failure> {
        let Some(text) = self.values("until").last() else { return Ok(None) };
        match spelling::moment(text, ambient::now()) {
            Some(moment) => Ok(Some(moment)),
            None => Err(invalid("until", text).hint("write `24h`, a date, a time, or seconds since 1970")),
        }
    }

    /// Whether a container goes by `until` and labels, for `prune`.
    ///
    /// # Errors
    /// As [`Filters::until`].
    pub fn admits_for_prune(&self, seen: &Seen) -> Result<bool, Failure> {
        let until = self.until()?;
        Ok(until.is_none_or(|until| seen.row.created < until) && self.admits_labels(&seen.config.labels))
    }
}

/// A value that a filter does not have.
pub fn invalid(key: &str, value: &str) -> Failure {
    Failure::usage(format!("the filter `{key}` has no value `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Filters, Failure> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&texts, &["label", "label!", "name", "until"])
    }

    #[test]
    fn one_value_is_enough_and_all_labels_must_be() {
        let filters = parse(&["name=a", "NAME = b", "label=x=1", "label=y"]).unwrap();
        assert!(filters.admits("name", |value| value == "b"));
        assert!(!filters.admits("name", |value| value == "c"));
        assert!(filters.admits("until", |_| false), "not asked for");
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert!(filters.admits_labels(&labels(&[("x", "1"), ("y", "")])));
        assert!(!filters.admits_labels(&labels(&[("x", "2"), ("y", "")])));
        assert!(!filters.admits_labels(&labels(&[("x", "1")])));
        assert!(!parse(&["label!=x"]).unwrap().admits_labels(&labels(&[("x", "1")])));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["name", "", "nam=x", "=x", "volume=x"] {
            assert!(parse(&[text]).is_err(), "{text}");
        }
        assert!(parse(&["until=whenever"]).unwrap().until().is_err());
        assert!(parse(&["until=10m"]).unwrap().until().unwrap().is_some());
    }
}

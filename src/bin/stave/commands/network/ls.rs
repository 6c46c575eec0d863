//! `stave network ls`

use std::process::ExitCode;

use serde_json::json;
use stave::engine::network::{self, Network};

use super::failure;
use crate::ambient;
use crate::commands::context::Context;
use crate::failure::Failure;
use crate::format::{self, Columns, Row};

/// List networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those: `name=`, `id=`, `driver=`, `label=`, `type=custom|builtin`, `scope=`, `dangling=`
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `table`, `json`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: Columns = Columns {
    fields: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
    ],
    shown: &["ID", "Name", "Driver", "Scope"],
    quiet: "ID",
};

/// A word of `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    /// And its value, if one is asked for.
    Label(String, Option<String>),
    /// As `label!=`, which `prune` knows.
    NoLabel(String, Option<String>),
    Custom(bool),
    Scope(String),
    Dangling(bool),
    /// Nanoseconds since the epoch.
    Until(i64),
}

impl Filter {
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::usage(format!("invalid filter `{text}`"));
        let (name, value) = text.split_once('=').ok_or_else(|| wrong().hint("filters are `NAME=VALUE`"))?;
        let label = |value: &str| match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        };
        let switch = |value: &str| match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong().hint("it is `true` or `false`")),
        };
        Ok(match name {
            "name" => Self::Name(value.to_owned()),
            "id" => Self::Id(value.to_owned()),
            "driver" => Self::Driver(value.to_owned()),
            "label" => {
                let (name, value) = label(value);
                Self::Label(name, value)
            }
            "label!" => {
                let (name, value) = label(value);
                Self::NoLabel(name, value)
            }
            "type" if value == "custom" => Self::Custom(true),
            "type" if value == "builtin" => Self::Custom(false),
            "scope" => Self::Scope(value.to_owned()),
            "dangling" => Self::Dangling(switch(value)?),
            _ => {
                return Err(wrong().hint(
                    "there are `name`, `id`, `driver`, `label`, `type=custom|builtin`, `scope` and `dangling`",
                ));
            }
        })
    }

    /// `used` is whether somebody is in the network.
    pub fn admits(&self, network: &Network, used: bool) -> bool {
        let has = |name: &str, value: &Option<String>| {
            let found = network.spec.labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        match self {
            Self::Name(part) => network.name.contains(part),
            Self::Id(part) => network.id.contains(part),
            Self::Driver(name) => network.spec.driver.name() == name,
            Self::Label(name, value) => has(name, value),
            Self::NoLabel(name, value) => !has(name, value),
            Self::Custom(custom) => *custom != network.is_predefined(),
            Self::Scope(scope) => scope == "local",
            Self::Dangling(dangling) => *dangling == (!used && !network.is_predefined()),
            Self::Until(then) => network.created < *then,
        }
    }
}

/// Of filters of one kind one must admit, of labels all.
pub fn admitted(filters: &[Filter], network: &Network, used: bool) -> bool {
    let all_must =
        |filter: &Filter| matches!(filter, Filter::Label(..) | Filter::NoLabel(..) | Filter::Until(_));
    filters.iter().all(|filter| {
        let kind = std::mem::discriminant(filter);
        let mut alike = filters.iter().filter(|other| std::mem::discriminant(*other) == kind);
        match all_must(filter) {
            true => filter.admits(network, used),
            false => alike.any(|other| other.admits(network, used)),
        }
    })
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let store = context.store()?;
    let machine = ambient::machine();
    let mut rows = Vec::new();
    for network in network::list(&store, &machine).map_err(|error| failure(&error))? {
        let asks = filters.iter().any(|filter| matches!(filter, Filter::Dangling(_)));
        let used = asks && !network::members(&machine, &network).map_err(|error| failure(&error))?.is_empty();
        if !admitted(&filters, &network, used) {
            continue;
        }
        let id = if args.no_trunc { &network.id } else { network.short_id() };
        let labels: Vec<String> =
            network.spec.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // As Docker writes them in lists: texts.
        let value = json!({
            "ID": id, "Name": network.name, "Driver": network.spec.driver.name(), "Scope": "local",
            "IPv4": (network.spec.driver == network::Driver::Bridge).to_string(),
            "IPv6": network.has_ipv6().to_string(), "Internal": network.is_internal().to_string(),
            "CreatedAt": format::time::long(network.created), "Labels": labels.join(","),
        });
        rows.push(Row { value, labels: network.spec.labels.clone() });
    }
    format::list(&COLUMNS, args.format.as_deref(), args.quiet, &rows)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stave::engine::network::{Driver, Spec};
    use std::collections::BTreeMap;

    fn network(name: &str, labels: &[(&str, &str)]) -> Network {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let spec = Spec { driver: Driver::Bridge, labels, ..Spec::default() };
        Network { id: "abc".to_owned(), name: name.to_owned(), created: 1, spec }
    }

    #[test]
    fn filters_are_alternatives_but_for_labels() {
        let all = |texts: &[&str]| -> Vec<Filter> {
            texts.iter().map(|text| Filter::parse(text).unwrap()).collect()
        };
        let web = network("web", &[("tier", "front"), ("x", "")]);
        assert!(admitted(&all(&["name=we", "name=db"]), &web, false));
        assert!(!admitted(&all(&["name=db"]), &web, false));
        assert!(admitted(&all(&["label=tier", "label=x"]), &web, false));
        assert!(!admitted(&all(&["label=tier", "label=y"]), &web, false));
        assert!(admitted(&all(&["label=tier=front", "type=custom", "driver=bridge"]), &web, false));
        assert!(!admitted(&all(&["label!=tier=front"]), &web, false));
        assert!(admitted(&all(&["dangling=true"]), &web, false));
        assert!(!admitted(&all(&["dangling=true"]), &web, true));
        assert!(admitted(&all(&["type=builtin"]), &network("bridge", &[]), false));
        for wrong in ["name", "type=x", "color=red", "dangling=maybe"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}

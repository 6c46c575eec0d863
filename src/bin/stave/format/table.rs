//! Lists: which columns there are, and the ways to write them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use stave::diagnostic::printable;

use super::{Data, Template};
use crate::failure::Failure;

/// The columns that a list can have.
#[derive(Debug)]
pub struct Columns {
    /// Fields and their headers.
    pub fields: &'static [(&'static str, &'static str)],
    /// The template of the table without `--format`: fields of `fields`.
    pub shown: &'static [&'static str],
    /// What `-q` prints.
    pub quiet: &'static str,
}

/// A line of a list.
#[derive(Debug, Default)]
pub struct Row {
    /// An object with at least the fields of the columns.
    pub value: Value,
    pub labels: BTreeMap<String, String>,
}

/// Docker's narrowest column, and the blanks between two.
const NARROWEST: usize = 10;
const BETWEEN: usize = 3;

/// Prints a list as `format` says: nothing or `table` for the usual columns, `table TEMPLATE`, `json`, or a template
/// for each row. `-q` alone prints ids, and counts for nothing beside a template, as with Docker.
///
/// # Errors
/// What is wrong with the template.
pub fn list(columns: &Columns, format: Option<&str>, quiet: bool, rows: &[Row]) -> Result<(), Failure> {
    let text = written(columns, format, quiet, rows)?;
    for line in text.split_inclusive('\n') {
        crate::say::text(line.strip_suffix('\n').unwrap_or(line));
    }
    Ok(())
}

pub(super) fn written(
    columns: &Columns,
    format: Option<&str>,
    quiet: bool,
    rows: &[Row],
) -> Result<String, Failure> {
    let format = format.map_or("", str::trim);
    let template = match format {
        "" | "table" if quiet => Some(format!("{{{{.{}}}}}", columns.quiet)),
        "" | "table" | "json" => None,
        other => Some(other.to_owned()),
    };
    let headers: Map<String, Value> =
        columns.fields.iter().map(|(field, header)| ((*field).to_owned(), (*header).into())).collect();
    let headers = Value::Object(headers);
    let mut out = String::new();
    let Some(template) = template else {
        if format == "json" {
            for row in rows {
                out.push_str(&crate::say::escaped_json(&row.value));
                out.push('\n');
            }
            return Ok(out);
        }
        let line = |value: &Value| -> Vec<String> {
            columns.shown.iter().map(|field| cell(&super::value::text(&value[*field]))).collect()
        };
        let lines = std::iter::once(&headers).chain(rows.iter().map(|row| &row.value));
        return Ok(aligned(&lines.map(line).collect::<Vec<_>>()));
    };
    let behind = template.strip_prefix("table").filter(|behind| behind.starts_with([' ', '\t', '\\']));
    let parsed = match behind {
        // A backslash begins an escape that belongs to the template.
        Some(behind) => Template::parse_of_list(behind.trim_start())?,
        None => Template::parse_of_list(&template)?,
    };
    // Also without a row or a header a template is held to the fields there are.
    let none = BTreeMap::new();
    let header = parsed.render(Data { root: &headers, labels: Some(&none), is_header: true })?;
    let render =
        |row: &Row| parsed.render(Data { root: &row.value, labels: Some(&row.labels), is_header: false });
    if behind.is_none() {
        for row in rows {
            out.push_str(&render(row)?);
            out.push('\n');
        }
        return Ok(out);
    }
    let mut lines = vec![cells(&header)];
    for row in rows {
        lines.extend(render(row)?.split('\n').map(cells));
    }
    Ok(aligned(&lines))
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(cell).collect()
}

/// A text that takes one line of one column.
fn cell(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        for (place, cell) in line.iter().enumerate() {
            let width = (cell.chars().count() + BETWEEN).max(NARROWEST);
            match widths.get_mut(place) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Prints objects as `format` says: nothing for JSON with line breaks, `json` for a line each, a template, or a field
/// as `.Config.Cmd` alone, which gives a text as it is and everything else as JSON.
///
/// # Errors
/// What is wrong with the template.
pub fn object(format: Option<&str>, values: &[Value]) -> Result<(), Failure> {
    let Some(format) = format.filter(|format| !format.is_empty()) else {
        crate::say::json(&values.into());
        return Ok(());
    };
    if format == "json" {
        values.iter().for_each(crate::say::json_line);
        return Ok(());
    }
    let is_field = format.starts_with('.') && !format.contains(|c: char| c.is_whitespace() || c == '{');
    let template = match is_field {
        true => Template::parse(&format!("{{{{json {format}}}}}"))?,
        false => Template::parse(format)?,
    };
    for value in values {
        let text = template.render_value(value)?;
        let found: Option<Value> = if is_field { serde_json::from_str(&text).ok() } else { None };
        match found {
            Some(Value::String(text)) => crate::say::text(&text),
            Some(Value::Null) => say_line!(),
            Some(other) => crate::say::json_line(&other),
            None => crate::say::text(&text),
        }
    }
    Ok(())
}

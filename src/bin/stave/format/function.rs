//! The functions of templates: Go's own, and those that Docker's client adds, one line each in [`ALL`].

use std::cmp::Ordering;

use serde_json::Value;

use super::printf::printf;
use super::value;

/// A function, and how many arguments it takes.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub least: usize,
    pub most: usize,
    pub run: fn(&[&Value]) -> Result<Value, String>,
}

const fn function(
    name: &'static str,
    least: usize,
    most: usize,
    run: fn(&[&Value]) -> Result<Value, String>,
) -> Function {
    Function { name, least, most, run }
}

const MANY: usize = usize::MAX;

/// All there are. `and` and `or` look at no argument behind the one that decides; the caller sees to that.
pub const ALL: &[Function] = &[
    function("and", 1, MANY, |of| Ok(deciding(of, false))),
    function("eq", 2, MANY, |of| {
        let mut found = false;
        for other in &of[1..] {
            found |= value::equal(of[0], other)?;
        }
        Ok(found.into())
    }),
    function("ge", 2, 2, |of| Ok(value::order(of[0], of[1])?.is_ge().into())),
    function("gt", 2, 2, |of| Ok(value::order(of[0], of[1])?.is_gt().into())),
    function("html", 1, 1, |of| Ok(html(text(of[0])?).into())),
    function("index", 1, MANY, |of| index(of[0], &of[1..])),
    function("join", 2, 2, |of| {
        let items = of[0].as_array().ok_or_else(|| wanted("a list", of[0]))?;
        let texts: Vec<String> = items.iter().map(value::text).collect();
        Ok(texts.join(text(of[1])?).into())
    }),
    function("json", 1, 1, |of| Ok(of[0].to_string().into())),
    function("le", 2, 2, |of| Ok(value::order(of[0], of[1])?.is_le().into())),
    function("len", 1, 1, |of| match of[0] {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(map) => Ok(map.len().into()),
        other => Err(format!("{} has no length", value::kind(other))),
    }),
    function("lower", 1, 1, |of| Ok(text(of[0])?.to_lowercase().into())),
    function("lt", 2, 2, |of| Ok((value::order(of[0], of[1])? == Ordering::Less).into())),
    function("ne", 2, 2, |of| Ok((!value::equal(of[0], of[1])?).into())),
    function("not", 1, 1, |of| Ok((!value::truth(of[0])).into())),
    function("or", 1, MANY, |of| Ok(deciding(of, true))),
    function("pad", 3, 3, |of| {
        let inside = text(of[0])?;
        if inside.is_empty() {
            return Ok("".into());
        }
        Ok(format!("{}{inside}{}", blanks(of[1])?, blanks(of[2])?).into())
    }),
    function("print", 0, MANY, |of| Ok(print(of).into())),
    function("printf", 1, MANY, |of| Ok(printf(text(of[0])?, &of[1..])?.into())),
    function("println", 0, MANY, |of| {
        let texts: Vec<String> = of.iter().map(|one| value::text(one)).collect();
        Ok((texts.join(" ") + "\n").into())
    }),
    function("slice", 1, 3, |of| slice(of[0], &of[1..])),
    function("split", 2, 2, |of| {
        let parts: Vec<Value> = text(of[0])?.split(text(of[1])?).map(Value::from).collect();
        Ok(parts.into())
    }),
    function("title", 1, 1, |of| Ok(title(text(of[0])?).into())),
    function("truncate", 2, 2, |of| Ok(text(of[0])?.chars().take(count(of[1])?).collect::<String>().into())),
    function("upper", 1, 1, |of| Ok(text(of[0])?.to_uppercase().into())),
];

fn wanted(what: &str, found: &Value) -> String {
    format!("expected {what}, found {}", value::kind(found))
}

fn text(of: &Value) -> Result<&str, String> {
    of.as_str().ok_or_else(|| wanted("a text", of))
}

fn count(of: &Value) -> Result<usize, String> {
    let number = of.as_u64().and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| wanted("a number that is not negative", of))
}

fn blanks(of: &Value) -> Result<String, String> {
    match count(of)? {
        0..=4096 => Ok(" ".repeat(count(of)?)),
        _ => Err("a width is above 4096".to_owned()),
    }
}

/// The first argument that counts as `truth`, or the last.
fn deciding(of: &[&Value], truth: bool) -> Value {
    let found = of.iter().find(|one| value::truth(one) == truth).or(of.last());
    found.map_or(Value::Null, |found| (*found).clone())
}

/// As `fmt.Sprint`: blanks only between two that are both no texts.
fn print(of: &[&Value]) -> String {
    let mut out = String::new();
    for (place, one) in of.iter().enumerate() {
        if place > 0 && !one.is_string() && !of[place - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&value::text(one));
    }
    out
}

/// An item of an item. What a map of texts does not have is the empty text there, as in Go.
fn index(of: &Value, keys: &[&Value]) -> Result<Value, String> {
    let mut found = of.clone();
    for key in keys {
        found = match &found {
            Value::Array(items) => {
                let place = count(key)?;
                items.get(place).cloned().ok_or_else(|| {
                    format!("there is no item {place} in a list of {}, which are counted from 0", items.len())
                })?
            }
            Value::Object(map) => match map.get(text(key)?) {
                Some(item) => item.clone(),
                None if map.values().all(Value::is_string) => "".into(),
                None => Value::Null,
            },
            other => return Err(format!("{} has no items", value::kind(other))),
        };
    }
    Ok(found)
}

fn slice(of: &Value, bounds: &[&Value]) -> Result<Value, String> {
    let length = match of {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => return Err(format!("{} cannot be cut", value::kind(other))),
    };
    let begin = bounds.first().map_or(Ok(0), |bound| count(bound))?;
    let end = bounds.get(1).map_or(Ok(length), |bound| count(bound))?;
    let wrong = || format!("{begin} to {end} is no part of what has the length {length}");
    match of {
        Value::String(text) => Ok(text.get(begin..end).ok_or_else(wrong)?.into()),
        Value::Array(items) => Ok(items.get(begin..end).ok_or_else(wrong)?.to_vec().into()),
        _ => Err(wrong()),
    }
}

/// Every word with a capital.
fn title(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .flat_map(|c| {
            let begins = c.is_alphanumeric() && !inside;
            inside = c.is_alphanumeric() || c == '\'' || c == '_';
            let changed: Vec<char> = if begins { c.to_uppercase().collect() } else { vec![c] };
            changed
        })
        .collect()
}

fn html(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

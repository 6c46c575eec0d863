//! A template over a value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use stave::diagnostic::{Span, nearest};

use super::parse::{Branches, Command, Node, Operand, Pipeline, Source};
use super::{Fault, value};

/// A template that writes more than this, or does more, is stopped.
const OUTPUT_LIMIT: usize = 64 << 20;
const STEP_LIMIT: usize = 5_000_000;

/// Fields of Docker's objects that are left out of its JSON when there is nothing to say, so that
/// `{{if .State.Health}}` works for containers without.
const OPTIONAL: &[&str] = &[
    "Annotations",
    "Author",
    "ArgsEscaped",
    "Comment",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Index",
    "Init",
    "MacAddress",
    "Manifest",
    "Mounts",
    "OnBuild",
    "Platforms",
    "Shell",
    "Size",
    "SizeRootFs",
    "SizeRw",
    "StdinOnce",
    "StopSignal",
    "StopTimeout",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Variant",
    "Volumes",
];

/// Fields whose values are maps with keys of people's own: what they lack is no mistake of the template's.
const MAPS: &[&str] = &[
    "Annotations",
    "Attributes",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Runtimes",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// What a template is done over.
#[derive(Clone, Copy)]
pub struct Data<'d> {
    pub root: &'d Value,
    /// What `.Label "key"` looks up.
    pub labels: Option<&'d BTreeMap<String, String>>,
    /// Whether `root` has the headers of columns: then functions leave them as they are.
    pub is_header: bool,
}

/// A value, and whether it is the whole of what the template is done over.
#[derive(Clone)]
struct Bound<'d> {
    value: Cow<'d, Value>,
    is_root: bool,
}

impl<'d> Bound<'d> {
    fn made(value: Value) -> Self {
        Self { value: Cow::Owned(value), is_root: false }
    }
}

enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'d> {
    data: Data<'d>,
    out: String,
    steps: usize,
    variables: Vec<(String, Bound<'d>)>,
}

/// What the template writes.
pub fn run(nodes: &[Node], data: Data<'_>) -> Result<String, Fault> {
    let root = Bound { value: Cow::Borrowed(data.root), is_root: true };
    let variables = vec![(String::new(), root.clone())];
    let mut run = Run { data, out: String::new(), steps: 0, variables };
    run.nodes(nodes, &root)?;
    Ok(run.out)
}

impl<'d> Run<'d> {
    fn nodes(&mut self, nodes: &[Node], dot: &Bound<'d>) -> Result<Flow, Fault> {
        for node in nodes {
            match node {
                Node::Text(text) => self.write(text)?,
                Node::Action(pipeline) => {
                    let result = self.pipeline(pipeline, dot)?;
                    let silent = self.data.is_header && (result.value.is_object() || result.value.is_null());
                    if pipeline.variables.is_empty() && !silent {
                        self.write(&value::text(&result.value))?;
                    }
                }
                Node::If(branches) => {
                    let scope = self.variables.len();
                    let holds = value::truth(&self.pipeline(&branches.pipeline, dot)?.value);
                    let chosen = if holds { &branches.body } else { &branches.otherwise };
                    let flow = self.nodes(chosen, dot)?;
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::On) {
                        return Ok(flow);
                    }
                }
                Node::With(branches) => {
                    let scope = self.variables.len();
                    let subject = self.pipeline(&branches.pipeline, dot)?;
                    let flow = match value::truth(&subject.value) {
                        true => self.nodes(&branches.body, &subject)?,
                        false => self.nodes(&branches.otherwise, dot)?,
                    };
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::On) {
                        return Ok(flow);
                    }
                }
                Node::Range(branches) => {
                    let scope = self.variables.len();
                    let flow = self.range(branches, dot)?;
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::On) {
                        return Ok(flow);
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, branches: &Branches, dot: &Bound<'d>) -> Result<Flow, Fault> {
        let over = self.pipeline(&branches.pipeline, dot)?;
        let span = branches.pipeline.commands[0].span;
        let mut items: Box<dyn Iterator<Item = (Value, Bound<'d>)>> = match over.value {
            Cow::Borrowed(Value::Array(items)) => {
                Box::new(items.iter().enumerate().map(|(at, item)| {
                    (Value::from(at), Bound { value: Cow::Borrowed(item), is_root: false })
                }))
            }
            Cow::Owned(Value::Array(items)) => {
                Box::new(items.into_iter().enumerate().map(|(at, item)| (Value::from(at), Bound::made(item))))
            }
            Cow::Borrowed(Value::Object(map)) => Box::new(map.iter().map(|(key, item)| {
                (Value::from(key.as_str()), Bound { value: Cow::Borrowed(item), is_root: false })
            })),
            Cow::Owned(Value::Object(map)) => {
                Box::new(map.into_iter().map(|(key, item)| (key.into(), Bound::made(item))))
            }
            ref number if number.as_u64().is_some() => {
                let end = number.as_u64().unwrap_or(0);
                Box::new((0..end).map(|at| (at.into(), Bound::made(at.into()))))
            }
            ref nothing if nothing.is_null() => Box::new(std::iter::empty()),
            // A column's header stands for all of its items.
            ref header if self.data.is_header => {
                Box::new(std::iter::once((0.into(), Bound::made(header.clone().into_owned()))))
            }
            ref other => {
                return Err(Fault::new(span, format!("{} has no items to go through", value::kind(other))));
            }
        };
        let names = &branches.pipeline.variables;
        let scope = self.variables.len();
        let mut any = false;
        for (key, item) in items.by_ref() {
            any = true;
            self.step(span)?;
            match names.as_slice() {
                [] => {}
                [one] => self.set(branches, one, item.clone()),
                [first, second, ..] => {
                    self.set(branches, first, Bound::made(key));
                    self.set(branches, second, item.clone());
                }
            }
            let flow = self.nodes(&branches.body, &item)?;
            self.variables.truncate(scope);
            match flow {
                Flow::Break => break,
                Flow::On | Flow::Continue => {}
            }
        }
        if any { Ok(Flow::On) } else { self.nodes(&branches.otherwise, dot) }
    }

    fn set(&mut self, branches: &Branches, name: &str, item: Bound<'d>) {
        if branches.pipeline.assigns {
            self.assign(name, item);
        } else {
            self.variables.push((name.to_owned(), item));
        }
    }

    fn assign(&mut self, name: &str, item: Bound<'d>) {
        // The parser saw to it that there is one.
        if let Some((_, place)) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            *place = item;
        }
    }

    fn step(&mut self, span: Span) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps > STEP_LIMIT {
            return Err(Fault::new(span, "the template goes on for too long".to_owned()));
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), Fault> {
        if self.out.len() + text.len() > OUTPUT_LIMIT {
            let message = format!("the template writes more than {} MiB", OUTPUT_LIMIT >> 20);
            return Err(Fault::new(Span::new(0, 0), message));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Bound<'d>) -> Result<Bound<'d>, Fault> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        let result = piped.unwrap_or_else(|| Bound::made(Value::Null));
        // Those of `range` are set for each item.
        if let [name] = pipeline.variables.as_slice() {
            if pipeline.assigns {
                self.assign(name, result.clone());
            } else {
                self.variables.push((name.clone(), result.clone()));
            }
        }
        Ok(result)
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Bound<'d>,
        piped: Option<Bound<'d>>,
    ) -> Result<Bound<'d>, Fault> {
        self.step(command.span)?;
        let [first, rest @ ..] = command.operands.as_slice() else {
            return Ok(Bound::made(Value::Null));
        };
        let Source::Function(function) = first.of else {
            if rest.is_empty() && piped.is_none() {
                return self.operand(first, dot);
            }
            return self.label(first, rest, dot, piped);
        };
        let mut arguments: Vec<Bound<'d>> = Vec::new();
        for operand in rest {
            let argument = self.operand(operand, dot)?;
            // What comes after the one that decides may not even be there.
            let decides = match function.name {
                "and" => !value::truth(&argument.value),
                "or" => value::truth(&argument.value),
                _ => false,
            };
            if decides && !self.data.is_header {
                return Ok(argument);
            }
            arguments.push(argument);
        }
        if self.data.is_header {
            let is_column = |operand: &Operand| !matches!(operand.of, Source::Literal(_) | Source::Nil);
            let column = rest.iter().position(is_column).map(|at| arguments.swap_remove(at));
            return Ok(column.or(piped).unwrap_or_else(|| Bound::made(Value::Null)));
        }
        arguments.extend(piped);
        if !(function.least..=function.most).contains(&arguments.len()) {
            let wanted = match (function.least, function.most) {
                (least, usize::MAX) => format!("at least {least}"),
                (least, most) if least == most => least.to_string(),
                (least, most) => format!("{least} to {most}"),
            };
            let message = format!("`{}` takes {wanted} values, not {}", function.name, arguments.len());
            return Err(Fault::new(first.span, message));
        }
        let values: Vec<&Value> = arguments.iter().map(|argument| &*argument.value).collect();
        let result = (function.run)(&values).map_err(|why| {
            let message = format!("`{}`: {why}", function.name);
            Fault::new(command.span, message)
        })?;
        Ok(Bound::made(result))
    }

    /// `.Label "key"`, the one field that takes a value.
    fn label(
        &mut self,
        first: &Operand,
        rest: &[Operand],
        dot: &Bound<'d>,
        piped: Option<Bound<'d>>,
    ) -> Result<Bound<'d>, Fault> {
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        let of_root = match &first.of {
            Source::Dot => dot.is_root,
            Source::Variable(name) => name.is_empty(),
            _ => false,
        };
        let is_label = matches!(first.fields.as_slice(), [(name, _)] if name == "Label") && of_root;
        match (self.data.labels, arguments.as_slice()) {
            (Some(labels), [key]) if is_label => {
                let key = value::text(&key.value);
                let label = match self.data.is_header {
                    true => key,
                    false => labels.get(&key).cloned().unwrap_or_default(),
                };
                Ok(Bound::made(label.into()))
            }
            _ => Err(Fault::new(first.span, "this takes no values, it is no function".to_owned())),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Bound<'d>) -> Result<Bound<'d>, Fault> {
        self.step(operand.span)?;
        let mut found = match &operand.of {
            Source::Literal(value) => Bound::made(value.clone()),
            Source::Nil => Bound::made(Value::Null),
            Source::Dot => dot.clone(),
            Source::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None => Bound::made(Value::Null),
            },
            // Without arguments, in a place where a value is wanted.
            Source::Function(_) => {
                let command = Command { operands: vec![operand.clone()], span: operand.span };
                return self.command(&command, dot, None);
            }
            Source::Group(pipeline) => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                self.variables.truncate(scope);
                value
            }
        };
        let mut parent = "";
        for (name, span) in &operand.fields {
            found = self.field(found, parent, name, *span)?;
            parent = name;
        }
        Ok(found)
    }

    fn field(&self, of: Bound<'d>, parent: &str, name: &str, span: Span) -> Result<Bound<'d>, Fault> {
        let found = match &of.value {
            Cow::Borrowed(Value::Object(map)) => map.get(name).map(Cow::Borrowed),
            Cow::Owned(Value::Object(map)) => map.get(name).cloned().map(Cow::Owned),
            nothing if nothing.is_null() => {
                let fault =
                    Fault::new(span, format!("there is nothing here that could have a field `{name}`"));
                return Err(fault.hint("ask with `{{if}}` or `{{with}}` first"));
            }
            // What stands for a header stands for its fields too.
            _ if self.data.is_header => return Ok(of),
            other => {
                let message = format!("{} has no field `{name}`", value::kind(other));
                return Err(Fault::new(span, message));
            }
        };
        match found {
            Some(value) => Ok(Bound { value, is_root: false }),
            None if MAPS.contains(&parent) || OPTIONAL.contains(&name) => Ok(Bound::made(Value::Null)),
            None => Err(unknown_field(&of.value, name, span)),
        }
    }
}

fn unknown_field(of: &Value, name: &str, span: Span) -> Fault {
    let fault = Fault::new(span, format!("there is no field `{name}`"));
    let names = || of.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    match nearest(name, names()) {
        Some(near) => fault.hint(format!("did you mean `.{near}`?")),
        None => {
            let all: Vec<String> = names().take(60).map(|name| format!("`.{name}`")).collect();
            fault.hint(format!("there are {}", all.join(", ")))
        }
    }
}

//! Flags of the process: what runs, as whom, with what around it.

use std::path::PathBuf;

use stave::engine::container::Config;
use stave::engine::container::config::Attach;

use crate::failure::Failure;

/// No file of variables or labels is longer.
const LIMIT: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Keep standard input open, and pass ours on where we are attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Attach to these only: `stdin`, `stdout`, `stderr`
    #[arg(short, long, value_name = "STREAM", ignore_case = true, value_parser = ["stdin", "stdout", "stderr"])]
    attach: Vec<String>,
    /// Set a variable; without a value, to that of the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// The working directory, made if it is missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user: `NAME|UID[:GROUP|GID]`
    #[arg(short, long)]
    user: Option<String>,
    /// Another program than the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Have a small first process in front of it, which passes signals on and reaps
    #[arg(long)]
    init: bool,
}

impl Flags {
    pub fn fill(&self, config: &mut Config, attached: bool) -> Result<(), Failure> {
        let process = &mut config.process;
        process.tty = self.tty;
        process.init = self.init;
        process.stdin_open = self.interactive;
        process.attach = self.attached();
        // As in Docker: who creates it without staying may attach to it more than once.
        process.stdin_once = self.interactive && attached;
        process.cwd = self.workdir.clone().unwrap_or_default();
        if !process.cwd.is_empty() && !process.cwd.starts_with('/') {
            return Err(Failure::usage(format!("-w `{}`: it is not an absolute path", process.cwd)));
        }
        process.user = self.user.clone().unwrap_or_default();
        if self.tty
            && let Ok(term) = std::env::var("TERM")
        {
            process.env.push(("TERM".to_owned(), term));
        }
        for file in &self.env_file {
            for line in lines("--env-file", file)? {
                process.env.extend(variable("--env-file", &line)?);
            }
        }
        for text in &self.env {
            process.env.extend(variable("-e", text)?);
        }
        Ok(())
    }

    /// What takes the place of the image's entrypoint.
    pub fn entrypoint(&self) -> Option<Vec<String>> {
        let program = self.entrypoint.clone()?;
        Some(if program.is_empty() { vec![] } else { vec![program] })
    }

    /// What is attached: all of it where nothing was chosen.
    pub fn attached(&self) -> Attach {
        let chosen = |stream: &str| self.attach.iter().any(|one| one.eq_ignore_ascii_case(stream));
        match self.attach.is_empty() {
            true => Attach { stdin: self.interactive, stdout: true, stderr: true },
            false => Attach { stdin: chosen("stdin"), stdout: chosen("stdout"), stderr: chosen("stderr") },
        }
    }
}

/// `NAME=VALUE`, or `NAME` for what the environment has, which may be nothing.
pub fn variable(flag: &str, text: &str) -> Result<Option<(String, String)>, Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Some((name.to_owned(), value.to_owned()))),
        Some(_) => Err(Failure::usage(format!("{flag} `{text}`: the name is missing"))),
        None if flag != "-e" && text.contains(char::is_whitespace) => {
            Err(Failure::usage(format!("{flag} `{text}`: the name has a blank in it")))
        }
        None => Ok(std::env::var(text).ok().map(|value| (text.to_owned(), value))),
    }
}

/// The lines of a file of variables or labels, without blanks in front, empty ones and comments.
pub fn lines(flag: &str, file: &std::path::Path) -> Result<Vec<String>, Failure> {
    let failed = |what: String| Failure::new(format!("{flag} `{}`: {what}", file.display()));
    let open = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    let mut text = Vec::new();
    let mut limited = std::io::Read::take(open, LIMIT + 1);
    std::io::Read::read_to_end(&mut limited, &mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > LIMIT {
        return Err(failed(format!("it is longer than {} MiB", LIMIT >> 20)));
    }
    let text = String::from_utf8(text).map_err(|_| failed("it is no UTF-8 text".to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

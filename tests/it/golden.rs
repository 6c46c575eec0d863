//! Golden cases of the language: folders below testdata/ with an input and what shall come of it.
//!
//! `testdata/dockerfile/<keyword>/<case>/Dockerfile` is parsed and lowered. Beside it stand any of
//! `ast.txt` (the instructions), `llb.txt` (the graph, one line a vertex, then the history) and
//! `config.json` (the image's config); `args` holds flags, one a line, as `build` takes them.
//! `testdata/dockerfile/errors/<case>/errors.txt` holds the rendered errors, carets and all.
//! `testdata/format/<case>/formatted.txt` is what `fmt` makes of a Dockerfile; and whatever can be read
//! of all folders is formatted too, which must keep its meaning and be done once.
//! `testdata/lines/<case>/lines.txt` and `testdata/ignore/<case>/patterns.txt` do the same for
//! logical lines and for `.dockerignore` files.
//!
//! A case without any expectation gets all of its own written on the first run, which fails.
//! `UPDATE=1` rewrites those that are there. Every image is a small one with a PATH and a CMD,
//! except those of `images.json`, which maps names to configs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use stave::diagnostic::{Diagnostic, SourceText};
use stave::digest::{Digest, ImageId, VertexId};
use stave::image::ImageConfig;
use stave::llb::{CopySource, ExecLimits, FileAction, Id, MountKind, Op, Owner, SecurityMode, SourceOp};
use stave::parser::ast::CommandLine;
use stave::parser::format::format;
use stave::parser::instruction::Kind;
use stave::parser::remote::{self, Remote};
use stave::parser::{
    BuildOptions, Dockerfile, Lowered, Lowering, NamedContext, NoCache, ResolvedImage, ignore, lines, lower,
    parse,
};
use stave::platform::Platform;
use stave::reference::Reference;

mod coverage;

#[test]
fn dockerfiles() {
    let root = testdata("dockerfile");
    let mut wrong = Vec::new();
    for keyword in folders(&root) {
        for case in folders(&keyword) {
            let errors = keyword.file_name().is_some_and(|name| name == "errors");
            check_dockerfile(&case, errors, &mut wrong);
        }
    }
    report(&wrong);
}

#[test]
fn logical_lines() {
    let mut wrong = Vec::new();
    for case in folders(&testdata("lines")) {
        let text = read(&case.join("Dockerfile"));
        let got = match lines::read(&SourceText::new("Dockerfile", text)) {
            Err(errors) => rendered(&errors),
            Ok(lines) => {
                let mut out = format!("escape {}\n", lines.escape);
                for line in &lines.lines {
                    writeln!(out, "{:?}", line.text).unwrap();
                    for doc in &line.heredocs {
                        writeln!(out, "  <<{} expand={} {:?}", doc.name, doc.expand, doc.text()).unwrap();
                    }
                }
                out + &rendered(&lines.warnings)
            }
        };
        expect(&case, &[("lines.txt", got)], &mut wrong);
    }
    report(&wrong);
}

#[test]
fn formatted() {
    let mut wrong = Vec::new();
    for case in folders(&testdata("format")) {
        let source = SourceText::new("Dockerfile", read(&case.join("Dockerfile")));
        let got = format(&source).unwrap_or_else(|errors| rendered(&errors));
        expect(&case, &[("formatted.txt", got)], &mut wrong);
    }
    report(&wrong);
}

#[test]
fn every_case_can_be_formatted_and_put_together_again() {
    let mut cases = Vec::new();
    for folder in ["format", "lines"] {
        cases.extend(folders(&testdata(folder)));
    }
    for keyword in folders(&testdata("dockerfile")) {
        cases.extend(folders(&keyword));
    }
    let mut formatted = 0;
    for case in cases {
        let text = read(&case.join("Dockerfile"));
        let source = SourceText::new("Dockerfile", text.as_str());
        let Ok(file) = parse(&source) else { continue };
        let pieces = file.layout.pieces().iter();
        let again: String = pieces.map(|piece| &text[piece.span.start..piece.span.end]).collect();
        assert_eq!(again, text, "{}", case.display());
        // That the result says the same is checked in there.
        let once =
            format(&source).unwrap_or_else(|errors| panic!("{}: {}", case.display(), rendered(&errors)));
        let twice = format(&SourceText::new("Dockerfile", once.as_str())).unwrap();
        assert_eq!(twice, once, "{}", case.display());
        formatted += 1;
    }
    assert!(formatted > 40, "only {formatted} cases can be formatted");
}

#[test]
fn ignore_files() {
    let mut wrong = Vec::new();
    for case in folders(&testdata("ignore")) {
        let rules = case.join("rules");
        if !rules.exists() {
            continue;
        }
        let got = match ignore::ignore(&SourceText::new(".dockerignore", read(&rules))) {
            Ok(patterns) => patterns.iter().fold(String::new(), |mut out, pattern| {
                writeln!(out, "{}: {}", pattern.line, pattern.pattern).unwrap();
                out
            }),
            Err(error) => rendered(&[error]),
        };
        expect(&case, &[("patterns.txt", got)], &mut wrong);
    }
    report(&wrong);
}

fn check_dockerfile(case: &Path, errors: bool, wrong: &mut Vec<String>) {
    let source = SourceText::new("Dockerfile", read(&case.join("Dockerfile")));
    let options = options(&case.join("args"));
    let images = case.join("images.json");
    let images: BTreeMap<String, ImageConfig> = match images.exists() {
        true => serde_json::from_str(&read(&images)).expect("images.json maps names to configs"),
        false => BTreeMap::new(),
    };
    let parsed = parse(&source);
    let ast = parsed.as_ref().map(dump_ast);
    let lowered = parsed.as_ref().map_err(Clone::clone).and_then(|file| lower_all(file, &options, &images));
    match (lowered, errors) {
        (Err(found), true) => expect(case, &[("errors.txt", rendered(&found))], wrong),
        (Ok(_), true) => wrong.push(format!("{}: no error was found", case.display())),
        (Err(found), false) => wrong.push(format!("{}:\n{}", case.display(), rendered(&found))),
        (Ok(lowered), false) => {
            let config = serde_json::to_string_pretty(&lowered.config).unwrap() + "\n";
            let ast = ast.expect("what was lowered was parsed");
            expect(
                case,
                &[("ast.txt", ast), ("llb.txt", dump_llb(&lowered)), ("config.json", config)],
                wrong,
            );
        }
    }
}

fn lower_all(
    file: &Dockerfile,
    options: &BuildOptions,
    configs: &BTreeMap<String, ImageConfig>,
) -> Result<Box<Lowered>, Vec<Diagnostic>> {
    let mut images = BTreeMap::new();
    for _ in 0..10 {
        match lower(file, options, &images)? {
            Lowering::Done(lowered) => return Ok(lowered),
            Lowering::Needs(needs) => {
                for need in needs {
                    let config = configs.get(&need.reference.familiar()).cloned().unwrap_or_else(|| {
                        let mut config = ImageConfig::scratch(&need.platform);
                        config.config.env = vec!["PATH=/bin".to_owned()];
                        config.config.cmd = Some(vec!["sh".to_owned()]);
                        config
                    });
                    let reference = need.reference.clone();
                    // Named by the reference, so that images of equal configs stay apart.
                    let id = ImageId(Digest::of(reference.to_string().as_bytes()));
                    let image = ResolvedImage { id, config, reference };
                    images.insert((need.reference, need.platform), image);
                }
            }
        }
    }
    panic!("lowering asks for images again and again")
}

/// What is wrong with a text that can be parsed.
fn lower_error(text: &str) -> String {
    let file = parse(&SourceText::new("Dockerfile", text)).expect("it can be parsed");
    let options = BuildOptions::new(Platform::parse("linux/amd64").unwrap());
    rendered(&lower_all(&file, &options, &BTreeMap::new()).expect_err("it can not be lowered"))
}

fn options(args: &Path) -> BuildOptions {
    let mut options = BuildOptions::new(Platform::parse("linux/amd64").unwrap());
    let text = if args.exists() { read(args) } else { String::new() };
    for line in text.lines() {
        let (flag, value) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || value.split_once('=').unwrap_or((value, ""));
        match flag {
            "--build-arg" => {
                options.build_args.insert(pair().0.to_owned(), Some(pair().1.to_owned()));
            }
            "--target" => options.target = Some(value.to_owned()),
            "--label" => options.labels.push((pair().0.to_owned(), pair().1.to_owned())),
            "--platform" => options.platform = Some(Platform::parse(value).unwrap()),
            "--no-cache" => options.no_cache = NoCache::All,
            "--no-cache-filter" => options.no_cache = NoCache::Stages(vec![value.to_owned()]),
            "--allow" => options.entitlements.allow(value).unwrap(),
            "--ulimit" => options.limits.ulimits.push(stave::parser::limits::ulimit(value).unwrap()),
            "--exclude" => options.excludes.push(value.to_owned()),
            "--build-context" => {
                let name = pair().0.to_owned();
                let context = match pair().1.split_once("://") {
                    Some(("docker-image", image)) => NamedContext::Image(Reference::parse(image).unwrap()),
                    Some(("target", stage)) => NamedContext::Stage(stage.to_owned()),
                    Some(_) => match remote::detect(pair().1).unwrap().unwrap() {
                        Remote::Git(git) => NamedContext::Remote { name, source: SourceOp::Git(git.source) },
                        Remote::Http(url) => {
                            NamedContext::Remote { name, source: SourceOp::Http(remote::http(url, None)) }
                        }
                    },
                    None => NamedContext::Local { name: pair().0.to_owned(), excludes: Vec::new() },
                };
                options.named_contexts.insert(pair().0.to_owned(), context);
            }
            other => panic!("{}: unknown flag {other}", args.display()),
        }
    }
    options
}

/// One line an instruction: its lines in the file, its name, what was read from it.
fn dump_ast(file: &Dockerfile) -> String {
    let mut out = String::new();
    for (arg, span) in &file.globals {
        writeln!(out, "{}: ARG {}", file.source.line(span.start), dump_arg(arg)).unwrap();
    }
    for stage in &file.stages {
        write!(out, "{}: FROM {:?}", file.source.line(stage.span.start), stage.base.image.text).unwrap();
        for (flag, word) in [("platform", &stage.base.platform), ("as", &stage.base.name)] {
            if let Some(word) = word {
                write!(out, " {flag}={:?}", word.text).unwrap();
            }
        }
        out.push('\n');
        for step in &stage.instructions {
            let (first, last) = (file.source.line(step.span.start), file.source.line(step.span.end));
            let lines = if first == last { first.to_string() } else { format!("{first}-{last}") };
            writeln!(out, "{lines}: {} {}", step.keyword(), dump_kind(&step.kind)).unwrap();
            for doc in &step.heredocs {
                writeln!(out, "  <<{} {:?}", doc.name, doc.body).unwrap();
            }
        }
    }
    out
}

fn dump_arg(arg: &stave::parser::instruction::arg::Arg) -> String {
    let one = |(name, default): &(stave::parser::ast::Word, Option<stave::parser::ast::Word>)| match default {
        Some(default) => format!("{}={:?}", name.text, default.text),
        None => name.text.clone(),
    };
    arg.declarations.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn dump_kind(kind: &Kind) -> String {
    let command = |command: &CommandLine| match command {
        CommandLine::Shell(line) => format!("shell {:?}", line.text),
        CommandLine::Exec(args) => format!("exec {args:?}"),
    };
    let words = |words: &[stave::parser::ast::Word]| {
        words.iter().map(|word| format!("{:?}", word.text)).collect::<Vec<_>>().join(" ")
    };
    let pairs = |pairs: &[(stave::parser::ast::Word, stave::parser::ast::Word)]| {
        let pair = |(name, value): &(stave::parser::ast::Word, stave::parser::ast::Word)| {
            format!("{:?}={:?}", name.text, value.text)
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
    };
    let transfer = |transfer: &stave::parser::instruction::copy::Transfer| {
        let mut out = String::new();
        for (flag, word) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
            if let Some(word) = word {
                write!(out, "{flag}={:?} ", word.text).unwrap();
            }
        }
        if transfer.link {
            out.push_str("link ");
        }
        if !transfer.excludes.is_empty() {
            write!(out, "exclude={} ", words(&transfer.excludes)).unwrap();
        }
        out.push_str(&words(&transfer.sources));
        for inline in &transfer.inline {
            write!(out, " <<{} expand={}", inline.name, inline.expand).unwrap();
        }
        write!(out, " -> {:?}", transfer.destination.text).unwrap();
        out
    };
    match kind {
        Kind::Add(add) => {
            let checksum = add.checksum.as_ref().map(|word| format!("checksum={} ", word.text));
            let keep = add.keep_git_dir.map(|keep| format!("keep-git-dir={keep} "));
            let flags = checksum.unwrap_or_default() + &keep.unwrap_or_default();
            format!("unpack={} {flags}{}", add.unpack.unwrap_or(true), transfer(&add.transfer))
        }
        Kind::Arg(arg) => dump_arg(arg),
        Kind::Cmd(cmd) => command(&cmd.command),
        Kind::Copy(copy) => {
            let from = copy.from.as_ref().map(|from| format!("from={:?} ", from.text)).unwrap_or_default();
            let parents = if copy.parents { "parents " } else { "" };
            format!("{from}{parents}{}", transfer(&copy.transfer))
        }
        Kind::Entrypoint(entrypoint) => command(&entrypoint.command),
        Kind::Env(env) => pairs(&env.pairs),
        Kind::Expose(expose) => words(&expose.ports),
        Kind::Healthcheck(check) => serde_json::to_string(&check.check).unwrap(),
        Kind::Label(label) => pairs(&label.pairs),
        Kind::Maintainer(maintainer) => format!("{:?}", maintainer.name.text),
        Kind::Onbuild(onbuild) => format!("{:?}", onbuild.trigger),
        Kind::Run(run) => {
            let mut out = String::new();
            for mount in &run.mounts {
                out.push_str("mount(");
                for option in &mount.options {
                    let value = option.value.as_ref();
                    let value = value.map(|value| format!("={:?}", value.text)).unwrap_or_default();
                    write!(out, " {:?}{value}", option.key).unwrap();
                }
                out.push_str(" ) ");
            }
            if let Some(network) = &run.network {
                write!(out, "network={network:?} ").unwrap();
            }
            if run.security != SecurityMode::Sandbox {
                write!(out, "security={:?} ", run.security).unwrap();
            }
            for (device, _) in &run.devices {
                write!(out, "device={:?} required={} ", device.name, device.required).unwrap();
            }
            out + &command(&run.command)
        }
        Kind::Shell(shell) => format!("{:?}", shell.shell),
        Kind::Stopsignal(signal) => format!("{:?}", signal.signal.text),
        Kind::User(user) => format!("{:?}", user.user.text),
        Kind::Volume(volume) => words(&volume.paths),
        Kind::Workdir(workdir) => format!("{:?}", workdir.path.text),
    }
}

/// One line a vertex, numbered in the graph's order; then the history.
fn dump_llb(lowered: &Lowered) -> String {
    let vertices = lowered.definition.vertices();
    let number =
        |id: &VertexId| vertices.iter().position(|vertex| vertex.id() == *id).expect("it is in the graph");
    let mut out = String::new();
    for (index, vertex) in vertices.iter().enumerate() {
        let inputs: Vec<String> = vertex.inputs().iter().map(|input| number(input).to_string()).collect();
        let cache = if vertex.metadata().ignore_cache { " no-cache" } else { "" };
        let name = &vertex.metadata().name;
        writeln!(out, "{index} ({}){cache} {}  # {name}", inputs.join(" "), dump_op(vertex.op())).unwrap();
    }
    writeln!(out, "target {}", number(&lowered.target)).unwrap();
    for step in &lowered.history {
        let vertex = step.vertex.map_or("-".to_owned(), |vertex| number(&vertex).to_string());
        let base = if step.base.is_some() { " (base)" } else { "" };
        writeln!(out, "history {vertex}{base} {:?}", step.created_by).unwrap();
    }
    if !lowered.unused_build_args.is_empty() {
        let unused = lowered.unused_build_args.iter().map(|unused| match &unused.near {
            Some(near) => format!("{} (near {near})", unused.name),
            None => unused.name.clone(),
        });
        writeln!(out, "unused {}", unused.collect::<Vec<_>>().join(" ")).unwrap();
    }
    out + &rendered(&lowered.warnings)
}

fn dump_op(op: &Op) -> String {
    let owner = |owner: &Option<Owner>| match owner {
        None => String::new(),
        Some(owner) => {
            let id = |id: &Id| match id {
                Id::Number(number) => number.to_string(),
                Id::Name(name) => name.clone(),
            };
            let group = owner.group.as_ref().map(|group| format!(":{}", id(group))).unwrap_or_default();
            format!(" owner={}{group}", id(&owner.user))
        }
    };
    match op {
        Op::Source(SourceOp::Scratch) => "scratch".to_owned(),
        Op::Source(SourceOp::Image { reference, platform, .. }) => format!("image {reference} {platform}"),
        Op::Source(SourceOp::Local { name, excludes }) => format!("local {name} {excludes:?}"),
        Op::Source(SourceOp::Http(http)) => {
            let checksum = http.checksum.as_ref().map(|sum| format!(" {sum}")).unwrap_or_default();
            format!("http {} as {}{checksum}", http.url, http.name)
        }
        Op::Source(SourceOp::Git(git)) => {
            let flags = [
                ("keep-git-dir", git.keep_git_dir),
                ("no-submodules", !git.submodules),
                ("by-commit", git.by_commit),
                ("commit-times", git.commit_times),
            ];
            let flags: String =
                flags.iter().filter(|flag| flag.1).map(|flag| format!(" {}", flag.0)).collect();
            let checksum = git.checksum.as_ref().map(|sum| format!(" commit={sum}")).unwrap_or_default();
            format!("git {git}{checksum}{flags}")
        }
        Op::Merge(_) => "merge".to_owned(),
        Op::File(file) => {
            let action = |action: &FileAction| match action {
                FileAction::Mkdir(mkdir) => {
                    format!("mkdir {:o} {}{}", mkdir.mode, mkdir.path, owner(&mkdir.owner))
                }
                FileAction::Copy(copy) => {
                    let from = match &copy.from {
                        CopySource::Tree { input, path, optional } => {
                            format!("{input}:{path}{}", if *optional { " optional" } else { "" })
                        }
                        CopySource::Inline { name, data } => format!("<<{name} {data:?}"),
                    };
                    let mode = copy.mode.as_ref().map(|mode| format!(" mode={mode}")).unwrap_or_default();
                    let flags = [("parents", copy.parents), ("unpack", copy.unpack)];
                    let flags: String =
                        flags.iter().filter(|flag| flag.1).map(|flag| format!(" {}", flag.0)).collect();
                    let excludes = match copy.excludes.is_empty() {
                        true => String::new(),
                        false => format!(" exclude={:?}", copy.excludes),
                    };
                    format!(
                        "copy {from} -> {}{}{mode}{flags}{excludes}",
                        copy.destination,
                        owner(&copy.owner)
                    )
                }
            };
            file.actions.iter().map(action).collect::<Vec<_>>().join("; ")
        }
        Op::Exec(exec) => {
            let mut out = format!("exec {:?} cwd={}", exec.args, exec.cwd);
            if !exec.user.is_empty() {
                write!(out, " user={}", exec.user).unwrap();
            }
            for (what, env) in [("env", &exec.env), ("proxy", &exec.proxy_env)] {
                let shown = env.iter().filter(|entry| entry.0 != "PATH");
                let shown: Vec<String> = shown.map(|(name, value)| format!("{name}={value}")).collect();
                if !shown.is_empty() {
                    write!(out, " {what}={shown:?}").unwrap();
                }
            }
            for secret in &exec.secret_env {
                write!(out, " secret {}={} required={}", secret.name, secret.id, secret.required).unwrap();
            }
            for mount in &exec.mounts {
                let kind = match &mount.kind {
                    MountKind::Bind { input, source, writable } => {
                        format!("bind {input}:{source}{}", if *writable { " rw" } else { "" })
                    }
                    MountKind::Cache { id, sharing, read_only, input, source, attributes, namespace } => {
                        let attributes = attributes.map_or_else(String::new, |made| {
                            format!(" {:o} {}:{}", made.mode, made.uid, made.gid)
                        });
                        let space = if namespace.is_empty() { "" } else { " in " };
                        format!(
                            "cache {id}{space}{namespace} {sharing:?} ro={read_only} from={input:?}:{source}{attributes}"
                        )
                    }
                    MountKind::Tmpfs { size, read_only } => {
                        format!("tmpfs {size:?}{}", if *read_only { " ro" } else { "" })
                    }
                    MountKind::Secret { id, required, mode, uid, gid } => {
                        format!("secret {id} required={required} {mode:o} {uid}:{gid}")
                    }
                    MountKind::Ssh { id, required, mode, uid, gid } => {
                        format!("ssh {id} required={required} {mode:o} {uid}:{gid}")
                    }
                };
                write!(out, " [{} {kind}]", mount.target).unwrap();
            }
            write!(out, " net={:?}", exec.network).unwrap();
            if exec.security != SecurityMode::Sandbox {
                write!(out, " security={:?}", exec.security).unwrap();
            }
            for device in &exec.devices {
                write!(out, " device={} required={}", device.name, device.required).unwrap();
            }
            if exec.limits != ExecLimits::default() {
                write!(out, " {:?}", exec.limits).unwrap();
            }
            out
        }
    }
}

fn rendered(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| diagnostic.render(false) + "\n").collect()
}

/// Compares what was got with the files of `case`. Those that are not there are not wanted, unless
/// none is.
fn expect(case: &Path, got: &[(&str, String)], wrong: &mut Vec<String>) {
    let update = std::env::var_os("UPDATE").is_some();
    let none = got.iter().all(|(name, _)| !case.join(name).exists());
    for (name, got) in got {
        let file = case.join(name);
        if none {
            fs::write(&file, got).unwrap();
            wrong.push(format!("{}: was missing and has been written", file.display()));
        } else if file.exists() {
            let wanted = read(&file);
            if wanted != *got && update {
                fs::write(&file, got).unwrap();
            } else if wanted != *got {
                wrong.push(format!("{}:\n--- wanted\n{wanted}--- got\n{got}", file.display()));
            }
        }
    }
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}\n(UPDATE=1 rewrites expectations)", wrong.join("\n"));
}

pub fn testdata(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder)
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} has no cases", root.display());
    folders
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

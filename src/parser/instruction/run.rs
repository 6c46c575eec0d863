//! RUN: runs a command; what it changes is a layer.

use crate::diagnostic::{Diagnostic, Span};
use crate::llb::{
    CopyAction, CopySource, DeviceRequest, ExecOp, FileAction, FileOp, Metadata, Mount, MountKind, Network,
    Op, SecurityMode, SourceOp,
};
use crate::parser::ast::{CommandLine, Instruction, Word};
use crate::parser::entitlement::Asked;
use crate::parser::flags::Takes;
use crate::parser::instruction::Request;
use crate::parser::lines;
use crate::parser::mount::{MountFlag, Mounts};
use crate::parser::stage::StageBuild;
use crate::parser::syntax;
use crate::spelling;

/// `RUN [FLAGS] LINE` or `RUN [FLAGS] ["PROGRAM", …]`.
#[derive(Debug, Clone)]
pub struct Run {
    pub command: CommandLine,
    pub mounts: Vec<MountFlag>,
    /// What `--network` says; none leaves it to the build.
    pub network: Option<Network>,
    pub security: SecurityMode,
    pub devices: Vec<(DeviceRequest, Span)>,
    /// Where network and security mode stand, if they do.
    places: [Option<Span>; 2],
}

/// Where the scripts of here-documents with an interpreter of their own are mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Run {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(&[
            ("mount", Takes::Values),
            ("network", Takes::Value),
            ("security", Takes::Value),
            ("device", Takes::Values),
        ])?;
        let devices = flags.values("device");
        let devices = devices
            .iter()
            .map(|word| Ok((device(request, word)?, word.span)))
            .collect::<Result<_, Diagnostic>>()?;
        let mut places = [None; 2];
        let mut security = SecurityMode::Sandbox;
        if let Some(word) = flags.value("security") {
            places[1] = Some(word.span);
            security = match word.text.as_str() {
                "sandbox" => SecurityMode::Sandbox,
                "insecure" => SecurityMode::Insecure,
                other => {
                    return Err(Diagnostic::error(format!("unknown security mode `{other}`"))
                        .at(request.source, word.span)
                        .hint("`--security` takes `sandbox` or `insecure`"));
                }
            };
        }
        let network = match flags.value("network") {
            None => None,
            Some(word) => match word.text.as_str() {
                "default" => None,
                "none" => Some(Network::None),
                "host" => Some(Network::Host),
                other => {
                    return Err(Diagnostic::error(format!("unknown network `{other}`"))
                        .at(request.source, word.span)
                        .hint("`--network` takes `default`, `none` or `host`"));
                }
            },
        };
        places[0] = flags.value("network").map(|word| word.span);
        let mounts = flags.values("mount");
        let mounts = mounts.iter().map(|word| MountFlag::parse(request, word)).collect::<Result<_, _>>()?;
        let command = request.command_line()?;
        if matches!(&command, CommandLine::Exec(args) if args.is_empty()) {
            return Err(request.error("RUN requires a command"));
        }
        Ok(Self { command, mounts, network, security, devices, places })
    }

    /// What the mounts take their files from.
    pub(super) fn froms(&self) -> Vec<&Word> {
        self.mounts.iter().filter_map(MountFlag::from).collect()
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let options = stage.build.options;
        let place = |place: Option<Span>| place.unwrap_or(at.span);
        let asked = Asked {
            source: &at.source,
            network: (self.network.unwrap_or_default(), place(self.places[0])),
            security: (self.security, place(self.places[1])),
            devices: self.devices.iter().map(|(device, span)| (device, *span)).collect(),
        };
        let devices = asked.check(&options.entitlements)?;
        let mut mounts = Mounts::of(stage.state.tree);
        let (args, summary) = match &self.command {
            CommandLine::Exec(args) => (args.clone(), None),
            CommandLine::Shell(line) => self.shell_line(at, stage, line, &mut mounts)?,
        };
        for mount in &self.mounts {
            mount.lower(at, stage, &mut mounts)?;
        }
        let name = stage.run_name(at, summary.as_deref(), &mounts.secret_env);
        let history = stage.run_history(at, &args)?;
        let mut env = stage.exec_env(at)?;
        env.extend(mounts.agent_variable(&env));
        let op = ExecOp {
            args,
            env,
            proxy_env: stage.proxy_env(),
            secret_env: mounts.secret_env,
            cwd: stage.workdir().to_owned(),
            hostname: stage
                .given("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            user: stage.state.config.config.user.clone(),
            extra_hosts: stage.extra_hosts(),
            network: self.network.unwrap_or_else(|| stage.network()),
            mounts: mounts.mounts,
            security: self.security,
            devices,
            limits: options.limits.clone(),
        };
        let vertex = stage.add(at, Op::Exec(Box::new(op)), mounts.inputs, name)?;
        stage.state.tree = vertex;
        stage.commit(at, history, Some(vertex))
    }

    /// The arguments of the plain form, and the first line of a here-document that is the whole
    /// command.
    ///
    /// A here-document that is the whole command is the shell's text, unless it names its own
    /// interpreter: then it is a file that is mounted, and the shell runs that. Any other goes to the shell with
    /// the line that opens it, for the shell knows here-documents too.
    fn shell_line(
        &self,
        at: &Instruction,
        stage: &mut StageBuild,
        line: &Word,
        mounts: &mut Mounts,
    ) -> Result<(Vec<String>, Option<String>), Diagnostic> {
        let heredocs = &at.heredocs;
        let Some(first) = heredocs.first() else {
            return Ok((stage.arguments(&self.command), None));
        };
        if lines::opening(&line.text).is_none() {
            let mut text = line.text.clone();
            for heredoc in heredocs {
                text.push('\n');
                text.push_str(&heredoc.body);
                text.push_str(&heredoc.name);
            }
            return Ok((stage.shell(text), None));
        }
        let text = first.text();
        let summary = summary(&first.body);
        if !text.starts_with("#!") || stage.state.config.os == "windows" {
            return Ok((stage.shell(text), Some(summary)));
        }
        if first.name.contains('/') {
            return Err(Diagnostic::error(format!("the end mark `{}` can not name a script", first.name))
                .at(&at.source, line.span));
        }
        stage.charge(at, text.len())?;
        let scratch = stage.add_source(at, SourceOp::Scratch, Metadata::default())?;
        let script = FileAction::Copy(CopyAction {
            from: CopySource::Inline { name: first.name.clone(), data: text },
            destination: "/".to_owned(),
            owner: None,
            mode: Some("0755".to_owned()),
            excludes: Vec::new(),
            parents: false,
            unpack: false,
        });
        let op = Op::File(FileOp { actions: vec![script] });
        let name = "[internal] preparing inline document".to_owned();
        let script = stage.add(at, op, vec![scratch], name)?;
        let kind = MountKind::Bind { input: mounts.input(script), source: "/".to_owned(), writable: false };
        mounts.mounts.push(Mount { target: SCRIPTS.trim_end_matches('/').to_owned(), kind });
        Ok((stage.shell(format!("{SCRIPTS}{}", first.name)), Some(summary)))
    }
}

/// The first line of a text, with `...` if there are more.
fn summary(text: &str) -> String {
    let mut lines = text.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() { first + "..." } else { first }
}

/// `--device=vendor.com/class=name[,required]`, or the name as `name=…`.
fn device(request: &Request, word: &Word) -> Result<DeviceRequest, Diagnostic> {
    let fail = |message: String| {
        Diagnostic::error(message)
            .at(request.source, word.span)
            .hint("a device is asked for by `--device=VENDOR/CLASS=NAME[,required]`")
    };
    let Some(fields) = syntax::fields(&word.text) else {
        return Err(fail(format!("`{}` is not a list of options", word.text)));
    };
    let (mut name, mut required) = (None, false);
    for (field, _) in fields {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("required", None) => required = true,
            ("required", Some(value)) => {
                let wrong = || fail(format!("invalid value `{value}` for `required`"));
                required = spelling::boolean(value).ok_or_else(wrong)?;
            }
            ("name", Some(value)) if name.is_none() => name = Some(value.to_owned()),
            (_, _) if name.is_none() => name = Some(field),
            (_, _) => return Err(fail(format!("unexpected `{field}` after the device's name"))),
        }
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok(DeviceRequest { name, required }),
        None => Err(fail("the device has no name".to_owned())),
    }
}

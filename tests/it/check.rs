//! `stave check`, `build --check` and `build --call`, and what lint says in a build: through the program.
//!
//! `testdata/lint/<case>/` has a Dockerfile, perhaps a `.dockerignore` and `args` (a word a line), and in
//! `check.txt` what `stave check` shall say. Expectations are written on the first run, which fails;
//! `UPDATE=1` rewrites them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn stave(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stave"));
    command
        .current_dir(folder)
        .env_remove("BUILDKIT_PROGRESS")
        .env("STAVE_ROOT", folder.join("no-such-store"));
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// A folder with these files, and a store beside them.
struct Case {
    folder: TempDir,
    store: TempDir,
}

impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let case = Self { folder: TempDir::new().unwrap(), store: TempDir::new().unwrap() };
        for (name, text) in files {
            fs::write(case.folder.path().join(name), text).unwrap();
        }
        case
    }

    fn check(&self, args: &[&str]) -> Output {
        stave(self.folder.path()).arg("check").args(args).output().unwrap()
    }

    fn build(&self, args: &[&str]) -> Output {
        let mut command = stave(self.folder.path());
        command.env("STAVE_ROOT", self.store.path()).arg("build").args(args).arg(".");
        command.output().unwrap()
    }
}

#[test]
fn findings() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/lint");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut wrong = Vec::new();
    for case in cases {
        let args = fs::read_to_string(case.join("args")).unwrap_or_default();
        let output = stave(&case).env("STAVE_ROOT", "/nonexistent").arg("check").args(args.lines()).output();
        let output = output.unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        let nothing = said.ends_with("nothing found\n");
        assert_eq!(output.status.code(), Some(i32::from(!nothing)), "{}: {said}", case.display());
        let expected = case.join("check.txt");
        let known = fs::read_to_string(&expected).ok();
        if known.is_none() || (std::env::var_os("UPDATE").is_some() && known.as_deref() != Some(&said)) {
            fs::write(&expected, &said).unwrap();
        }
        if known.as_deref() != Some(&said) {
            wrong.push(format!("{}:\n{said}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_check_is_json_as_buildkits_and_sarif() {
    let case = Case::new(&[("Dockerfile", "FROM scratch as x\nCMD a \\\n  b\n")]);
    let output = case.check(&["--format=json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["warnings"][0]["ruleName"], "FromAsCasing");
    assert_eq!(json["warnings"][0]["url"], "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
    let ranges = &json["warnings"][1]["location"]["ranges"];
    let line = |line| serde_json::json!({ "start": { "line": line }, "end": { "line": line } });
    assert_eq!(*ranges, serde_json::json!([line(2), line(3)]));
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert!(json["buildError"].is_null());
    // The flag of the build says the same.
    let called = case.build(&["--call=check,format=json"]);
    assert_eq!((called.status.code(), &called.stdout), (Some(1), &output.stdout), "{}", text(&called.stderr));

    fs::write(case.folder.path().join("Dockerfile"), "FROM scratch AS Äé\nFROM scratch AS B\n").unwrap();
    let sarif: Value = serde_json::from_slice(&case.check(&["--format=sarif"]).stdout).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    for result in results {
        let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], result["ruleId"]);
    }
    let found: Vec<(&str, u64, u64)> = results
        .iter()
        .map(|result| {
            let region = &result["locations"][0]["physicalLocation"]["region"];
            let number = |name: &str| region[name].as_u64().unwrap();
            (result["ruleId"].as_str().unwrap(), number("startLine"), number("startColumn"))
        })
        .collect();
    assert!(found.contains(&("StageNameCasing", 2, 17)), "{found:?}");
    assert!(found.contains(&("DockerfileError", 1, 17)), "{found:?}");
    assert_eq!(results.last().unwrap()["level"], "error");
}

#[test]
fn what_can_be_checked() {
    let case = Case::new(&[("Dockerfile", "FROM scratch\n"), ("other", "FROM scratch as b\n")]);
    fs::create_dir(case.folder.path().join("sub")).unwrap();
    fs::write(case.folder.path().join("sub/Dockerfile"), "FROM scratch AS B\n").unwrap();
    assert_eq!(case.check(&[]).status.code(), Some(0));
    for args in [&["other"][..], &["-f", "other"], &["-f", "other", "sub"]] {
        let said = text(&case.check(args).stdout);
        assert!(said.contains("[FromAsCasing]") && said.contains(" --> other:1:14\n"), "{said}");
    }
    assert!(text(&case.check(&["sub"]).stdout).contains("[StageNameCasing]"));
    let mut command = stave(case.folder.path());
    let mut child =
        command.args(["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM scratch AS B\n").unwrap();
    assert!(text(&child.wait_with_output().unwrap().stdout).contains(" --> -:1:17\n"));
    assert_eq!(case.check(&["nowhere"]).status.code(), Some(1));
    // No store is made for a check, and a directory of another's is none of its business.
    assert!(!case.folder.path().join("no-such-store").exists());
}

/// A check runs nothing, so it grants all; and what an image that is not here may set is not missing.
#[test]
fn what_only_a_build_can_tell_is_no_error() {
    let text = "FROM example.org/base:1\nVOLUME $DATA_DIR\nSTOPSIGNAL $SIG\nWORKDIR ${HOME_OF_APP:?}\n\
        RUN --network=host --security=insecure --device=v.com/c=d make\n";
    let case = Case::new(&[("Dockerfile", text)]);
    let said = case.check(&["--skip=UndefinedVar,WorkdirRelativePath"]);
    assert_eq!(said.status.code(), Some(0), "{}", text_of(&said));
    let wrong =
        Case::new(&[("Dockerfile", "FROM example.org/base:1\nSTOPSIGNAL SIGNONE\nEXPOSE $P 99999\n")]);
    let said = wrong.check(&[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text_of(&said).contains("SIGNONE"), "{}", text_of(&said));
    let known = Case::new(&[("Dockerfile", "FROM scratch\nVOLUME $DATA_DIR\n")]);
    assert_eq!(known.check(&[]).status.code(), Some(1));
}

#[test]
fn rules_are_chosen_on_the_command_line() {
    let case = Case::new(&[("Dockerfile", "FROM scratch as B\n")]);
    let said = |args: &[&str]| text(&case.check(args).stdout);
    assert!(said(&["--skip", "FromAsCasing,StageNameCasing"]).ends_with("nothing found\n"));
    assert!(said(&["--skip=all"]).ends_with("nothing found\n"));
    let strict = said(&["--error", "StageNameCasing"]);
    assert!(
        strict.contains("error[StageNameCasing]") && strict.contains("warning[FromAsCasing]"),
        "{strict}"
    );
    let unknown = case.check(&["--skip=FromAsCasng"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).ends_with("hint: did you mean `FromAsCasing`?\n"));
    assert!(said(&["--explain", "AptListsKept"]).starts_with("# AptListsKept\n"));
    assert!(said(&["--explain"]).contains("\nUnpinnedBaseImage                 stave      "));
}

#[test]
fn a_build_tells_findings_at_its_end() {
    let text_of = "FROM scratch AS Unused\nCMD unused\nFROM scratch\nADD a /a\nLABEL a b\nCMD x\n";
    let case = Case::new(&[("Dockerfile", text_of), ("a", "")]);
    if !rustix::process::geteuid().is_root() {
        fs::write(case.folder.path().join("Dockerfile"), text_of.replace("ADD a /a", "LABEL c=d")).unwrap();
    }
    let output = case.build(&["--progress=plain"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found = said.split_once(" 3 warnings found").expect("there is a summary").1;
    let rules: Vec<&str> =
        found.lines().filter_map(|line| line.strip_prefix(" - ")?.split(':').next()).collect();
    // What the unused stage says of itself counts, what its instructions say does not; our own rules
    // are for checks.
    assert_eq!(rules, ["StageNameCasing", "LegacyKeyValueFormat", "JSONArgsRecommended"]);
    assert!(found.contains("(line 6)"), "{found}");

    let events = text(&case.build(&["--progress=rawjson"]).stderr);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = events.iter().find(|event| event["rule"] == "LegacyKeyValueFormat").unwrap();
    assert_eq!((&event["event"], &event["line"]), (&"warning".into(), &5.into()));
    assert_eq!(text(&case.build(&["-q"]).stderr), "");
}

#[test]
fn findings_fail_a_build_where_they_are_errors() {
    let case = Case::new(&[("Dockerfile", "# check=error=true\nFROM scratch\nLABEL a b\n")]);
    let output = case.build(&["--progress=plain"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(" - LegacyKeyValueFormat: ")
            && said.contains("found something: `LegacyKeyValueFormat`"),
        "{said}"
    );
    // The build argument replaces the directive, and neither reaches the image.
    let argument = "--build-arg=BUILDKIT_DOCKERFILE_CHECK=";
    assert!(case.build(&["-q", &format!("{argument}skip=all")]).status.success());
    assert!(case.build(&["-q", argument]).status.success());
    let wrong = case.build(&["-q", &format!("{argument}skip")]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("`skip` is no option of `check`"));
    // A file that does not parse still tells what was found in it.
    let case = Case::new(&[("Dockerfile", "FROM scratch AS B\nLABLE a=b\n")]);
    let output = case.build(&["--progress=plain"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(" 1 warning found") && said.contains("did you mean `LABEL`?"), "{said}");
}

#[test]
fn findings_that_are_errors_are_the_error_of_a_call() {
    let text_of = "#check=error=true\nFROM scratch as base\nLABEL a b\n";
    let case = Case::new(&[("Dockerfile", text_of)]);
    let json: Value = serde_json::from_slice(&case.build(&["--call=check,format=json"]).stdout).unwrap();
    let error = &json["buildError"];
    assert_eq!(error["message"], "lint violation found for rules: FromAsCasing, LegacyKeyValueFormat");
    assert_eq!(error["location"]["ranges"][0]["start"]["line"], 2);
    assert!(text(&case.check(&[]).stdout).ends_with("\nCheck failed: 2 errors\n"));
    let argument = "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=LegacyKeyValueFormat;error=true";
    let json: Value =
        serde_json::from_slice(&case.build(&["--call=lint,format=json", argument]).stdout).unwrap();
    assert_eq!(json["buildError"]["message"], "lint violation found for rules: FromAsCasing");
    let said = text(&case.check(&["--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=FromAsCasing"]).stdout);
    assert!(said.ends_with("\nCheck failed: 1 error and 1 warning\n"), "{said}");
}

#[test]
fn what_buildx_lets_a_call_say() {
    let case = Case::new(&[("Dockerfile", "FROM scratch as base\n")]);
    let code = |args: &[&str]| case.build(args).status.code();
    assert_eq!(code(&["--call=check,ignorestatus=true"]), Some(0));
    assert_eq!(code(&["--call=check,ignorestatus=false"]), Some(1));
    assert_eq!(code(&["--check=true"]), Some(1));
    assert_eq!(code(&["--check=false", "--call=targets"]), Some(0));
    let unknown = case.build(&["--call=check,format=yaml"]);
    assert!(text(&unknown.stderr).contains("json, or for check sarif"), "{}", text(&unknown.stderr));
    let said = text(&case.build(&["--call=subrequests.describe"]).stdout);
    assert!(said.starts_with("NAME                 VERSION DESCRIPTION\nlint "), "{said}");
    let json = case.build(&["--call=subrequests.describe,format=json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[3]["name"], "frontend.subrequests.describe");
}

#[test]
fn a_call_writes_its_answer_to_the_metadata_file() {
    let case = Case::new(&[("Dockerfile", "FROM scratch as base\n")]);
    let md = case.folder.path().join("md.json");
    let written = |call: &str| -> Value {
        case.build(&["--metadata-file=md.json", call]);
        serde_json::from_slice(&fs::read(&md).unwrap()).unwrap()
    };
    assert_eq!(written("--call=check")["result.json"]["warnings"][0]["ruleName"], "FromAsCasing");
    assert_eq!(written("--call=targets")["result.json"]["targets"][0]["name"], "base");
    let output = case.build(&["--metadata-file=no/md.json", "--call=targets"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write `no/md.json`"));
}

#[test]
fn an_image_that_is_here_for_another_platform_is_not_known() {
    let case = Case::new(&[("Dockerfile", "FROM scratch\nENV HERE=1\n")]);
    let built = case.build(&["-q", "--platform=linux/arm64", "-t", "base.example/x"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let file = "FROM base.example/x\nENV a=$HERE b=$NOT_HERE\n";
    fs::write(case.folder.path().join("Dockerfile"), file).unwrap();
    let said = |platform: &str| {
        let mut command = stave(case.folder.path());
        command.env("STAVE_ROOT", case.store.path()).args([
            "check",
            "--skip=UnpinnedBaseImage",
            "--platform",
        ]);
        text(&command.arg(platform).output().unwrap().stdout)
    };
    // A build for this platform asks a registry, which nobody knows the answer of.
    assert!(!said("linux/amd64").contains("InvalidBaseImagePlatform"), "{}", said("linux/amd64"));
    assert!(said("linux/amd64").ends_with("nothing found\n"), "{}", said("linux/amd64"));
    let known = said("linux/arm64");
    assert!(known.contains("`NOT_HERE` is not set") && !known.contains("`HERE` is not set"), "{known}");
}

#[test]
fn a_pipe_is_checked_as_a_file_is() {
    let case = Case::new(&[(".dockerignore", "a\n")]);
    let check = |args: &[&str]| {
        let mut command = stave(case.folder.path());
        command.arg("check").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let dockerfile = b"FROM scratch as base\nCOPY a /a\n";
        child.stdin.take().unwrap().write_all(dockerfile).unwrap();
        text(&child.wait_with_output().unwrap().stdout)
    };
    let said = check(&["/dev/stdin", "--experimental=all"]);
    assert!(said.contains("[FromAsCasing]") && said.contains(" --> /dev/stdin:1:14\n"), "{said}");
    assert!(said.contains("[CopyIgnoredFile]"), "{said}");
    assert!(check(&["-f", "/dev/stdin"]).contains("[FromAsCasing]"));
}

#[test]
fn misspelt_rules_of_a_file_are_told_beside_its_findings() {
    let case = Case::new(&[("Dockerfile", "# check=skip=FromAsCassing\nFROM scratch AS base\n")]);
    let output = case.check(&[]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(said.starts_with("warning: there is no rule `FromAsCassing`\n"), "{said}");
    assert!(said.contains("hint: did you mean `FromAsCasing`?"), "{said}");
    // Programs read what they know.
    let output = case.check(&["--format=json"]);
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
}

#[test]
fn calls_without_a_check() {
    let file = "# NAME whom to greet\nARG NAME=you\n# hello greets\nFROM scratch AS hello\nARG NAME\n\
                RUN --mount=type=secret,id=key,required x\nFROM hello\n";
    let case = Case::new(&[("Dockerfile", file)]);
    let call = |args: &[&str]| text(&case.build(args).stdout);
    let expected = "TARGET    DESCRIPTION\nhello     greets\n(default)\n";
    assert_eq!(call(&["--call=targets"]), expected);
    let outline = call(&["--call", "outline", "--target=hello", "--build-arg=NAME=all"]);
    assert_eq!(
        outline,
        "TARGET:      hello\nDESCRIPTION: greets\n\nBUILD ARG   VALUE   DESCRIPTION\nNAME        all     whom to greet\n\n\
         SECRET   REQUIRED\nkey      true\n\n"
    );
    let json: Value = serde_json::from_str(&call(&["--call=outline,format=json"])).unwrap();
    assert_eq!(json["args"][0]["name"], "NAME");
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    let json: Value = serde_json::from_str(&call(&["--call=targets,format=json"])).unwrap();
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(case.build(&["--call=describe"]).status.code(), Some(2));
    assert_eq!(case.build(&["--check", "--call=targets"]).status.code(), Some(2));
}

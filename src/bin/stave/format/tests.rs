//! What Docker's client makes of the same templates; where ours is stricter, the error.

use serde_json::{Value, json};

use super::table::written;
use super::{Columns, Data, Row, Template};

fn web() -> Value {
    json!({
        "Id": "3ed95aee906c83273b3c0ca09b523abcc7b7ffd6aaaa04acd20f57f06921324a",
        "Name": "/web", "RestartCount": 0, "Image": "sha256:0123",
        "State": { "Status": "running", "Running": true, "Pid": 42, "Paused": false },
        "Config": {
            "Env": ["A=b"], "Cmd": ["sleep", "1000"], "Entrypoint": null,
            "Labels": { "role": "web" }, "Image": "bb:1",
        },
        "HostConfig": { "Memory": 67_108_864_u64, "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] } },
        "Mounts": [{ "Type": "bind", "Destination": "/host" }, { "Type": "volume", "Destination": "/vol" }],
    })
}

fn render(template: &str) -> Result<String, String> {
    let parsed = Template::read(template, false).map_err(|diagnostic| diagnostic.to_string())?;
    let data = Data { root: &web(), labels: None, is_header: false };
    parsed.write(data).map_err(|diagnostic| diagnostic.to_string())
}

#[test]
fn templates_write_what_dockers_client_writes() {
    for (template, expected) in [
        ("{{.Id | len}}", "64"),
        ("{{.Config.Env}}", "[A=b]"),
        ("{{.Config.Labels}}", "map[role:web]"),
        ("{{.State.Running}} {{.State.Pid}}", "true 42"),
        (r#"{{index .Config.Labels "role"}}"#, "web"),
        (r#"{{index .Config.Labels "nope"}}"#, ""),
        ("{{.Config.Labels.role}}", "web"),
        ("{{.Config.Labels.nope}}", "<no value>"),
        ("{{range .Mounts}}{{.Type}}:{{.Destination}} {{end}}", "bind:/host volume:/vol "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{else}}none{{end}}", "role=web;"),
        ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
        (r#"{{if eq .State.Status "running"}}up{{else if .State.Paused}}p{{else}}down{{end}}"#, "up"),
        (r#"{{if eq .State.Status "x"}}a{{else if .State.Running}}b{{else}}c{{end}}"#, "b"),
        (r#"{{printf "%s-%d-%v-%q" .Name .RestartCount .State.Running .Name}}"#, r#"/web-0-true-"/web""#),
        ("{{json .Config.Cmd}}", r#"["sleep","1000"]"#),
        ("{{.Config.Cmd}} {{.Config.Entrypoint}} {{.HostConfig.Memory}}", "[sleep 1000] <no value> 67108864"),
        (r#"{{join .Config.Cmd ","}}"#, "sleep,1000"),
        (r#"{{split "a,b" ","}}"#, "[a b]"),
        (r#"{{upper "abc"}}{{lower "ABC"}}{{title "abc def"}}"#, "ABCabcAbc Def"),
        (r#"{{truncate "abcdef" 3}}"#, "abc"),
        (r#"{{pad "x" 2 3}}|"#, "  x   |"),
        ("{{slice .Name 1}} {{slice .Id 0 12}}", "web 3ed95aee906c"),
        (r#"{{println "a" 1}}{{print 1 2 "a" 3}}"#, "a 1\n1 2a3"),
        ("{{$x := .Name}}{{$x}}", "/web"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
        (r#"a {{- " b " -}} c"#, "a b c"),
        ("{{/* hi */}}x", "x"),
        ("a {{- /* hi */ -}} x", "ax"),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        ("{{with .Config.Entrypoint}}x{{else}}{{.Name}}{{end}}", "/web"),
        ("{{with $s := .State}}{{$s.Status}} {{$.Name}}{{end}}", "running /web"),
        ("{{len .Config.Env}}{{not true}}{{and 1 0}}{{or 0 \"x\"}}", "1false0x"),
        (r#"{{eq 1 1}}{{ne "a" "b"}}{{lt 1 2}}{{eq .RestartCount 0}}"#, "truetruetruetrue"),
        (r#"{{lt "a" "b"}}{{gt 2 1}}{{le 1 1}}{{ge 1 2}}"#, "truetruetruefalse"),
        ("{{(index .Mounts 0).Type}}", "bind"),
        ("{{range $i, $e := .Mounts}}{{if $i}},{{end}}{{$e.Type}}{{end}}", "bind,volume"),
        (r#"{{"a"}}{{`b`}}{{1.5}}"#, "ab1.5"),
        (r#"{{eq .Name .Id "/web"}}"#, "true"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range 9}}{{if eq . 2}}{{continue}}{{end}}{{if eq . 4}}{{break}}{{end}}{{.}}{{end}}", "013"),
        ("{{.Config.Env | json | upper}}", r#"["A=B"]"#),
        (r#"{{printf "%5d|%-5s|%05.1f|%x|%t|%%" 3 "a" 1.25 255 true}}"#, "    3|a    |001.2|ff|true|%"),
        (r#"{{(index (index .HostConfig.PortBindings "80/tcp") 0).HostPort}}"#, "8080"),
        (
            r#"{{range $p, $c := .HostConfig.PortBindings}}{{$p}}->{{(index $c 0).HostPort}}{{end}}"#,
            "80/tcp->8080",
        ),
        (r#"{{html "<a>"}}"#, "&lt;a&gt;"),
        (r#"{{"a\tb\u00e9\x41\""}}"#, "a\tbéA\""),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        (r#"{{ ( printf "%s" .Name ) | printf "%s%s" "x" }}"#, "x/web"),
        ("{{and .Config.Entrypoint .Config.Entrypoint.X}}", "<no value>"),
        ("plain }} text", "plain }} text"),
        ("", ""),
        (r"\t", r"\t"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_wrong_is_shown_where_it_is() {
    for (template, message, underlined) in [
        ("{{.NoSuch}}", "there is no field `NoSuch`", ".NoSuch"),
        ("{{.Nam}}", "did you mean `.Name`?", ".Nam"),
        ("{{.State.Statu}}", "did you mean `.Status`?", ".Statu"),
        ("{{.Config.Entrypoint.X}}", "there is nothing here", ".X"),
        ("{{.Name.X}}", "a text has no field `X`", ".X"),
        ("{{", "this action has no `}}`", "{{"),
        ("{{.A.B", "this action has no `}}`", "{{"),
        ("{{if}}x{{end}}", "`if` needs a value", "if"),
        ("{{foo}}", "there is no function `foo`", "foo"),
        ("{{jsn .}}", "did you mean `json`?", "jsn"),
        ("{{end}}", "nothing that this could end", "end"),
        ("{{else}}", "no `if` that this could belong to", "else"),
        ("{{range .Config.Env}}", "this `range` has no `{{end}}`", "range"),
        ("{{if true}}a{{else}}b{{else}}c{{end}}", "the second `else`", "else"),
        ("{{index .Mounts 9}}", "no item 9 in a list of 2", "index .Mounts 9"),
        ("{{nil}}", "`nil` is nothing that can be written", "nil"),
        ("{{break}}", "`break` is in no `range`", "break"),
        (r#"{{eq "a" 1}}"#, "a text and a number cannot be compared", r#"eq "a" 1"#),
        ("{{.Name 1}}", "this takes no values", ".Name"),
        ("{{$x}}", "no variable `$x`", "$x"),
        ("{{(.Name}}", "this parenthesis is not closed", "("),
        (r#"{{"a}}"#, "this text has no end", "\""),
        (r#"{{"\q"}}"#, "unknown escape", r"\q"),
        ("{{1x}}", "`1x` is no number", "1x"),
        ("{{.Name | 3}}", "only functions can stand behind a `|`", "3"),
        ("{{.Name |}}", "a value is missing here", "}}"),
        (r#"{{template "x"}}"#, "`template` is not supported", "template"),
        (r#"{{printf "%d" .Name}}"#, "`%d` does not go with a text", r#"printf "%d" .Name"#),
        (r#"{{printf "%s"}}"#, "there is no value for `%s`", r#"printf "%s""#),
        (r#"{{printf "a" 1}}"#, "1 values more", r#"printf "a" 1"#),
        ("{{len}}", "`len` takes 1 values, not 0", "len"),
        (r#"{{pad "x" 99999999 0}}"#, "a width is above 4096", r#"pad "x" 99999999 0"#),
        (r#"{{printf "%99999999d" 1}}"#, "a width is above 4096", r#"printf "%99999999d" 1"#),
        ("{{range .Name}}{{end}}", "a text has no items", ".Name"),
        ("{{/* never", "this comment has no", "{{"),
        ("{{.Name;}}", "unexpected `;`", ";"),
        ("{{slice .Name 3 1}}", "3 to 1 is no part", "slice .Name 3 1"),
    ] {
        let error = render(template).expect_err(template);
        assert!(error.contains(message), "{template}: {error}");
        let marks = error.chars().filter(|c| *c == '^').count();
        assert_eq!(marks, underlined.chars().count(), "{template}: {error}");
    }
}

#[test]
fn hostile_templates_end() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(2_000), close.repeat(2_000));
    for template in [
        deep("{{if true}}", "{{end}}"),
        format!("{{{{{}1{}}}}}", "(".repeat(2_000), ")".repeat(2_000)),
        format!("{{{{if 1}}}}{}{{{{end}}}}", "{{else if 1}}".repeat(2_000)),
        "{{range 100000}}{{range 100000}}{{end}}{{end}}".to_owned(),
        r#"{{range 18446744073709551615}}{{printf "%4000d" 1}}{{end}}"#.to_owned(),
        "x".repeat(100_000),
    ] {
        assert!(render(&template).is_err(), "{:.60}", template);
    }
}

const COLUMNS: Columns = Columns {
    fields: &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Ports", "PORTS")],
    shown: &["ID", "Names"],
    quiet: "ID",
};

fn rows() -> Vec<Row> {
    let labels = [("role".to_owned(), "web".to_owned())].into();
    let one = Row { value: json!({ "ID": "3ed95aee906c", "Names": "a", "Ports": "80/tcp" }), labels };
    let two =
        Row { value: json!({ "ID": "fb326042843f", "Names": "another", "Ports": "" }), ..Row::default() };
    vec![one, two]
}

#[test]
fn lists_are_tables_templates_or_json() {
    let table = "CONTAINER ID   NAMES\n3ed95aee906c   a\nfb326042843f   another\n";
    for (format, quiet, expected) in [
        (None, false, table),
        (Some("table"), false, table),
        (None, true, "3ed95aee906c\nfb326042843f\n"),
        (Some("{{.Names}}"), true, "a\nanother\n"),
        (Some(r"{{.Names}}\t{{.Ports}}"), false, "a\t80/tcp\nanother\t\n"),
        (Some("table {{.Names}}\\t{{.Ports}}"), false, "NAMES     PORTS\na         80/tcp\nanother\n"),
        (
            Some("table {{upper .Names}}\t{{.Label \"role\"}}"),
            false,
            "NAMES     role\nA         web\nANOTHER\n",
        ),
        (
            Some("table {{.ID | len}}\t{{if .Ports}}{{.Ports}}{{end}}"),
            false,
            "CONTAINER ID   PORTS\n12             80/tcp\n12\n",
        ),
        (
            Some("json"),
            false,
            "{\"ID\":\"3ed95aee906c\",\"Names\":\"a\",\"Ports\":\"80/tcp\"}\n{\"ID\":\"fb326042843f\",\"Names\":\"another\",\"Ports\":\"\"}\n",
        ),
    ] {
        assert_eq!(written(&COLUMNS, format, quiet, &rows()).unwrap(), expected, "{format:?}");
    }
}

#[test]
fn a_list_without_rows_knows_its_fields() {
    for format in ["{{.Nope}}", "table {{.Nope}}", "{{range .Nope}}{{end}}", "{{upper .Nope}}"] {
        assert!(written(&COLUMNS, Some(format), false, &[]).is_err(), "{format}");
    }
    for format in ["{{.ID}}", "{{index (split .Names \",\") 0}}", "{{range split .Ports \",\"}}{{.}}{{end}}"]
    {
        assert_eq!(written(&COLUMNS, Some(format), false, &[]).unwrap(), "", "{format}");
    }
}

#[test]
fn what_steers_terminals_stays_out_of_tables() {
    let row = Row { value: json!({ "ID": "\u{1b}[2J\n", "Names": "a\tb" }), ..Row::default() };
    let table = written(&COLUMNS, None, false, &[row]).unwrap();
    assert!(!table.contains('\u{1b}') && table.lines().count() == 2, "{table:?}");
}

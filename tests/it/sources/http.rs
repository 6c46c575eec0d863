//! ADD of URLs.

use super::server::{Reply, Web, archive, gzip};
use super::{add, fails};
use crate::harness::{Store, context, has};

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";

fn page(text: &str) -> Reply {
    Reply::new(200).body(text)
}

#[test]
fn a_file_is_named_by_its_url_and_is_private() {
    if !has(&["a range of ids"]) {
        return;
    }
    let (web, store) = (Web::new(), Store::empty());
    web.put("/a/tool.txt", page("text").header("Last-Modified", THEN));
    web.put("/a%20b", page("blank"));
    web.put("/", page("root"));
    let image = add(&store, &format!("ADD {} {} /d/", web.url("/a/tool.txt?x=/y"), web.url("/a%20b")));
    let files = image.files();
    assert_eq!((image.text("d/tool.txt"), image.text("d/a b")), ("text".into(), "blank".into()));
    let entry = &files["d/tool.txt"];
    assert_eq!((entry.mode & 0o7777, entry.uid, entry.gid), (0o600, 0, 0));
    let image = add(&store, &format!("ADD --chmod=751 --chown=3:4 {} /bin/tool", web.url("/a/tool.txt")));
    let entry = &image.files()["bin/tool"];
    assert_eq!((entry.mode & 0o7777, entry.uid, entry.gid), (0o751, 3, 4));
    let image = add(&store, &format!("ADD {} /r/", web.url("/")));
    assert_eq!(image.text("r/__unnamed__"), "root");
}

/// It is the only file that there is, whatever its name looks like.
#[test]
fn names_that_look_like_patterns() {
    let (web, store) = (Web::new(), Store::empty());
    let (mut lines, mut names) = (String::from("FROM scratch\n"), Vec::new());
    for (url, name) in
        [("/f%5B1%5D.txt", "f[1].txt"), ("/a%2Ab", "a*b"), ("/q%3F", "q?"), ("/back%5Csl", "back\\sl")]
    {
        web.put(url, page(name));
        lines.push_str(&format!("ADD {} /x/\n", web.url(url)));
        names.push(name);
    }
    let image = store.build_exported(&context(&lines, &[]), &[]);
    for name in names {
        assert_eq!(image.text(&format!("x/{name}")), name);
    }
}

#[test]
fn a_file_is_as_old_as_the_server_says() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/old", page("x").header("Last-Modified", THEN));
    web.put("/none", page("y"));
    let text = format!("FROM scratch\nADD {} {} /d/\n", web.url("/old"), web.url("/none"));
    let tar = store.build(&context(&text, &[]), &["-o", "type=tar,dest=-"]).ok().stdout;
    let mut archive = tar::Archive::new(tar.as_slice());
    let ages: Vec<(String, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mtime().unwrap())
        })
        .filter(|(path, _)| path.starts_with("d/") && path.len() > 2)
        .collect();
    assert_eq!(ages, [("d/none".to_owned(), 0), ("d/old".to_owned(), 784_111_777)]);
}

#[test]
fn an_encoding_of_the_server_is_taken_off() {
    let (web, store) = (Web::new(), Store::empty());
    let packed = super::server::gzip(b"unzipped");
    web.put("/gz", Reply::new(200).body(packed.clone()).header("Content-Encoding", "gzip"));
    web.put("/plain.gz", Reply::new(200).body(packed.clone()));
    web.put("/broken", Reply::new(200).body("no gzip").header("Content-Encoding", "gzip"));
    let sum = stave::digest::Digest::of(b"unzipped");
    let image = add(&store, &format!("ADD --checksum={sum} {} /x", web.url("/gz")));
    assert_eq!(image.text("x"), "unzipped");
    let image = add(&store, &format!("ADD {} /x", web.url("/plain.gz")));
    assert_eq!(image.files()["x"].kind, crate::harness::Kind::File(packed));
    fails(&store, &format!("ADD {} /x", web.url("/broken")), &["Content-Encoding", "Dockerfile:2"]);
}

#[test]
fn an_answer_without_a_body_is_an_empty_file() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/204", Reply::new(204));
    web.put("/none", Reply::new(200).header("Content-Encoding", "gzip"));
    for path in ["/204", "/none"] {
        assert_eq!(add(&store, &format!("ADD {} /x", web.url(path))).text("x"), "");
    }
}

#[test]
fn history_says_what_was_added_without_credentials() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/x", page("x"));
    let url = web.url("/x").replace("http://", "http://user:canary@");
    let text = format!("FROM scratch\nADD --chmod=644 --link=true {url} /x\nADD {url} /y\n");
    let ended = store.build(&context(&text, &[]), &["-t", "i"]).ok();
    assert!(!ended.stderr.contains("canary"), "{}", ended.stderr);
    let shown = web.url("/x").replace("http://", "http://xxxxx:xxxxx@");
    let image = store.inspect("i").to_string();
    assert!(!image.contains("canary"), "{image}");
    let history = store.stave(["history", "--no-trunc", "i"]).ok();
    assert!(history.text().contains(&format!("ADD {shown} /y # buildkit")), "{}", history.text());
    assert!(history.text().contains(&format!("ADD --chmod=644 {shown} /x # buildkit")), "{}", history.text());
    // They go to the server they are for, and into no file of the store.
    assert_eq!(web.asked("/x")[0].header("authorization"), Some("Basic dXNlcjpjYW5hcnk="));
    let found = crate::harness::run(
        std::process::Command::new("grep").args(["-rlaF", "canary"]).arg(store.root()),
        b"",
    );
    assert_eq!(found.code, 1, "{}", String::from_utf8_lossy(&found.stdout));
}

#[test]
fn an_unchanged_file_is_neither_sent_nor_added_again() {
    for headers in [&[("ETag", "\"1\"")][..], &[("Last-Modified", THEN), ("Date", LATER)]] {
        let (web, store) = (Web::new(), Store::empty());
        let with =
            |text: &str| headers.iter().fold(page(text), |page, (name, value)| page.header(name, *value));
        web.put("/x", with("one"));
        let context = context(&format!("FROM scratch\nADD {} /x\n", web.url("/x")), &[]);
        let (first, id) = store.build_events(&context, &[]);
        assert_eq!(first.ran().len(), 1);
        let (second, again) = store.build_events(&context, &[]);
        assert_eq!((second.ran().len(), second.cached().len(), again), (0, 1, id.clone()), "{second:?}");
        let asked = web.asked("/x");
        assert_eq!(asked.len(), 2);
        assert!(asked[1].header("if-none-match").or(asked[1].header("if-modified-since")).is_some());
        // Other bytes under another tag are another file.
        web.put("/x", page("two").header("ETag", "\"2\""));
        let (third, other) = store.build_events(&context, &[]);
        assert_eq!(third.ran().len(), 1);
        assert_ne!(other, id);
    }
}

#[test]
fn the_same_bytes_are_the_same_step() {
    let (web, store) = (Web::new(), Store::empty());
    // No validators: the file is sent each time, and still nothing runs.
    web.put("/x", page("one"));
    let context = context(&format!("FROM scratch\nADD {} /x\n", web.url("/x")), &[]);
    let id = store.build_id(&context, &[]);
    web.put("/x", page("one").header("Last-Modified", THEN).header("ETag", "\"new\""));
    let (events, again) = store.build_events(&context, &[]);
    assert_eq!((events.ran().len(), again), (0, id));
    // Pruned downloads come again, and give the same.
    store.stave(["prune", "--all", "--force"]).ok();
    assert!(store.entries("remotes/http").is_empty());
    assert_eq!(add(&store, &format!("ADD {} /x", web.url("/x"))).text("x"), "one");
}

#[test]
fn a_server_that_ignores_conditions_is_believed_by_its_tag() {
    let (web, store) = (Web::new(), Store::empty());
    // The weak form never equals what is asked for, so this server answers 200 each time.
    web.put("/x", page("one").header("ETag", "W/\"1\" "));
    let line = format!("ADD {} /x", web.url("/x"));
    assert_eq!(add(&store, &line).text("x"), "one");
    // Whoever keeps a tag says that nothing changed, whatever the answer holds.
    web.put("/x", page("two").header("ETag", "W/\"1\" "));
    assert_eq!(add(&store, &line).text("x"), "one");
    web.put("/x", page("three").header("ETag", "W/\"3\" "));
    assert_eq!(add(&store, &line).text("x"), "three");
}

#[test]
fn checksums_are_checked() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/x", page("text"));
    let sums = [
        "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1",
        "sha384:7c7a4ba4d3c0cb7a5e4d2ba9ff6db1a3e36cd1b01d9f7e0a7ba9a0d0a47ac34d",
    ];
    let right = format!("ADD --checksum={} {} /x", sums[0], web.url("/x"));
    assert_eq!(add(&store, &right).text("x"), "text");
    assert_eq!(web.asked("/x").len(), 1);
    // Nobody is asked for what is known by its checksum.
    assert_eq!(add(&store, &right).text("x"), "text");
    assert_eq!(web.asked("/x").len(), 1);
    let wrong = format!("ADD --checksum=sha256:{} {} /y", "0".repeat(64), web.url("/x"));
    fails(
        &store,
        &wrong,
        &["has the checksum `sha256:982d9e3eb996", "instead of `sha256:000", "Dockerfile:2"],
    );
    let wrong = format!("ADD --checksum=sha512:{} {} /z", "0".repeat(128), web.url("/x"));
    fails(&store, &wrong, &["instead of `sha512:000"]);
    fails(&store, &format!("ADD --checksum={} {} /z", sums[1], web.url("/x")), &["its length is wrong"]);
}

#[test]
fn archives_are_unpacked_if_asked() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/a.tar.gz", page("").body(gzip(&archive(&[("in/side", "text")]))));
    let url = web.url("/a.tar.gz");
    let image = add(&store, &format!("ADD {url} /d/"));
    assert!(image.files().contains_key("d/a.tar.gz"));
    let image = add(&store, &format!("ADD --unpack {url} /d/"));
    assert_eq!(image.text("d/in/side"), "text");
    let image = add(&store, &format!("ADD --unpack=false --link {url} /d/"));
    assert!(image.files().contains_key("d/a.tar.gz"));
}

#[test]
fn what_servers_must_not_do() {
    let (web, store) = (Web::new(), Store::empty());
    for (path, reply, words) in [
        ("/file", Reply::new(302).header("Location", "file:///etc/passwd"), "`file` is no scheme"),
        ("/meta", Reply::new(302).header("Location", "http://169.254.169.254/"), "link-local"),
        ("/loop", Reply::new(302).header("Location", "/loop"), "more than 10 redirects"),
        ("/206", Reply::new(206).body("part"), "answered 206"),
        ("/304", Reply::new(304), "answered 304"),
        ("/404", Reply::new(404), "answered 404"),
        ("/403", Reply::new(403), "HTTP_AUTH_TOKEN_127.0.0.1"),
    ] {
        web.put(path, reply);
        fails(&store, &format!("ADD {} /x", web.url(path)), &[words, "Dockerfile:2"]);
    }
    // A name that the server gives is not used, so it cannot lead anywhere.
    web.put("/named", page("x").header("Content-Disposition", "attachment; filename=\"../../evil\""));
    let image = add(&store, &format!("ADD {} /d/", web.url("/named")));
    assert_eq!(image.last_layer(), ["d", "d/named"]);
    for path in ["/x/%2e%2e", "/x/.."] {
        web.put(path, page("x"));
        web.put("/", page("x"));
        let image = add(&store, &format!("ADD {} /d/", web.url(path)));
        assert_eq!(image.last_layer(), ["d", "d/download"]);
    }
}

#[test]
fn a_transfer_that_breaks_is_begun_again() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/x", page(&"y".repeat(100_000)).cut(50_000));
    let line = format!("ADD {} /x", web.url("/x"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while web.asked("/x").is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            web.put("/x", page(&"z".repeat(100_000)));
        });
        assert_eq!(add(&store, &line).text("x"), "z".repeat(100_000));
    });
    assert!(web.asked("/x").len() >= 2);
}

#[test]
fn tokens_are_sent_to_their_host() {
    let (web, store) = (Web::new(), Store::empty());
    web.put("/x", page("x"));
    web.put("/away", Reply::new(302).header("Location", web.url("/x").replace("127.0.0.1", "localhost")));
    let file = store.path("token");
    std::fs::write(&file, "canary\n").unwrap();
    let secret = format!("--secret=id=HTTP_AUTH_TOKEN_127.0.0.1,src={file}");
    let text = format!("FROM scratch\nADD {} /x\nADD {} /y\n", web.url("/x"), web.url("/away"));
    store.build(&context(&text, &[]), &[&secret]).ok();
    let sent = |path: &str| -> Vec<Option<String>> {
        web.asked(path).iter().map(|seen| seen.header("authorization").map(str::to_owned)).collect()
    };
    assert_eq!(sent("/away"), [Some("Bearer canary".to_owned())]);
    // Once for itself, once as where a redirect led: another host.
    let mut both = sent("/x");
    both.sort();
    assert_eq!(both, [None, Some("Bearer canary".to_owned())]);
}

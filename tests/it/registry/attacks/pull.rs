//! What a registry sends, and where it sends us, when an image is read.

use super::*;
use crate::harness::context;

/// What is asked, and where the trap is, to an answer; none where the image's own is right.
type Spoiled = Box<dyn Fn(&Seen, &str) -> Option<Reply> + Send + Sync>;

struct Case {
    what: &'static str,
    /// The image's name, with `DIGEST` for the good manifest's digest.
    name: &'static str,
    image: Image,
    manifest: Value,
    spoiled: Spoiled,
    words: &'static [&'static str],
}

impl Case {
    /// A case that is the good image but for what is changed.
    fn new(what: &'static str, words: &'static [&'static str]) -> Self {
        let image = Image::good();
        let manifest = image.manifest();
        Self { what, name: "app:1", image, manifest, spoiled: Box::new(|_, _| None), words }
    }

    fn with_manifest(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.manifest);
        self
    }

    fn with_config(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.image.config);
        self.manifest = self.image.manifest();
        self
    }

    fn answering(mut self, spoiled: impl Fn(&Seen, &str) -> Option<Reply> + Send + Sync + 'static) -> Self {
        self.spoiled = Box::new(spoiled);
        self
    }

    /// Answers requests whose path holds this with that.
    fn with_answer(self, part: &'static str, reply: Reply) -> Self {
        self.answering(move |seen, _| seen.path.contains(part).then(|| reply.clone()))
    }

    /// Answers the requests for the layer.
    fn with_layer(self, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let layer = Digest::of(&self.image.layers[0]).to_string();
        self.answering(move |seen, trap| seen.path.ends_with(&layer).then(|| reply(trap)))
    }
}

fn redirect(location: impl Into<String>) -> Reply {
    Reply::new(307).header("Location", location)
}

/// An index of these.
fn index(entries: Vec<Value>) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

fn cases() -> Vec<Case> {
    let layer = Image::good().layers.remove(0);
    let mut wrong = layer.clone();
    wrong[600] ^= 1;
    let longer = [layer.as_slice(), b"x"].concat();
    let mut cases = vec![
        Case::new("a layer of other bytes", &["has the digest", "instead of"])
            .with_layer(move |_| Reply::new(200).body(wrong.clone())),
        Case::new("a layer that is longer", &["instead of 2048"])
            .with_layer(move |_| Reply::new(200).body(longer.clone())),
        Case::new("a layer that is shorter", &["instead of 2048"])
            .with_layer(move |_| Reply::new(200).body(&layer[..2047])),
        Case::new("a layer without end", &["instead of 2048"]).with_layer(|_| Reply::new(200).endless()),
        Case::new("a config without end", &["instead of"]).with_answer("/blobs/", Reply::new(200).endless()),
        Case::new("a manifest without end", &["longer than 4194304 bytes"])
            .with_answer("/manifests/", document(b"{").endless()),
        Case::new("a manifest of a gibibyte", &["longer than 4194304 bytes"])
            .with_answer("/manifests/", document(b"{").stating(Some(1 << 30))),
        Case::new("a manifest that is another index as well", &["both `layers` and `manifests`"])
            .with_manifest(|manifest| manifest["manifests"] = json!([])),
        Case::new("a manifest that is sent as an index", &["calls itself"]).answering(|seen, _| {
            let body = Image::good().manifest().to_string();
            let reply = Reply::new(200).header("Content-Type", INDEX).body(body);
            seen.path.contains("/manifests/").then_some(reply)
        }),
        Case::new("Docker's first schema", &["schema 1"]).with_answer(
            "/manifests/",
            Reply::new(200)
                .header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
                .body(r#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#),
        ),
        Case::new("a page of a proxy", &["no JSON"]).with_answer(
            "/manifests/",
            Reply::new(200).header("Content-Type", "text/html").body("<html>\x1b[2J"),
        ),
        Case::new("a layer of 2^63-1 bytes", &["cannot"])
            .with_manifest(|manifest| manifest["layers"][0]["size"] = json!(i64::MAX)),
        Case::new("a layer of less than no bytes", &["expected form: ", "-1"])
            .with_manifest(|manifest| manifest["layers"][0]["size"] = json!(-1)),
        Case::new("a config of 2^63-1 bytes", &["longer than"])
            .with_manifest(|manifest| manifest["config"]["size"] = json!(i64::MAX)),
        Case::new("fewer layers in the config", &["lists 1 layers, its config 0"])
            .with_config(|config| config["rootfs"]["diff_ids"] = json!([])),
        Case::new("another layer in the config", &["sha256:"])
            .with_config(|config| config["rootfs"]["diff_ids"] = json!([Digest::of(b"x").to_string()])),
        Case::new("more layers than an image can have", &["layers"]).with_manifest(|manifest| {
            manifest["layers"] = json!(vec![manifest["layers"][0].clone(); 9_000]);
        }),
        Case::new("an index of very many", &["has no image for"]).with_manifest(|manifest| {
            let other = json!({
                "mediaType": MANIFEST, "digest": Digest::of(b"x").to_string(), "size": 1,
                "platform": {"os": "a\u{1b}[2Jb", "architecture": "c\u{9b}d"},
            });
            *manifest = index(vec![other; 900]);
        }),
        Case::new("an index of too many", &["names 9000 manifests; the limit is 1000"]).with_manifest(
            |manifest| {
                *manifest = index(vec![described("manifest.v1+json", b"x"); 9_000]);
            },
        ),
        Case::new("an index of a hundred thousand", &["longer than 4194304 bytes"]).with_manifest(
            |manifest| {
                *manifest = index(vec![described("manifest.v1+json", b"x"); 100_000]);
            },
        ),
        Case::new("indexes of indexes", &["nests indexes too deeply"]).answering(|seen, _| {
            // Each names the one before; the tag is the last.
            let mut chain = vec![Image::good().manifest().to_string()];
            for _ in 0..8 {
                let mut entry = described("index.v1+json", chain.last().unwrap().as_bytes());
                entry["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture()});
                chain.push(index(vec![entry]).to_string());
            }
            let found =
                chain.iter().find(|text| seen.path.ends_with(&Digest::of(text.as_bytes()).to_string()));
            let body = found.or(chain.last()).unwrap();
            seen.path.contains("/manifests/").then(|| document(body.as_bytes()))
        }),
        Case::new("other bytes than those of the digest", &["has the digest", "instead of"])
            .with_answer("/manifests/", document(br#"{"schemaVersion":2}"#)),
        Case::new("an error full of escapes", &["denies access: \\u{1b}]0;mine\\u{7}"]).with_answer(
            "/manifests/",
            Reply::new(403).json(r#"{"errors":[{"code":"DENIED","message":"\u001b]0;mine\u0007"}]}"#),
        ),
        Case::new("an error without end", &["denies access"])
            .with_answer("/manifests/", Reply::new(403).body("no").endless()),
        Case::new("a redirect to a host that asks who we are", &["answered 401"])
            .with_layer(|trap| redirect(format!("{trap}/blob"))),
        Case::new("a redirect to a file", &["`file` is no scheme"])
            .with_layer(|_| redirect("file:///etc/passwd")),
        Case::new("a redirect to the cloud's own address", &["`169.254.169.254` is a link-local address"])
            .with_layer(|_| redirect("http://169.254.169.254/latest/meta-data")),
        Case::new("redirects in a circle", &["more than 10 redirects"])
            .answering(|seen, _| seen.path.contains("/blobs/").then(|| redirect(seen.path.clone()))),
        Case::new("a layer that is to be had elsewhere", &["has no such blob"])
            .with_manifest(|manifest| {
                manifest["layers"][0]["urls"] = json!(["http://127.0.0.2:1/x", "https://127.0.0.2:1/x"]);
            })
            .with_layer(|_| Reply::new(404)),
        Case::new("a token server that is somewhere else", &["cannot get a token", "not reached over HTTPS"])
            .with_answer(
                "/blobs/",
                Reply::new(401).header("WWW-Authenticate", "Bearer realm=\"http://evil.example/token\""),
            ),
    ];
    cases.iter_mut().filter(|case| case.what == "other bytes than those of the digest").for_each(|case| {
        case.name = "app:1@DIGEST";
    });
    for digest in [
        "sha256:../../../../../../canary/file".to_owned(),
        format!("sha256:{}", "A".repeat(64)),
        format!("sha256:{}", "a".repeat(63)),
        format!("sha999:{}", "a".repeat(64)),
        format!("md5:{}", "a".repeat(32)),
        format!("sha256:{}", "a".repeat(1 << 20)),
        "sha256:\u{1b}[2J".to_owned(),
        String::new(),
    ] {
        for part in ["config", "layers"] {
            let text = digest.clone();
            cases.push(Case::new("a digest that is none", &["digest"]).with_manifest(move |manifest| {
                let entry = &mut manifest[part];
                let entry = if entry.is_array() { &mut entry[0] } else { entry };
                entry["digest"] = json!(text);
            }));
        }
    }
    cases
}

fn run(way: Way, verb: &str) {
    for case in cases() {
        let Case { what, name, image, manifest, spoiled, words } = case;
        // Where everybody needs a token, the registry's own server has given one before.
        if way == Way::Secure && what.contains("token server") {
            continue;
        }
        let answers = image.answers(&manifest);
        let name = name.replace("DIGEST", &Digest::of(manifest.to_string().as_bytes()).to_string());
        let evil = Evil::start(way, Store::empty(), move |seen, trap| {
            spoiled(seen, trap).unwrap_or_else(|| answers.to(seen))
        });
        let what = format!("{what} ({way:?}, {verb})");
        let ended = match verb {
            "pull" => evil.store.stave(["pull", &evil.name(&name)]),
            _ => evil.store.build(&context(&format!("FROM {}\nRUN true\n", evil.name(&name)), &[]), &[]),
        };
        evil.check_refused(&what, &ended, words);
    }
}

#[test]
fn pulls_over_plain_http() {
    run(Way::Open, "pull");
}

#[test]
fn pulls_over_https_with_tokens() {
    run(Way::Secure, "pull");
}

#[test]
fn builds_on_hostile_images() {
    if crate::harness::has(&["a range of ids"]) {
        run(Way::Secure, "build");
    }
}

#[test]
fn names_are_read_before_anything_is_asked() {
    let evil = Evil::start(Way::Open, Store::empty(), |_, _| Reply::new(200));
    for name in [
        "app/../../x",
        "app:../x",
        "app@sha256:../../x",
        "APP:1",
        "app@md5:0",
        "app:1@",
        "app:\u{1b}[2J",
        "app?x=1",
        "app#x",
        "app%2e%2e/x",
    ] {
        let ended = evil.store.stave(["pull", &evil.name(name)]);
        evil.check(name, &ended);
        assert_ne!(ended.code, 0, "{name}");
        assert_eq!(evil.registry.lines(), [""; 0], "{name}");
    }
}

#[test]
fn what_an_image_says_of_itself_drives_nothing() {
    for way in [Way::Open, Way::Secure] {
        let mut image = Image::good();
        image.config["config"]["Labels"] = json!({
            "containerd.io/restart.status": "running",
            "io.buildkit.cache.v0": "e30=",
            "cdi.k8s.io/x": "vendor.com/device=all",
            "plain": "a\u{1b}[2Jb",
        });
        let mut manifest = image.manifest();
        manifest["annotations"] = json!({
            "io.containerd.image.name": "docker.io/library/busybox:latest",
            "org.opencontainers.image.ref.name": "latest",
            "io.containerd.import.ref-source": "annotation",
        });
        // Bytes that claim to be the config's; those are the blob's, whatever stands here.
        manifest["config"]["data"] = json!("eyJhcmNoaXRlY3R1cmUiOiJub25lIn0=");
        let answers = image.answers(&manifest);
        let evil = Evil::start(way, Store::empty(), move |seen, _| answers.to(seen));
        let name = evil.name("app:1");
        let ended = evil.store.stave(["pull", &name]).ok();
        evil.check("pull", &ended);
        assert_eq!(evil.images(), std::slice::from_ref(&name), "no other name is given");
        for verb in [&["inspect", &name][..], &["history", &name], &["images"]] {
            evil.check(verb[0], &evil.store.stave(verb).ok());
        }
        let seen = evil.store.inspect(&name);
        assert_eq!(seen["Architecture"], Platform::host().architecture());
        assert_eq!(seen["Config"]["Labels"], image.config["config"]["Labels"]);
    }
}

#[test]
fn a_digest_belongs_to_its_repository() {
    let image = Image::good();
    let answers = image.answers(&image.manifest());
    let digest = Digest::of(image.manifest().to_string().as_bytes());
    let evil = Evil::start(Way::Secure, Store::empty(), move |seen, _| {
        if seen.path.starts_with("/v2/own/") { answers.to(seen) } else { Reply::new(404) }
    });
    evil.store.stave(["pull", &evil.name(&format!("own:1@{digest}"))]).ok();
    let ended = evil.store.stave(["pull", &evil.name(&format!("other:1@{digest}"))]);
    evil.check("another repository", &ended);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
}

//! `--output`: every type, to a file, to a folder, to standard output.

use std::path::Path;

use crate::harness::{Context, Exported, Kind, Store, context, has, read_tar};

fn sample() -> Context {
    let text = "FROM busybox\nCOPY run.sh /opt/\nRUN ln -s run.sh /opt/link && ln /opt/run.sh /opt/hard && \
                mkdir -m 1777 /sticky && rm /bin/vi && chown 1000:1000 /opt/run.sh\n";
    context(text, &[("run.sh", "#!/bin/sh\n")]).mode("run.sh", 0o755)
}

fn check(image: &Exported) {
    let files = image.files();
    assert_eq!(image.text("opt/run.sh"), "#!/bin/sh\n");
    assert_eq!((files["opt/run.sh"].mode, files["opt/run.sh"].uid), (0o755, 1000));
    assert_eq!(files["opt/link"].kind, Kind::Symlink("run.sh".into()));
    assert_eq!(files["sticky"].mode, 0o1777);
    assert!(!files.contains_key("bin/vi") && files.contains_key("bin/busybox"));
    assert!(image.layers[2].contains_key("bin/.wh.vi"));
    let history = image.config["history"].as_array().unwrap();
    let layers = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    assert_eq!(layers, image.layers.len());
}

/// A store, where files can be given to somebody.
fn with_ids() -> Option<Store> {
    if has(&["a range of ids"]) { Store::with_base() } else { None }
}

#[test]
fn oci_to_a_file_a_folder_and_standard_output() {
    let Some(store) = with_ids() else { return };
    let context = sample();
    let output = |rest: &str| format!("type=oci,{rest}");
    let file = store.path("a.tar");
    store.build(&context, &["-t", "app:1", "-o", &output(&format!("dest={file}"))]).ok();
    let bytes = std::fs::read(file).unwrap();
    let image = Exported::read(&bytes);
    check(&image);
    let annotations = &image.index[0]["annotations"];
    assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/app:1");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
    // Of the second, as the image itself.
    let created = image.config["created"].as_str().unwrap();
    assert_eq!(annotations["org.opencontainers.image.created"].as_str().unwrap()[..19], created[..19]);
    let piped = store.build(&context, &["-t", "app:1", "-o", &output("dest=-")]).ok();
    assert!(piped.stdout == bytes, "the same image gives the same archive");
    let folder = store.path("layout");
    store.build(&context, &["-t", "app:1", "-o", &output(&format!("dest={folder},tar=false"))]).ok();
    check(&Exported::read_folder(Path::new(&folder)));
}

#[test]
fn a_layout_is_added_to() {
    let store = Store::empty();
    let folder = store.path("layout");
    let build = |text: &str, attribute: &str| {
        let output = format!("type=oci,dest={folder},tar=false{attribute}");
        store.build(&context(&format!("FROM scratch\nLABEL a={text}\n"), &[]), &["-o", &output])
    };
    let names = || {
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(format!("{folder}/index.json")).unwrap()).unwrap();
        let manifests = index["manifests"].as_array().unwrap().clone();
        let name = |entry: &serde_json::Value| {
            entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()
        };
        manifests.iter().map(|entry| (name(entry), entry["digest"].clone())).collect::<Vec<_>>()
    };
    build("1", ",name=x:one").ok();
    build("2", ",name=x:two").ok();
    build("3", "").ok();
    let first = names();
    assert_eq!(first.iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(), ["one", "two", "latest"]);
    build("4", ",name=x:one").ok();
    build("3", "").ok();
    let second = names();
    assert_eq!(second.iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(), ["two", "one", "latest"]);
    assert!(second[0] == first[1] && second[1].1 != first[0].1 && second[2] == first[2]);
    std::fs::write(format!("{folder}/index.json"), "no index").unwrap();
    build("5", "").code(1).says(&["`index.json` that is no index"]);
    // Nor does an error speak of files that nobody knows.
    let output = format!("type=oci,dest={folder}/none/a.tar");
    let ended = store.build(&context("FROM scratch\n", &[]), &["-o", &output]).code(1);
    let ended = ended.says(&["none/a.tar`: No such file or directory (os error 2)"]);
    assert!(!ended.stderr.contains(".tmp"), "{}", ended.stderr);
}

#[test]
fn a_folder_is_mirrored_if_asked() {
    let store = Store::empty();
    let place = tempfile::tempdir().unwrap();
    let (folder, outside) = (place.path().join("d"), place.path().join("outside"));
    std::fs::create_dir_all(folder.join("old/deep")).unwrap();
    std::fs::create_dir_all(folder.join("kept")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "mine").unwrap();
    std::fs::write(folder.join("kept/old"), "").unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
    let context = context("FROM scratch\nCOPY new /kept/new\n", &[("new", "n")]);
    let output = |mode: &str| format!("type=local,dest={},mode={mode}", folder.display());
    store.build(&context, &["-o", &output("copy")]).ok();
    assert!(folder.join("kept/old").exists() && folder.join("kept/new").exists());
    store.build(&context, &["-o", &output("delete")]).ok();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((names(&folder), names(&folder.join("kept"))), (vec!["kept".into()], vec!["new".into()]));
    assert!(outside.join("f").exists(), "no link is followed");
}

#[test]
fn every_compression() {
    let Some(store) = with_ids() else { return };
    let context = sample();
    for (compression, suffix) in [("gzip", "+gzip"), ("zstd", "+zstd"), ("uncompressed", ".tar")] {
        let output = format!("type=oci,dest=-,force-compression=true,compression={compression}");
        let image = Exported::read(&store.build(&context, &["-o", &output]).ok().stdout);
        check(&image);
        for layer in image.manifest["layers"].as_array().unwrap() {
            assert!(layer["mediaType"].as_str().unwrap().ends_with(suffix), "{layer}");
        }
    }
}

#[test]
fn annotations() {
    let Some(store) = with_ids() else { return };
    let output = "type=oci,dest=-,annotation.org.example.key=some value";
    let image = Exported::read(&store.build(&sample(), &["-o", output]).ok().stdout);
    assert_eq!(image.manifest["annotations"]["org.example.key"], "some value");
}

#[test]
fn docker_to_a_file_and_standard_output() {
    let Some(store) = with_ids() else { return };
    let context = sample();
    let file = store.path("a.tar");
    store.build(&context, &["-t", "app:1", "-o", &format!("type=docker,dest={file}")]).ok();
    let bytes = std::fs::read(file).unwrap();
    check(&Exported::read(&bytes));
    let members = read_tar(&bytes);
    let Kind::File(list) = &members["manifest.json"].kind else { panic!("it is a file") };
    let list: serde_json::Value = serde_json::from_slice(list).unwrap();
    assert_eq!(list[0]["RepoTags"], serde_json::json!(["app:1"]));
    for path in list[0]["Layers"].as_array().unwrap().iter().chain([&list[0]["Config"]]) {
        assert!(members.contains_key(path.as_str().unwrap()), "{path}");
    }
    let piped = store.build(&context, &["-t", "app:1", "-o", "type=docker,dest=-"]).ok();
    assert!(piped.stdout == bytes);
}

#[test]
fn tar_is_the_root_file_system() {
    let Some(store) = with_ids() else { return };
    let context = sample();
    for flags in [["-o", "type=tar,dest=-"], ["-o", "-"]] {
        let files = read_tar(&store.build(&context, &flags).ok().stdout);
        assert_eq!(files["opt/run.sh"].uid, 1000);
        assert!(
            matches!(files["opt/hard"].kind, Kind::Hardlink(_))
                || matches!(files["opt/run.sh"].kind, Kind::Hardlink(_))
        );
        assert!(!files.contains_key("bin/vi") && files.contains_key("bin/sh"));
        assert!(files.keys().all(|path| !path.contains(".wh.")));
    }
}

#[test]
fn local_is_a_folder() {
    use std::os::unix::fs::MetadataExt;
    let Some(store) = with_ids() else { return };
    let folder = store.path("out");
    for output in [format!("type=local,dest={folder}"), folder.clone()] {
        store.build(&sample(), &["-o", &output]).ok();
        let file = Path::new(&folder).join("opt/run.sh");
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_link(Path::new(&folder).join("opt/link")).unwrap(), Path::new("run.sh"));
        assert!(!Path::new(&folder).join("bin/vi").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn several_outputs_of_one_build() {
    let Some(store) = with_ids() else { return };
    let (oci, local) = (store.path("a.tar"), store.path("out"));
    let (one, other) = (format!("type=oci,dest={oci}"), format!("type=local,dest={local}"));
    store.build(&sample(), &["-o", &one, "-o", &other, "-o", "type=image", "-t", "app"]).ok();
    check(&Exported::read(&std::fs::read(oci).unwrap()));
    assert!(Path::new(&local).join("opt").is_dir());
    store.inspect("app");
}

#[test]
fn dockers_media_types_and_names_with_a_digest() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM scratch\nCOPY a /\n", &[("a", "a")]);
    let of = |output: &str| Exported::read(&store.build(&context, &["-o", output]).ok().stdout);
    let docker = of("type=oci,dest=-,oci-mediatypes=false").manifest;
    assert_eq!(docker["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(docker["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert_eq!(docker["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    // Docker has no word for zstd.
    let zstd = of("type=oci,dest=-,oci-mediatypes=false,compression=zstd,force-compression=true").manifest;
    assert_eq!(zstd["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let metadata = store.path("metadata");
    let digest = |output: &str, flags: &[&str]| {
        let mut all = vec!["--metadata-file", &metadata, "-o", output];
        all.extend(flags);
        store.build(&context, &all).ok();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
        assert_eq!(read["containerimage.digest"], read["containerimage.descriptor"]["digest"]);
        read["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let named = digest("type=image,name-canonical=true", &["-t", "app"]);
    assert_eq!(store.inspect(&format!("app@{named}"))["Manifest"], named.as_str());
    let dangling = digest("type=image,dangling-name-prefix=none/here", &[]);
    store.inspect(&format!("none/here@{dangling}"));
    digest("type=image,store=false,name=absent", &[]);
    store.stave(["inspect", "absent"]).code(1);
    // Nothing goes anywhere, and all of it is cached.
    store.build(&context, &["-o", "type=cacheonly"]).ok();
}

#[test]
fn a_push_by_digest_moves_no_tag() {
    let Some(store) = Store::with_base() else { return };
    let Some(registry) = crate::harness::registry::Registry::plain() else { return };
    let context = context("FROM scratch\nCOPY a /\n", &[("a", "a")]);
    let name = registry.name("ns/app:1");
    let metadata = store.path("metadata");
    let output = format!("type=image,name={name},push=true,push-by-digest=true");
    store.build(&context, &["--metadata-file", &metadata, "-o", &output]).ok();
    let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    let digest = read["containerimage.digest"].as_str().unwrap();
    let other = Store::empty();
    other.stave(["pull", &name]).code(1);
    other.stave(["pull", &format!("{}@{digest}", registry.name("ns/app"))]).ok();
}

#[test]
fn an_output_that_makes_no_sense() {
    let Some(store) = with_ids() else { return };
    store.build(&sample(), &["-o", "type=magic,dest=x"]).code(2).says(&["magic"]);
    store.build(&sample(), &["-o", "type=local"]).code(2).says(&["dest"]);
    let nowhere = format!("type=oci,dest={}", store.path("no/such/folder/a.tar"));
    store.build(&sample(), &["-o", &nowhere]).code(1).says(&["no/such/folder/a.tar"]);
}

#[test]
fn save_and_load() {
    let Some(store) = with_ids() else { return };
    let id = store.build_id(&sample(), &["-t", "app:1"]);
    let archive = store.stave(["save", "app:1"]).ok().stdout;
    check(&Exported::read(&archive));
    let other = Store::empty();
    let ended = other.stave_with(["load"], &archive).ok();
    assert_eq!(ended.text(), "Loaded image: app:1");
    assert_eq!(other.inspect("app:1")["Id"], id);
    assert!(
        other.stave(["save", "app:1"]).ok().stdout == archive,
        "an image is saved the same wherever it is"
    );
}

//! The distribution API, request by request.

use super::*;

#[test]
fn manifests_by_tag_and_digest() {
    for (_store, served) in both(&[]) {
        served.get("/v2/").is(200);
        served.get("/v2/a/b/manifests/1").refuses(404, "MANIFEST_UNKNOWN");
        with_blobs(&served, "a/b");
        let bytes = artifact("");
        let digest = put_manifest(&served, "a/b", "1", &bytes);
        for target in ["1", &digest] {
            let path = format!("/v2/a/b/manifests/{target}");
            let answer = served.get(&path).is(200);
            assert_eq!(answer.body, bytes);
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
            let head = served.ask("HEAD", &path, &[], b"").is(200);
            assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
            assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
            served.ask("GET", &path, &[("If-None-Match", &format!("\"{digest}\""))], b"").is(304);
            served.ask("GET", &path, &[("Accept", &format!("{OCI_INDEX}, {OCI_MANIFEST}"))], b"").is(200);
            served.ask("GET", &path, &[("Accept", OCI_INDEX)], b"").refuses(404, "MANIFEST_UNKNOWN");
        }
        // It is in its own repository, under its own tag.
        for path in [format!("/v2/a/manifests/{digest}"), "/v2/a/b/manifests/2".to_owned()] {
            served.get(&path).refuses(404, "MANIFEST_UNKNOWN");
        }
        served.ask("DELETE", "/v2/a/b/manifests/1", &[], b"").is(202);
        served.ask("DELETE", "/v2/a/b/manifests/1", &[], b"").refuses(404, "MANIFEST_UNKNOWN");
        served.get(&format!("/v2/a/b/manifests/{digest}")).is(200);
        served.ask("DELETE", &format!("/v2/a/b/manifests/{digest}"), &[], b"").is(202);
        served.get(&format!("/v2/a/b/manifests/{digest}")).refuses(404, "MANIFEST_UNKNOWN");
        served.ask("POST", "/v2/a/b/manifests/1", &[], b"").refuses(405, "UNSUPPORTED");
    }
}

#[test]
fn what_a_manifest_names_must_be_there() {
    for (_store, served) in both(&[]) {
        let put = |target: &str, bytes: &[u8]| {
            served.ask("PUT", &format!("/v2/a/manifests/{target}"), &[("Content-Type", OCI_MANIFEST)], bytes)
        };
        let refusal = put("1", &artifact("")).refuses(400, "MANIFEST_BLOB_UNKNOWN");
        assert!(refusal.text().contains(&digest(b"{}")), "{}", refusal.text());
        with_blobs(&served, "b");
        put("1", &artifact("")).refuses(400, "MANIFEST_BLOB_UNKNOWN");
        with_blobs(&served, "a");
        put(&digest(b"another"), &artifact("")).refuses(400, "DIGEST_INVALID");
        let lie = String::from_utf8(artifact("")).unwrap().replace("\"size\":5", "\"size\":6");
        put("1", lie.as_bytes()).refuses(400, "SIZE_INVALID");
        put("1", &artifact("")[1..]).refuses(400, "MANIFEST_INVALID");
        put("1", &artifact(r#","manifests":[]"#)).refuses(400, "MANIFEST_INVALID");
        put("1", &artifact("")).is(201);
        // An index comes after its manifests, and what something is about may come later.
        let below = artifact(r#","annotations":{"a":"below"}"#);
        let entry = descriptor(OCI_MANIFEST, &below);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#).into_bytes();
        served
            .ask("PUT", "/v2/a/manifests/all", &[("Content-Type", OCI_INDEX)], &index)
            .refuses(400, "MANIFEST_BLOB_UNKNOWN");
        put_manifest(&served, "a", &digest(&below), &below);
        put_manifest(&served, "a", "all", &index);
        assert_eq!(served.get("/v2/a/manifests/all").is(200).header("content-type"), Some(OCI_INDEX));
        served.get(&format!("/v2/a/manifests/{}", digest(&below))).is(200);
    }
}

#[test]
fn tags_and_repositories_come_in_pages() {
    for (_store, served) in both(&[]) {
        served.get("/v2/a/tags/list").refuses(404, "NAME_UNKNOWN");
        for repository in ["a", "b/c", "b"] {
            with_blobs(&served, repository);
            put_manifest(&served, repository, "1", &artifact(""));
        }
        for tag in ["3", "2", "v1.0-rc_1"] {
            put_manifest(&served, "a", tag, &artifact(""));
        }
        let list = |path: &str| {
            let answer = served.get(path).is(200);
            let json = answer.json();
            let list = json.get("tags").or(json.get("repositories")).unwrap();
            let list: Vec<String> = serde_json::from_value(list.clone()).unwrap();
            (list, answer.header("link").map(str::to_owned))
        };
        assert_eq!(list("/v2/a/tags/list"), (["1", "2", "3", "v1.0-rc_1"].map(String::from).into(), None));
        let (mut all, mut path) = (Vec::new(), "/v2/a/tags/list?n=3".to_owned());
        loop {
            let (page, link) = list(&path);
            assert!(page.len() <= 3);
            all.extend(page);
            let Some(link) = link else { break };
            assert!(link.ends_with("; rel=\"next\""), "{link}");
            path = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
        }
        assert_eq!(all, ["1", "2", "3", "v1.0-rc_1"]);
        assert_eq!(list("/v2/a/tags/list?n=0"), (Vec::new(), None));
        assert_eq!(list("/v2/a/tags/list?last=2").0, ["3", "v1.0-rc_1"]);
        served.get("/v2/a/tags/list?n=x").refuses(400, "PAGINATION_NUMBER_INVALID");
        served.get("/v2/a/tags/list?n=-1").refuses(400, "PAGINATION_NUMBER_INVALID");
        assert_eq!(list("/v2/_catalog").0, ["a", "b", "b/c"]);
        let (page, link) = list("/v2/_catalog?n=2&last=a");
        assert_eq!((page, link), (["b", "b/c"].map(String::from).into(), None));
        assert_eq!(list("/v2/_catalog?n=1").1.unwrap(), "</v2/_catalog?n=1&last=a>; rel=\"next\"");
    }
}

#[test]
fn referrers() {
    for (_store, served) in both(&[]) {
        with_blobs(&served, "a");
        let subject = artifact(r#","annotations":{"a":"subject"}"#);
        let about = format!(r#","subject":{}"#, descriptor(OCI_MANIFEST, &subject));
        let with_type =
            artifact(&format!(r#"{about},"artifactType":"x/signature","annotations":{{"k":"v"}}"#));
        let without = artifact(&about);
        let put = |bytes: &[u8]| {
            let path = format!("/v2/a/manifests/{}", digest(bytes));
            let answer = served.ask("PUT", &path, &[("Content-Type", OCI_MANIFEST)], bytes).is(201);
            answer.header("oci-subject").map(str::to_owned)
        };
        // What they are about is not there yet.
        assert_eq!(put(&with_type), Some(digest(&subject)));
        assert_eq!(put(&without), Some(digest(&subject)));
        assert_eq!(put(&subject), None);
        let path = format!("/v2/a/referrers/{}", digest(&subject));
        let list = |path: &str| {
            let answer = served.get(path).is(200);
            assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
            let json = answer.json();
            assert_eq!((&json["schemaVersion"], &json["mediaType"]), (&2.into(), &OCI_INDEX.into()));
            let filtered = answer.header("oci-filters-applied").map(str::to_owned);
            (json["manifests"].as_array().unwrap().clone(), filtered)
        };
        let (all, filtered) = list(&path);
        assert_eq!((all.len(), filtered), (2, None));
        let (some, filtered) = list(&format!("{path}?artifactType=x%2Fsignature"));
        assert_eq!(filtered.as_deref(), Some("artifactType"));
        assert_eq!(some.len(), 1);
        assert_eq!(some[0]["digest"], digest(&with_type).as_str());
        assert_eq!(some[0]["size"], with_type.len());
        assert_eq!(some[0]["artifactType"], "x/signature");
        assert_eq!(some[0]["annotations"]["k"], "v");
        // One that states no type has that of its config.
        let (some, _) = list(&format!("{path}?artifactType=application/vnd.oci.empty.v1%2Bjson"));
        assert_eq!(some[0]["digest"], digest(&without).as_str());
        assert_eq!(list(&format!("/v2/a/referrers/{}", digest(b"unknown"))).0.len(), 0);
        assert_eq!(list(&format!("/v2/b/referrers/{}", digest(&subject))).0.len(), 0);
        served.ask("DELETE", &format!("/v2/a/manifests/{}", digest(&without)), &[], b"").is(202);
        assert_eq!(list(&path).0.len(), 1);
        served.get("/v2/a/referrers/x").refuses(400, "DIGEST_INVALID");
    }
}

#[test]
fn blobs_whole_and_by_range() {
    for (_store, served) in both(&[]) {
        let bytes = noise(700_000);
        let path = format!("/v2/a/blobs/{}", digest(&bytes));
        served.get(&path).refuses(404, "BLOB_UNKNOWN");
        put_blob(&served, "a", &bytes);
        put_blob(&served, "a", b"");
        let answer = served.get(&path).is(200);
        assert!(answer.body == bytes);
        assert_eq!(answer.header("etag"), Some(format!("\"{}\"", digest(&bytes)).as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest(&bytes).as_str()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        let head = served.ask("HEAD", &path, &[], b"").is(200);
        assert_eq!(head.header("content-length"), Some("700000"));
        served.ask("GET", &path, &[("If-None-Match", answer.header("etag").unwrap())], b"").is(304);
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=5-300004", 5, 300_005),
            ("bytes=-7", 699_993, 700_000),
            ("bytes=600000-", 600_000, 700_000),
        ] {
            let part = served.ask("GET", &path, &[("Range", range)], b"").is(206);
            assert!(part.body == bytes[from..to], "{range}");
            let stated = format!("bytes {from}-{}/700000", to - 1);
            assert_eq!(part.header("content-range"), Some(stated.as_str()));
        }
        let beyond =
            served.ask("GET", &path, &[("Range", "bytes=700000-")], b"").refuses(416, "RANGE_INVALID");
        assert_eq!(beyond.header("content-range"), Some("bytes */700000"));
        assert!(served.ask("GET", &path, &[("Range", "bytes=0-1,4-5")], b"").is(200).body == bytes);
        assert_eq!(served.get(&format!("/v2/a/blobs/{}", digest(b""))).is(200).body, b"");
        served.ask("DELETE", &path, &[], b"").is(202);
        served.ask("DELETE", &path, &[], b"").refuses(404, "BLOB_UNKNOWN");
        served.get(&path).refuses(404, "BLOB_UNKNOWN");
    }
}

#[test]
fn what_a_manifest_names_is_not_deleted() {
    for (_store, served) in both(&[]) {
        with_blobs(&served, "a");
        put_manifest(&served, "a", "1", &artifact(""));
        let layer = format!("/v2/a/blobs/{}", digest(b"layer"));
        served.ask("DELETE", &layer, &[], b"").refuses(405, "UNSUPPORTED");
        served.get(&layer).is(200);
        served.ask("DELETE", &format!("/v2/a/manifests/{}", digest(&artifact(""))), &[], b"").is(202);
        served.ask("DELETE", &layer, &[], b"").is(202);
    }
}

#[test]
fn a_damaged_blob_is_not_taken_for_a_whole_one() {
    for (store, served) in both(&[]) {
        let bytes = noise(600_000);
        let name = put_blob(&served, "a", &bytes);
        let hex = name.trim_start_matches("sha256:");
        let places = [store.root().join("blobs/sha256"), store.path("registry").into()];
        let file =
            places.iter().map(|place| place.join(hex)).chain([places[1].join("blobs/sha256").join(hex)]);
        let file = file.into_iter().find(|file| file.exists()).unwrap();
        let mut damaged = bytes.clone();
        damaged[300_000] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let path = format!("/v2/a/blobs/{name}");
        // The connection breaks before the last bytes.
        assert_eq!(served.get(&path).status, 0);
        served.get(&path).refuses(404, "BLOB_UNKNOWN");
        put_blob(&served, "a", &bytes);
        assert!(served.get(&path).is(200).body == bytes);
    }
}

#[test]
fn mounts() {
    for (_store, served) in both(&[]) {
        let blob = put_blob(&served, "a", b"bytes");
        let mount = |digest: &str, from: &str| {
            served.ask("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from={from}"), &[], b"")
        };
        // Those that cannot be become uploads.
        for (digest, from) in [(digest(b"unknown").as_str(), "a"), (blob.as_str(), "c"), (&blob, "a/b")] {
            let answer = mount(digest, from).is(202);
            assert!(answer.header("location").unwrap().starts_with("/v2/b/blobs/uploads/"));
        }
        served.ask("POST", &format!("/v2/b/blobs/uploads/?mount={blob}"), &[], b"").is(202);
        mount("sha256:x", "a").refuses(400, "DIGEST_INVALID");
        mount(&blob, "..%2Fa").refuses(400, "NAME_INVALID");
        let answer = mount(&blob, "a").is(201);
        assert_eq!(answer.header("location"), Some(format!("/v2/b/blobs/{blob}").as_str()));
        assert_eq!(served.get(&format!("/v2/b/blobs/{blob}")).is(200).body, b"bytes");
        served.ask("DELETE", &format!("/v2/a/blobs/{blob}"), &[], b"").is(202);
        served.get(&format!("/v2/b/blobs/{blob}")).is(200);
    }
}

#[test]
fn what_may_not_be_written() {
    for (_store, served) in both(&["--read-only"]) {
        served.ask("POST", "/v2/a/blobs/uploads/", &[], b"").refuses(403, "DENIED");
        served.ask("PUT", "/v2/a/manifests/1", &[], b"{}").refuses(403, "DENIED");
        served.ask("DELETE", "/v2/a/manifests/1", &[], b"").refuses(403, "DENIED");
        served.get("/v2/_catalog").is(200);
    }
    for (_store, served) in both(&["--no-delete"]) {
        with_blobs(&served, "a");
        put_manifest(&served, "a", "1", &artifact(""));
        served.ask("DELETE", "/v2/a/manifests/1", &[], b"").refuses(405, "UNSUPPORTED");
        served.ask("DELETE", &format!("/v2/a/blobs/{}", digest(b"{}")), &[], b"").refuses(405, "UNSUPPORTED");
        let begun = served.ask("POST", "/v2/a/blobs/uploads/", &[], b"").is(202);
        served.ask("DELETE", begun.header("location").unwrap(), &[], b"").is(204);
    }
}

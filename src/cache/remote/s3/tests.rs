//! Settings of S3, and where they lead.

use super::*;

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn s3(settings: &[(&str, &str)], surroundings: &Surroundings) -> Result<S3, CacheSpecError> {
    S3::new(&owned(settings), surroundings, &Client::new(crate::registry::Options::default()).unwrap())
}

fn variables(pairs: &[(&str, &str)]) -> Surroundings {
    Surroundings { variables: owned(pairs), ..Surroundings::default() }
}

const KEYS: [(&str, &str); 2] = [("access_key_id", "AKIA"), ("secret_access_key", "hidden-secret")];

fn with_keys<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [settings, &KEYS].concat()
}

#[test]
fn where_a_bucket_is() {
    let at = |endpoint: Option<&str>, bucket: &str, by_path| {
        let endpoint = endpoint.map(|text| Url::parse(text).unwrap());
        base(endpoint.as_ref(), bucket, "eu-west-1", by_path).to_string()
    };
    assert_eq!(at(None, "app", false), "https://app.s3.eu-west-1.amazonaws.com/");
    assert_eq!(at(None, "app", true), "https://s3.eu-west-1.amazonaws.com/app");
    assert_eq!(at(None, "my.app", false), "https://s3.eu-west-1.amazonaws.com/my.app");
    assert_eq!(at(Some("https://store.example:9000"), "app", false), "https://app.store.example:9000/");
    assert_eq!(at(Some("https://store.example/s3/"), "app", true), "https://store.example/s3/app");
    assert_eq!(at(Some("http://127.0.0.1:4568"), "app", false), "http://127.0.0.1:4568/app");
    assert_eq!(at(Some("http://[::1]:4568"), "app", false), "http://[::1]:4568/app");
    assert_eq!(at(Some("http://store"), "App_1", false), "http://store/App_1");
    assert_eq!(
        base(None, "app", "cn-north-1", false).as_str(),
        "https://app.s3.cn-north-1.amazonaws.com.cn/"
    );
}

#[test]
fn keys_have_buildkits_places() {
    let found = s3(
        &with_keys(&[("bucket", "b"), ("region", "r"), ("prefix", "team/"), ("name", "a;b/c")]),
        &variables(&[]),
    );
    let S3 { objects, warning } = found.unwrap();
    let expected = Keys {
        blobs: "team/blobs/".into(),
        manifests: "team/manifests/".into(),
        names: vec!["a".into(), "b/c".into()],
    };
    assert_eq!((objects.keys, warning), (expected, None));
    assert_eq!(objects.place, "s3 b/team/a");
    let bare = with_keys(&[("bucket", "b"), ("region", "r"), ("blobs_prefix", ""), ("manifests_prefix", "")]);
    assert_eq!(s3(&bare, &variables(&[])).unwrap().objects.keys.blobs, "");
}

#[test]
fn keys_in_a_url() {
    let key = Path::parse("a b/sha256:0+~_%C3").unwrap();
    assert_eq!(encoded(&key), "a%20b/sha256%3A0%2B~_%25C3");
}

#[test]
fn what_the_surroundings_say() {
    let set = variables(&[
        ("AWS_BUCKET", "b"),
        ("AWS_DEFAULT_REGION", "eu-north-1"),
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ]);
    let found = s3(&[], &set).unwrap();
    assert_eq!(found.objects.host, "b.s3.eu-north-1.amazonaws.com");
    // Attributes come first.
    let found = s3(&[("bucket", "c"), ("region", "r")], &set).unwrap();
    assert_eq!(found.objects.host, "c.s3.r.amazonaws.com");
    let mut files = variables(&[("AWS_PROFILE", "work")]);
    files.aws_credentials =
        Some("[default]\naws_access_key_id=no\n[work] # mine\naws_access_key_id = AKIA\naws_secret_access_key=x=y\n".into());
    files.aws_config =
        Some("[profile work]\nregion = us-west-2\ns3 =\n  max_concurrent = 1\n[work]\nregion=no\n".into());
    let found = s3(&[("bucket", "b")], &files).unwrap();
    assert_eq!(found.objects.host, "b.s3.us-west-2.amazonaws.com");
    files.variables = owned(&[("AWS_PROFILE", "other")]);
    let error = s3(&[("bucket", "b")], &files).unwrap_err().to_string();
    assert!(error.contains("`AWS_PROFILE=other`"), "{error}");
    files.variables.clear();
    files.aws_credentials = None;
    files.aws_config = Some("[default]\nregion=r\nsso_session=corp\n".into());
    let error = s3(&[("bucket", "b")], &files).unwrap_err().to_string();
    assert!(error.contains("sso_session") && error.contains("export-credentials"), "{error}");
}

#[test]
fn mistakes_are_named_and_secrets_are_not() {
    let b = ("bucket", "b");
    let r = ("region", "r");
    for (settings, says) in [
        (with_keys(&[r]), "needs `bucket="),
        (with_keys(&[b]), "needs `region="),
        (with_keys(&[r, ("bucket", "a/b")]), "the name of a bucket"),
        (with_keys(&[b, ("region", "x.evil.example/")]), "a region"),
        (with_keys(&[b, ("endpoint_url", "store:9000")]), "a URL such as"),
        (with_keys(&[b, ("endpoint_url", "http://user:hidden@store")]), "without credentials"),
        (with_keys(&[b, r, ("use_path_style", "maybe")]), "true or false"),
        (with_keys(&[b, r, ("touch_refresh", "daily")]), "a duration"),
        (with_keys(&[b, r, ("upload_parallelism", "0")]), "a number from 1"),
        (with_keys(&[b, r, ("upload_parallelism", "-4")]), "a number from 1"),
        (with_keys(&[b, r, ("name", "a;;b")]), "names with `;`"),
        (with_keys(&[b, r, ("name", "../x")]), "`..`"),
        (with_keys(&[b, r, ("prefix", "a//b")]), "`//`"),
        (vec![b, r, ("secret_access_key", "hidden")], "needs `access_key_id"),
        (vec![b, r, ("access_key_id", "AKIA")], "needs `secret_access_key"),
        (vec![b, r, ("access_key_id", "AK\r\nIA"), ("secret_access_key", "hidden")], "visible"),
        (vec![b, ("endpoint_url", "http://127.0.0.1:1")], "needs `access_key_id"),
    ] {
        let error = s3(&settings, &variables(&[])).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hidden"), "{settings:?}: {error}");
    }
}

#[test]
fn plain_http_is_told() {
    let warning = |endpoint| {
        let settings = with_keys(&[("bucket", "b"), ("endpoint_url", endpoint), ("use_path_style", "true")]);
        s3(&settings, &variables(&[])).unwrap().warning().map(str::to_owned)
    };
    assert!(warning("http://10.0.0.1:9000").unwrap().contains("plain HTTP"));
    assert!(warning("http://store.example").is_some());
    for endpoint in ["http://127.0.0.1:9000", "http://localhost", "http://[::1]", "https://store.example"] {
        assert_eq!(warning(endpoint), None, "{endpoint}");
    }
}

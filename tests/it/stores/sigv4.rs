//! What a request to S3 must be signed with, worked out from what arrived: Amazon's "Authenticating
//! Requests (AWS Signature Version 4)", written without the library that signs.

use ring::{digest, hmac};

use crate::registry::server::Seen;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

/// A request, as far as signatures cover it.
struct Request<'a> {
    method: &'a str,
    /// Path and query.
    target: &'a str,
    header: &'a dyn Fn(&str) -> Option<String>,
}

/// The signature of a request. `scope` is `DAY/REGION/s3/aws4_request`.
fn signature(request: &Request<'_>, signed: &str, scope: &str, secret: &str) -> Option<String> {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    pairs.sort();
    let mut headers = String::new();
    for name in signed.split(';') {
        headers.push_str(&format!("{name}:{}\n", (request.header)(name)?.trim()));
    }
    let hash = (request.header)("x-amz-content-sha256")?;
    let canonical = format!("{}\n{path}\n{}\n{headers}\n{signed}\n{hash}", request.method, pairs.join("&"));
    let date = (request.header)("x-amz-date")?;
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mac = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    Some(hex(mac(&key, &text)))
}

/// Whether a request is signed by this key, over the bytes that arrived, and just now.
pub fn check(seen: &Seen, id: &str, secret: &str, region: &str) -> Result<(), &'static str> {
    let header = |name: &str| seen.header(name).map(str::to_owned);
    let authorization = header("authorization").ok_or("AccessDenied")?;
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("AuthorizationHeaderMalformed")?;
    let field = |name: &str| {
        fields.split(", ").find_map(|field| field.strip_prefix(name)).ok_or("AuthorizationHeaderMalformed")
    };
    let (found, scope) = field("Credential=")?.split_once('/').ok_or("AuthorizationHeaderMalformed")?;
    if found != id {
        return Err("InvalidAccessKeyId");
    }
    let date = header("x-amz-date").unwrap_or_default();
    let now = time::OffsetDateTime::now_utc();
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let then = time::PrimitiveDateTime::parse(&date, format).map_err(|_| "AccessDenied")?.assume_utc();
    if (now - then).abs() > time::Duration::minutes(15) {
        return Err("RequestTimeTooSkewed");
    }
    if scope != format!("{}/{region}/s3/aws4_request", &date[..8]) {
        return Err("AuthorizationHeaderMalformed");
    }
    let signed = field("SignedHeaders=")?;
    let names: Vec<&str> = signed.split(';').collect();
    let mut own = seen.headers_text().to_lowercase();
    own.retain(|c| c != ' ');
    let must =
        own.lines().filter_map(|line| line.split(':').next()).filter(|name| name.starts_with("x-amz-"));
    if must.chain(["host"]).any(|name| !names.contains(&name)) {
        return Err("AccessDenied");
    }
    if header("x-amz-content-sha256") != Some(sha256(&seen.body)) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let request = Request { method: &seen.method, target: &seen.path, header: &header };
    match signature(&request, signed, scope, secret).as_deref() == Some(field("Signature=")?) {
        true => Ok(()),
        false => Err("SignatureDoesNotMatch"),
    }
}

/// The examples of Amazon's documentation.
#[test]
fn published_signatures() {
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let signed_by = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let mut all = headers.to_vec();
        all.extend([("host", "examplebucket.s3.amazonaws.com"), ("x-amz-date", "20130524T000000Z")]);
        all.sort();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let header =
            |name: &str| all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        signature(&Request { method, target, header: &header }, &names.join(";"), SCOPE, SECRET).unwrap()
    };
    assert_eq!(
        signed_by("GET", "/test.txt", &[("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY)]),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
    assert_eq!(
        signed_by(
            "PUT",
            "/test%24file.text",
            &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ("x-amz-content-sha256", &sha256(b"Welcome to Amazon S3.")),
            ]
        ),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
    assert_eq!(
        signed_by("GET", "/?lifecycle", &[("x-amz-content-sha256", EMPTY)]),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    );
    assert_eq!(
        signed_by("GET", "/?max-keys=2&prefix=J", &[("x-amz-content-sha256", EMPTY)]),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    );
}

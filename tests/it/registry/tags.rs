//! Lists of tags: in pages, without an end, and full of what is none.

use super::server::{Reply, Server};
use super::*;

fn page(tags: &[&str], next: Option<&str>) -> Reply {
    let reply = Reply::new(200).json(&serde_json::json!({ "name": "a", "tags": tags }).to_string());
    match next {
        Some(next) => reply.header("Link", format!("<{next}>; rel=\"next\"")),
        None => reply,
    }
}

#[tokio::test]
async fn pages_are_put_together() {
    let server = Server::start(|seen| match seen.path.split_once("last=").map(|(_, last)| last) {
        None => page(&["a", "b"], Some("/v2/ns/a/tags/list?n=2&last=b")),
        Some("b") => page(&["c", "-bad", "no tag", "\u{1b}[31m", "d"], Some("?n=2&last=d")),
        Some(_) => page(&["e"], None),
    });
    let name = reference(&server.host(), "ns/a");
    assert_eq!(client().tags(&name, None).await.unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(server.lines()[0], "GET /v2/ns/a/tags/list?n=1000");
    assert_eq!(server.lines()[2], "GET /v2/ns/a/tags/list?n=2&last=d");
    // No more is asked for than is wanted.
    let asked = server.seen().len();
    assert_eq!(client().tags(&name, Some(2)).await.unwrap(), ["a", "b"]);
    assert_eq!(client().tags(&name, Some(3)).await.unwrap(), ["a", "b", "c"]);
    assert_eq!(server.seen().len(), asked + 3);
}

#[tokio::test]
async fn lists_without_an_end_end() {
    // The same page again and again, and one that is empty and links on.
    let server = Server::start(|_| page(&["a"], Some("/v2/a/tags/list?last=a")));
    let error = client().tags(&reference(&server.host(), "a"), None).await.unwrap_err().to_string();
    assert!(error.contains("do not end") && server.seen().len() < 5, "{error}");
    let server = Server::start(|_| page(&[], Some("/v2/a/tags/list?last=a")));
    assert!(client().tags(&reference(&server.host(), "a"), None).await.unwrap().is_empty());
    let server = Server::start(|_| Reply::new(200).endless());
    let error = client().tags(&reference(&server.host(), "a"), None).await.unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");
}

#[tokio::test]
async fn what_is_no_list_is_told() {
    for (body, want) in
        [("{}", Ok(())), (r#"{"tags":null}"#, Ok(())), ("[1]", Err("not the JSON")), ("<", Err("JSON"))]
    {
        let server = Server::start(move |_| Reply::new(200).json(body));
        let found = client().tags(&reference(&server.host(), "a"), None).await;
        match want {
            Ok(()) => assert!(found.unwrap().is_empty(), "{body}"),
            Err(text) => assert!(found.unwrap_err().to_string().contains(text), "{body}"),
        }
    }
    let server = Server::start(|_| Reply::new(404));
    let error = client().tags(&reference(&server.host(), "ns/a"), None).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("list the tags of"), "{error}");
}

#[tokio::test]
async fn a_link_elsewhere_gets_no_credentials() {
    let elsewhere = Server::start_on([127, 0, 0, 2], None, |_| page(&["z"], None));
    let link = format!("http://{}/v2/a/tags/list", elsewhere.host());
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => page(&["a"], Some(&link)),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic"),
    });
    let client = client_with_password(&[&server.host(), &elsewhere.host()]);
    assert_eq!(client.tags(&reference(&server.host(), "a"), None).await.unwrap(), ["a", "z"]);
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
}

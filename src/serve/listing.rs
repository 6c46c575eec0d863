//! Lists: repositories, tags, and what is about a manifest. Each comes in pages if asked, or if it is long;
//! `Link` says where to go on.

use std::collections::BTreeSet;

use hyper::header::{CONTENT_TYPE, HeaderValue, LINK};
use hyper::{Response, StatusCode};

use super::answer::{Body, Call, Registry, empty, full, header};
use super::name::Repository;
use super::refusal::Refusal;
use super::route::{encode, query};
use crate::digest::BlobDigest;
use crate::image::{Descriptor, OCI_INDEX};

/// A page of referrers is no larger, since clients read no larger manifests.
const REFERRERS_PAGE: usize = 2 << 20;

impl Registry {
    /// `/v2/_catalog`
    pub(super) async fn catalog(&self, call: Call) -> Result<Response<Body>, Refusal> {
        let all = self.on_disk(|storage| storage.repositories()).await?;
        let page = Page::of(&call, &all)?;
        let json = serde_json::json!({"repositories": page.items});
        Ok(listed(json, page.link("/v2/_catalog"), "application/json"))
    }

    /// `…/tags/list`
    pub(super) async fn tags(&self, name: Repository, call: Call) -> Result<Response<Body>, Refusal> {
        let from = name.clone();
        let all = self.on_disk(move |storage| storage.tags(&from)).await?;
        let all = all.ok_or_else(|| Refusal::unknown_repository(name.as_str()))?;
        let page = Page::of(&call, &all)?;
        let json = serde_json::json!({"name": name.as_str(), "tags": page.items});
        Ok(listed(json, page.link(&format!("/v2/{name}/tags/list")), "application/json"))
    }

    /// `…/referrers/<digest>`: an index, empty for what is not known.
    pub(super) async fn referrers(
        &self,
        name: Repository,
        subject: BlobDigest,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let [kind, last] = query(call.query(), ["artifactType", "last"])?;
        let from = name.clone();
        let mut all = self.on_disk(move |storage| storage.referrers(&from, subject)).await?;
        all.sort_by_key(|descriptor| descriptor.digest);
        all.dedup_by_key(|descriptor| descriptor.digest);
        if let Some(last) = &last {
            all.retain(|descriptor| descriptor.digest.to_string() > *last);
        }
        if let Some(kind) = &kind {
            all.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(kind));
        }
        let (page, more) = fitting(all);
        let link = more.map(|last| {
            let kind =
                kind.as_deref().map(|kind| format!("artifactType={}&", encode(kind))).unwrap_or_default();
            format!("</v2/{name}/referrers/{subject}?{kind}last={last}>; rel=\"next\"")
        });
        let json = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page});
        let mut response = listed(json, link, OCI_INDEX);
        if kind.is_some() {
            header(&mut response, "oci-filters-applied", "artifactType");
        }
        Ok(response)
    }
}

/// As many as a page holds, and the last of them if there are more.
fn fitting(mut all: Vec<Descriptor>) -> (Vec<Descriptor>, Option<crate::digest::Digest>) {
    let mut size = 0;
    let many = all.iter().position(|descriptor| {
        size += serde_json::to_string(descriptor).map_or(0, |text| text.len() + 1);
        size > REFERRERS_PAGE
    });
    let Some(many) = many else { return (all, None) };
    // One is at most as long as the manifest that its annotations come from.
    all.truncate(many.max(1));
    let last = all.last().map(|descriptor| descriptor.digest);
    (all, last)
}

/// A part of a sorted list.
#[derive(Debug)]
struct Page<'a> {
    items: Vec<&'a str>,
    /// How many were asked for, if there are more.
    more: Option<usize>,
}

impl<'a> Page<'a> {
    fn of(call: &Call, all: &'a BTreeSet<String>) -> Result<Self, Refusal> {
        let [n, last] = query(call.query(), ["n", "last"])?;
        let bad = || {
            Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "`n` is no number of entries")
        };
        let n = n.map(|n| n.parse::<usize>().map_err(|_| bad())).transpose()?;
        Ok(Self::cut(all, n, last.as_deref()))
    }

    fn cut(all: &'a BTreeSet<String>, n: Option<usize>, last: Option<&str>) -> Self {
        use std::ops::Bound;
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = all.range::<str, _>((after, Bound::Unbounded)).map(String::as_str);
        let items: Vec<&str> = rest.by_ref().take(n.unwrap_or(usize::MAX)).collect();
        let more = n.filter(|_| !items.is_empty() && rest.next().is_some());
        Self { items, more }
    }

    fn link(&self, path: &str) -> Option<String> {
        let (n, last) = (self.more?, self.items.last()?);
        Some(format!("<{path}?n={n}&last={}>; rel=\"next\"", encode(last)))
    }
}

fn listed(json: serde_json::Value, link: Option<String>, kind: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(link) = link {
        header(&mut response, LINK.as_str(), &link);
    }
    *response.body_mut() = full(json.to_string().into_bytes());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn pages() {
        let all: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let cut = |n, last| {
            let page = Page::cut(&all, n, last);
            (page.items.clone(), page.link("/p"))
        };
        assert_eq!(cut(None, None), (vec!["a", "b", "c"], None));
        assert_eq!(cut(Some(2), None), (vec!["a", "b"], Some("</p?n=2&last=b>; rel=\"next\"".to_owned())));
        assert_eq!(cut(Some(2), Some("b")), (vec!["c"], None));
        assert_eq!(cut(Some(1), Some("b")), (vec!["c"], None));
        assert_eq!(cut(Some(0), None), (vec![], None));
        assert_eq!(cut(Some(5), Some("aa")), (vec!["b", "c"], None));
        assert_eq!(cut(None, Some("z")), (vec![], None));
    }

    #[test]
    fn many_referrers_come_in_pages() {
        let one = |number: u32| {
            let mut descriptor = Descriptor::new(OCI_INDEX.into(), Digest::of(&number.to_le_bytes()), 1);
            descriptor.annotations = Some([("a".to_owned(), "x".repeat(100_000))].into());
            descriptor
        };
        let all: Vec<Descriptor> = (0..50).map(one).collect();
        let (page, more) = fitting(all.clone());
        assert!(page.len() < 25 && more == page.last().map(|last| last.digest));
        assert_eq!(fitting(all[..3].to_vec()), (all[..3].to_vec(), None));
    }
}

//! The tags of a repository, however many pages a registry makes of them.

use std::collections::HashSet;

use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};

use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull};
use super::endpoint::{Endpoint, follow};
use super::error::{Failure, RegistryError};
use super::transport::Answer;

/// The longest page. Some registries know no pages, and send everything at once.
const PAGE_LIMIT: u64 = 32 << 20;
/// How many tags are asked for at a time.
const PAGE: usize = 1_000;
/// The most pages that are read; one that has an end ends before.
const PAGES: usize = 10_000;
/// The most tags that are listed.
const TAG_LIMIT: usize = 1_000_000;

impl Client {
    /// The tags of the reference's repository, as the registry orders them; at most `limit` if that is
    /// given. What is no tag by the specification's grammar is left out.
    ///
    /// The registry itself is asked, and its mirrors only if it cannot be reached: a mirror often
    /// knows nothing but what was once pulled through it.
    ///
    /// Source: OCI distribution specification, "Listing Tags".
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is no such repository; see [`Failure`] for the others.
    pub async fn tags(
        &self,
        repository: &Reference,
        limit: Option<usize>,
    ) -> Result<Vec<String>, RegistryError> {
        let doing = || format!("list the tags of `{}`", repository.familiar_repository());
        let endpoints = self.readable(repository).map_err(|failure| failure.of(doing()))?;
        let limit = limit.unwrap_or(TAG_LIMIT).min(TAG_LIMIT);
        let mut first = None;
        for endpoint in endpoints.iter().rev() {
            match self.tags_at(endpoint, repository, limit).await {
                Ok(tags) => return Ok(tags),
                Err(failure @ Failure::NotFound { .. }) => return Err(failure.of(doing())),
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        Err(first.expect("the registry itself is always among the endpoints").of(doing()))
    }

    async fn tags_at(
        &self,
        endpoint: &Endpoint,
        repository: &Reference,
        limit: usize,
    ) -> Result<Vec<String>, Failure> {
        #[derive(serde::Deserialize)]
        struct List {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let path = endpoint.repository(repository);
        let mut tags = Vec::new();
        let mut next = Some(Target::Path(format!("{path}/tags/list?n={}", limit.min(PAGE))));
        let mut seen = HashSet::new();
        while let Some(target) = next.take() {
            if let Target::Location(url) = &target
                && (seen.len() == PAGES || !seen.insert(url.clone()))
            {
                return Err(protocol(endpoint, "the pages of its list of tags do not end"));
            }
            let answer = self.call(endpoint, &Ask::new(Method::GET, target, vec![pull(&path)])).await?;
            if answer.status() != StatusCode::OK {
                return Err(answer.failure(&endpoint.account, "such repository").await);
            }
            let link = next_page(&answer)?;
            let bytes = answer.bytes("the list of tags", PAGE_LIMIT).await?;
            let list: List = serde_json::from_slice(&bytes)
                .map_err(|_| protocol(endpoint, "the list of tags is not the JSON of one"))?;
            let before = tags.len();
            let fine =
                list.tags.unwrap_or_default().into_iter().filter(|tag| repository.with_tag(tag).is_ok());
            tags.extend(fine.take(limit - before));
            // A page with nothing on it ends the list too: some registries link on for ever.
            next = link.filter(|_| before < tags.len() && tags.len() < limit).map(Target::Location);
        }
        Ok(tags)
    }
}

/// Where a list goes on: the `Link` whose relation is `next` (RFC 8288), if there is one.
pub(super) fn next_page(answer: &Answer) -> Result<Option<Url>, Failure> {
    let links = answer.headers(LINK);
    let Some(target) = links.iter().find_map(|link| next_of(link)) else { return Ok(None) };
    let refused = |reason| Failure::Redirect { host: answer.host(), reason };
    follow(&answer.url, target).map(Some).map_err(refused)
}

/// The target of `<target>; rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    });
    // A few registries write no relation at all, where there is one link only.
    (is_next || parameters.trim().is_empty()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page() {
        for (link, want) in [
            ("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b")),
            ("<x>;rel=next", Some("x")),
            ("<x>; title=\"y\"; REL=\"Next\"", Some("x")),
            ("<x>", Some("x")),
            ("<x>; rel=\"prev\"", None),
            ("x; rel=\"next\"", None),
            ("<x", None),
            ("", None),
        ] {
            assert_eq!(next_of(link), want, "{link}");
        }
    }
}

//! Manifests and tags that are to be there no more.

use reqwest::{Method, StatusCode};

use crate::reference::Reference;

use super::client::{Ask, Client, Target, shown_name};
use super::error::{Failure, RegistryError};

impl Client {
    /// Deletes what a name stands for: the manifest if it has a digest, and with it all of its tags;
    /// otherwise the tag alone. Blobs go when the registry next collects what nothing names.
    ///
    /// Source: OCI distribution specification, "Deleting tags", "Deleting Manifests".
    ///
    /// # Errors
    /// [`Failure::NotFound`] if it is not there; [`Failure::Unsupported`] if the registry deletes no such
    /// thing; see [`Failure`] for the others.
    pub async fn delete(&self, reference: &Reference) -> Result<(), RegistryError> {
        let delete = async {
            let endpoint = self.origin(reference.registry())?;
            let repository = endpoint.repository(reference);
            let name = match reference.digest() {
                Some(digest) => digest.to_string(),
                None => reference.tag().unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
            };
            let target = Target::Path(format!("{repository}/manifests/{name}"));
            let scope = format!("repository:{repository}:pull,push,delete");
            let answer = self.call(&endpoint, &Ask::new(Method::DELETE, target, vec![scope])).await?;
            let status = answer.status();
            if status.is_success() {
                answer.finish().await;
                return Ok(());
            }
            // Registries that know digests alone take a tag for a bad one.
            let by_tag = reference.digest().is_none() && status == StatusCode::BAD_REQUEST;
            if by_tag || matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
                let what = if reference.digest().is_some() { "manifests" } else { "tags" };
                return Err(Failure::Unsupported { registry: endpoint.account, what });
            }
            Err(answer.failure(&endpoint.account, "such image or tag").await)
        };
        delete.await.map_err(|failure: Failure| failure.of(format!("delete `{}`", shown_name(reference))))
    }
}

//! Who we are to Amazon: from attributes, variables, shared files, or a service to ask.

use std::fmt;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::{CacheSpecError, Secret, Settings, Surroundings};

/// An access key.
#[derive(Clone)]
pub(super) struct Keys {
    id: String,
    secret: Secret,
    token: Option<Secret>,
}

/// How to prove who we are.
pub(super) enum Found {
    Keys(Keys),
    /// Some service gives keys that pass: the library's settings for it.
    Service(Vec<(AmazonS3ConfigKey, String)>),
}

/// What the shared files say.
#[derive(Default)]
pub(super) struct Profile {
    name: String,
    keys: Option<Keys>,
    pub(super) region: Option<String>,
    /// Settings that would need a program or a login of Amazon's own.
    foreign: Option<&'static str>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Found")
    }
}

impl Found {
    /// What no message may repeat.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::Keys(keys) => {
                [Some(keys.secret.clone()), keys.token.clone()].into_iter().flatten().collect()
            }
            Self::Service(_) => Vec::new(),
        }
    }

    pub(super) fn apply(self, mut builder: AmazonS3Builder) -> AmazonS3Builder {
        match self {
            Self::Keys(keys) => {
                builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret.reveal());
                match keys.token {
                    Some(token) => builder.with_token(token.reveal()),
                    None => builder,
                }
            }
            Self::Service(settings) => {
                settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value))
            }
        }
    }
}

/// Where keys are, if they are anywhere. A service of Amazon's is asked only for Amazon's own storage.
pub(super) fn find(
    settings: &Settings<'_>,
    surroundings: &Surroundings,
    profile: Profile,
    is_elsewhere: bool,
) -> Result<Found, CacheSpecError> {
    let variable = |name: &str| surroundings.variable(name);
    let given = ["access_key_id", "secret_access_key", "session_token"].map(|name| settings.get(name));
    if let Some(keys) = keys(settings, given)? {
        return Ok(Found::Keys(keys));
    }
    let set = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(variable);
    if let Some(keys) = keys(settings, set)? {
        return Ok(Found::Keys(keys));
    }
    let service = |keys: &[(AmazonS3ConfigKey, &str)]| {
        let set = keys.iter().filter_map(|(key, name)| Some((*key, variable(name)?.to_owned()))).collect();
        Ok(Found::Service(set))
    };
    if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && variable("AWS_ROLE_ARN").is_some() {
        return service(&[
            (AmazonS3ConfigKey::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE"),
            (AmazonS3ConfigKey::RoleArn, "AWS_ROLE_ARN"),
            (AmazonS3ConfigKey::RoleSessionName, "AWS_ROLE_SESSION_NAME"),
        ]);
    }
    if let Some(keys) = profile.keys {
        return Ok(Found::Keys(keys));
    }
    if let Some(foreign) = profile.foreign {
        let reason = format!(
            "the profile `{}` gets its keys by `{foreign}`, which is not supported; \
             `aws configure export-credentials --format env` gives them as variables",
            profile.name
        );
        return Err(CacheSpecError::Setup { kind: "s3", reason });
    }
    if variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some() {
        return service(&[(
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        )]);
    }
    if variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some() {
        return service(&[
            (AmazonS3ConfigKey::ContainerCredentialsFullUri, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            (AmazonS3ConfigKey::ContainerAuthorizationTokenFile, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        ]);
    }
    let is_disabled =
        variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match is_elsewhere || is_disabled {
        true => Err(settings.missing("access_key_id")),
        false => Ok(Found::Service(Vec::new())),
    }
}

/// The keys that these are: none if neither is there. They end up in headers, so nothing else than
/// visible characters can be in them.
fn keys(
    settings: &Settings<'_>,
    [id, secret, token]: [Option<&str>; 3],
) -> Result<Option<Keys>, CacheSpecError> {
    let (id, secret) = match (id, secret) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(settings.missing("access_key_id")),
        (Some(_), None) => return Err(settings.missing("secret_access_key")),
        (Some(id), Some(secret)) => (id, secret),
    };
    for (name, value) in
        [("access_key_id", Some(id)), ("secret_access_key", Some(secret)), ("session_token", token)]
    {
        if value.is_some_and(|value| !value.bytes().all(|c| c.is_ascii_graphic())) {
            return Err(settings.wrong(name, "…", "visible characters only"));
        }
    }
    Ok(Some(Keys { id: id.to_owned(), secret: Secret::new(secret), token: token.map(Secret::new) }))
}

/// The profile that counts, from the shared files.
///
/// # Errors
/// If one was asked for that is in neither of them.
pub(super) fn profile(
    settings: &Settings<'_>,
    surroundings: &Surroundings,
) -> Result<Profile, CacheSpecError> {
    let asked = surroundings.variable("AWS_PROFILE");
    let name = asked.unwrap_or("default").to_owned();
    let credentials = surroundings.aws_credentials.as_deref().unwrap_or_default();
    let config = surroundings.aws_config.as_deref().unwrap_or_default();
    let mut found = section(credentials, |title| title == name);
    let own = |title: &str| match title.strip_prefix("profile ") {
        Some(rest) => rest.trim() == name,
        None => name == "default" && title == name,
    };
    let stated = section(config, own);
    if asked.is_some() && found.is_empty() && stated.is_empty() {
        let reason = format!("`AWS_PROFILE={name}`: no shared file has such a profile");
        return Err(CacheSpecError::Setup { kind: "s3", reason });
    }
    // What the file of credentials says comes first.
    found.extend(stated);
    let get = |wanted: &str| found.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    let keys = keys(settings, ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"].map(get))?;
    const FOREIGN: [&str; 5] =
        ["sso_session", "sso_start_url", "credential_process", "role_arn", "login_session"];
    let foreign = FOREIGN.into_iter().find(|name| get(name).is_some());
    Ok(Profile { name, keys, region: get("region").map(str::to_owned), foreign })
}

/// The settings of the first section whose title is wanted.
fn section(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = wanted(title.trim());
        } else if inside
            && !trimmed.starts_with(['#', ';'])
            // An indented line belongs to the setting above it.
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = trimmed.split_once('=')
            && !value.trim().is_empty()
        {
            found.push((key.trim(), value.trim()));
        }
    }
    found
}

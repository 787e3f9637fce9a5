//! Stores behind a network: their URLs, their settings in the environment, and whether they can be used.
//!
//! 1. The URL names a bucket (or container) and a folder in it, nothing else. Credentials in a URL would end up in logs and
//!    in `ps`, so they are refused.
//! 2. Everything else comes from the environment, by the names that the service's own tools use: `AWS_...`,
//!    `GOOGLE_...`, `AZURE_...`. Missing or contradictory settings are reported at once, before any request.
//! 3. The store is checked for creating objects only if they are absent: see [`super::probe`]. So credentials,
//!    permissions and the bucket are checked too, before the first client comes.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
    prefix::PrefixStore,
};

use super::{
    Patience, Store, StoreError,
    error::{brief, is_about_the_bucket, is_refusal, is_transport},
    marker,
    probe::{self, Creates},
};

/// If a server does not accept a connection within this time, the next attempt begins.
const CONNECT_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    S3,
    Google,
    Azure,
}

/// The part of a URL after the scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    bucket: String,
    /// Of Azure, if the URL has it: `az://CONTAINER@ACCOUNT`.
    account: Option<String>,
    prefix: Path,
}

impl Place {
    pub(super) fn parse(service: Service, text: &str) -> Result<Place, StoreError> {
        let scheme = service.scheme();
        let article = if service == Service::Google { "a" } else { "an" };
        let refuse = |problem: &str| Err(StoreError::Url(format!("{article} {scheme} URL {problem}")));
        if text.contains(['?', '#']) {
            return refuse("has no options: they are read from the environment");
        }
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let (bucket, account) = match host.split_once('@') {
            Some((container, account)) if service == Service::Azure && !container.contains(':') => {
                (container, Some(account.to_owned()))
            }
            Some(_) => return refuse("holds no credentials: they are read from the environment"),
            None => (host, None),
        };
        if bucket.is_empty() || account.as_deref() == Some("") {
            return refuse(&format!("needs a bucket, as in {scheme}bucket/folder"));
        }
        match Path::parse(prefix.trim_end_matches('/')) {
            Ok(prefix) => Ok(Place { bucket: bucket.to_owned(), account, prefix }),
            Err(_) => refuse("names a folder without empty parts, `.` and `..`"),
        }
    }
}

impl Service {
    fn scheme(self) -> &'static str {
        match self {
            Service::S3 => "s3://",
            Service::Google => "gs://",
            Service::Azure => "az://",
        }
    }

    /// The sources of the credentials.
    fn credentials(self) -> &'static str {
        match self {
            Service::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
            Service::Google => "GOOGLE_SERVICE_ACCOUNT (the path of a key file), or the machine's service account",
            Service::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the machine's identity",
        }
    }

    /// The variable that allows connections that are not encrypted.
    fn allows_http(self) -> &'static str {
        match self {
            Service::S3 => "AWS_ALLOW_HTTP",
            Service::Google => "GOOGLE_ALLOW_HTTP",
            Service::Azure => "AZURE_ALLOW_HTTP",
        }
    }

    /// The variables that locate the service.
    fn endpoint(self) -> &'static str {
        match self {
            Service::S3 => "AWS_ENDPOINT_URL and AWS_REGION",
            Service::Google => "GOOGLE_BASE_URL",
            Service::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ENDPOINT",
        }
    }
}

/// Opens the store, and asks it whether it is fit for it.
pub(super) fn open(
    service: Service,
    url: &str,
    place: Place,
    writable: bool,
    prefix: &str,
) -> Result<Store, StoreError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let environment = within(environment, prefix);
    let address = address(url, &environment);
    let objects = connect(service, url, place, environment.into_iter())?;
    let store = Store { writable, ..Store::over_network(objects, url, Patience::default())? };
    check(service, &store, address)?;
    Ok(store)
}

/// The variables that begin with `prefix`, without it; all if there are none. The settings of two stores are never mixed.
fn within(environment: Vec<(String, String)>, prefix: &str) -> Vec<(String, String)> {
    let own = |(name, value): &(String, String)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()));
    let found: Vec<(String, String)> = environment.iter().filter_map(own).collect();
    if found.is_empty() { environment } else { found }
}

/// A number that stands for the store's location: its URL, and its endpoint in the environment.
fn address(url: &str, environment: &[(String, String)]) -> u64 {
    let mut all = vec![url.to_owned()];
    all.extend(environment.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
        let name = name.to_ascii_uppercase();
        let is_service = ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|service| name.starts_with(service));
        let is_address = ["ENDPOINT", "BASE_URL", "ACCOUNT_NAME", "REGION", "EMULATOR"];
        let is_address = is_address.iter().any(|part| name.contains(part));
        (is_service && is_address).then(|| format!("{name}={value}"))
    }));
    all[1..].sort_unstable();
    rapidhash::v3::rapidhash_v3(all.join("\n").as_bytes())
}

/// The store as the environment describes it. Sends no request.
fn connect(
    service: Service,
    url: &str,
    place: Place,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let unusable = |problem: String| StoreError::Unusable { url: url.to_owned(), problem };
    let refused = |error: object_store::Error| unusable(brief(&error));
    let client = ClientOptions::new().with_connect_timeout(CONNECT_LIMIT).with_timeout_disabled();
    // All that is tried again is tried again in one place: see `requests`.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let settings =
        environment.map(|(name, value)| (name.to_ascii_lowercase(), value)).filter(|(_, value)| !value.is_empty());
    let prefix = place.prefix;
    match service {
        Service::S3 => {
            let builder = settings
                .filter(|(name, _)| name.starts_with("aws_"))
                .filter_map(|(name, value)| Some((name.parse::<AmazonS3ConfigKey>().ok()?, value)))
                .fold(AmazonS3Builder::new().with_client_options(client), |builder, (key, value)| {
                    builder.with_config(key, value)
                })
                .with_retry(retry)
                .with_bucket_name(place.bucket);
            contradictions(&builder).map_err(unusable)?;
            Ok(Arc::new(PrefixStore::new(builder.build().map_err(refused)?, prefix)))
        }
        Service::Google => {
            let builder = settings
                .filter(|(name, _)| name.starts_with("google_") || name == "service_account")
                .filter_map(|(name, value)| Some((name.parse::<GoogleConfigKey>().ok()?, value)))
                .fold(GoogleCloudStorageBuilder::new().with_client_options(client), |builder, (key, value)| {
                    builder.with_config(key, value)
                })
                .with_retry(retry)
                .with_bucket_name(place.bucket);
            let address = builder.get_config_value(&GoogleConfigKey::BaseUrl).unwrap_or_default();
            let allowed = builder.get_config_value(&GoogleConfigKey::Client(ClientConfigKey::AllowHttp));
            if address.starts_with("http://") && allowed.as_deref() != Some("true") {
                return Err(unusable(not_encrypted(service)));
            }
            Ok(Arc::new(PrefixStore::new(builder.build().map_err(refused)?, prefix)))
        }
        Service::Azure => {
            let mut builder = settings
                .filter(|(name, _)| name.starts_with("azure_"))
                .filter_map(|(name, value)| Some((name.parse::<AzureConfigKey>().ok()?, value)))
                .fold(MicrosoftAzureBuilder::new().with_client_options(client), |builder, (key, value)| {
                    builder.with_config(key, value)
                })
                .with_retry(retry)
                .with_container_name(place.bucket);
            if let Some(account) = place.account {
                builder = builder.with_account(account);
            }
            let emulated = builder.get_config_value(&AzureConfigKey::UseEmulator).as_deref() == Some("true");
            if !emulated && builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
                return Err(unusable("no account is named: set AZURE_STORAGE_ACCOUNT_NAME".to_owned()));
            }
            Ok(Arc::new(PrefixStore::new(builder.build().map_err(refused)?, prefix)))
        }
    }
}

fn not_encrypted(service: Service) -> String {
    let option = service.allows_http();
    format!("the endpoint is not encrypted: set {option}=true to allow that, or use https://")
}

/// Refuses settings that cannot work, in words to act on.
fn contradictions(builder: &AmazonS3Builder) -> Result<(), String> {
    let value = |key| builder.get_config_value(&key);
    let keys = (value(AmazonS3ConfigKey::AccessKeyId), value(AmazonS3ConfigKey::SecretAccessKey));
    match keys {
        (Some(_), None) => return Err("AWS_ACCESS_KEY_ID is set, but not AWS_SECRET_ACCESS_KEY".to_owned()),
        (None, Some(_)) => return Err("AWS_SECRET_ACCESS_KEY is set, but not AWS_ACCESS_KEY_ID".to_owned()),
        _ => {}
    }
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    let Some(endpoint) = endpoint else { return Ok(()) };
    match endpoint.split_once("://") {
        Some(("https", _)) => Ok(()),
        Some(("http", _)) => {
            let allowed = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
            if allowed.as_deref() == Some("true") {
                return Ok(());
            }
            Err(not_encrypted(Service::S3))
        }
        _ => Err("AWS_ENDPOINT_URL needs a scheme, as in https://s3.example.com".to_owned()),
    }
}

/// Whether the store answers, lets us in, and, if it will be written, creates objects only if they are absent.
fn check(service: Service, store: &Store, address: u64) -> Result<(), StoreError> {
    let unusable = |problem: String| StoreError::Unusable { url: store.url().to_owned(), problem };
    let asked = store.clone();
    let requests = store.requests.as_ref().expect("a store behind a network has requests");
    // Of the system's randomness, by way of the standard library's hash keys.
    let fresh = RandomState::new().build_hasher().finish();
    let answer = requests.wait(async move {
        // Before anything is written.
        let found = marker::check(&asked).await?;
        if asked.writable {
            let creates = probe::look(&asked, address, fresh).await?;
            if creates.problem().is_none() {
                marker::claim(&asked, found).await?;
            }
            Ok(creates)
        } else {
            Ok(Creates::OnlyNew)
        }
    });
    match answer {
        Ok(Err(error @ StoreError::Newer { .. })) => Err(error),
        Ok(Ok(creates)) => creates.problem().map_or(Ok(()), |problem| Err(unusable(problem))),
        Ok(Err(error)) => Err(unusable(advice(service, &error))),
        Err(error) => Err(unusable(error.to_string())),
    }
}

fn advice(service: Service, error: &StoreError) -> String {
    let StoreError::Unavailable { source, .. } = error else { return error.to_string() };
    let text = brief(source);
    if is_refusal(source) {
        format!("{text}; it does not accept the credentials, or not for this: see {}", service.credentials())
    } else if is_about_the_bucket(&text) {
        format!("{text}; create it first")
    } else if text.contains("URL scheme is not allowed") {
        format!("{text}; {}", not_encrypted(service))
    } else if ["metadata", "credential", "identity", "token"].iter().any(|sign| text.contains(sign)) {
        format!("{text}; there are no credentials: set {}", service.credentials())
    } else if text.contains("certificate") {
        format!("{text}; its authority is not trusted: SSL_CERT_FILE can name a file with authorities")
    } else if is_transport(source) {
        format!("{text}; it cannot be reached: see {}", service.endpoint())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Environment = &'static [(&'static str, &'static str)];

    fn place(service: Service, text: &str) -> Place {
        Place::parse(service, text).unwrap()
    }

    #[test]
    fn urls_name_a_bucket_and_a_folder() {
        for (text, bucket, prefix) in
            [("b", "b", ""), ("b/", "b", ""), ("My_Bucket/a/b", "My_Bucket", "a/b"), ("b/a b/", "b", "a b")]
        {
            let place = place(Service::S3, text);
            assert_eq!((place.bucket.as_str(), place.prefix.as_ref()), (bucket, prefix));
        }
        let azure = place(Service::Azure, "container@account/a");
        assert_eq!((azure.bucket.as_str(), azure.account.as_deref()), ("container", Some("account")));
        for (service, text, problem) in [
            (Service::S3, "", "needs a bucket, as in s3://bucket/folder"),
            (Service::Google, "/a", "needs a bucket, as in gs://bucket/folder"),
            (Service::S3, "key:secret@b", "credentials"),
            (Service::S3, "key@b", "credentials"),
            (Service::Azure, "c:secret@account", "credentials"),
            (Service::S3, "b?secret=secret", "environment"),
            (Service::S3, "b/a//c", "empty parts"),
            (Service::S3, "b/../c", "empty parts"),
        ] {
            let error = Place::parse(service, text).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_store_with_variables_of_its_own_has_no_others() {
        let all = |pairs: Environment| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let shared = all(&[("AWS_REGION", "a"), ("AWS_SESSION_TOKEN", "t")]);
        assert_eq!(within(shared.clone(), "BACKUP_"), shared);
        let both = all(&[("AWS_SESSION_TOKEN", "t"), ("BACKUP_AWS_REGION", "b")]);
        assert_eq!(within(both.clone(), "BACKUP_"), all(&[("AWS_REGION", "b")]));
        assert_eq!(within(both.clone(), ""), both);
    }

    #[test]
    fn an_environment_that_cannot_work_is_explained() {
        let refusal = |service, text, environment: Environment| {
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let result = connect(service, "URL", place(service, text), environment);
            let error = result.map(drop).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.starts_with("cannot use the store URL: "), "{error}");
            error
        };
        let rows: [(Environment, &str); 6] = [
            (&[("AWS_ACCESS_KEY_ID", "k")], "but not AWS_SECRET_ACCESS_KEY"),
            (&[("AWS_SECRET_ACCESS_KEY", "hunter2")], "but not AWS_ACCESS_KEY_ID"),
            (&[("AWS_ENDPOINT", "http://127.0.0.1:1")], "AWS_ALLOW_HTTP=true"),
            (&[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")], "AWS_ALLOW_HTTP=true"),
            (&[("AWS_ENDPOINT_URL", "s3.example.com")], "needs a scheme"),
            (&[("AWS_ALLOW_HTTP", "perhaps")], "perhaps"),
        ];
        for (environment, problem) in rows {
            let error = refusal(Service::S3, "b", environment);
            assert!(error.contains(problem), "{error}");
        }
        assert!(refusal(Service::Azure, "c", &[]).contains("AZURE_STORAGE_ACCOUNT_NAME"));
        let error = refusal(Service::Google, "b", &[("GOOGLE_BASE_URL", "http://127.0.0.1:1")]);
        assert!(error.contains("set GOOGLE_ALLOW_HTTP=true"), "{error}");
        let error = refusal(Service::Google, "b", &[("GOOGLE_SERVICE_ACCOUNT", "/nonexistent/key.json")]);
        assert!(error.contains("/nonexistent/key.json"), "{error}");
    }

    #[test]
    fn a_complete_environment_connects_without_asking() {
        let google: Environment = &[
            ("GOOGLE_BASE_URL", "http://127.0.0.1:1"),
            ("GOOGLE_ALLOW_HTTP", "true"),
            ("GOOGLE_BEARER_TOKEN", "anything"),
        ];
        let rows: [(Service, &str, Environment); 5] = [
            (Service::Google, "b", google),
            (Service::S3, "b/a", &[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_ENDPOINT", "")]),
            (Service::S3, "b", &[("AWS_ENDPOINT_URL", "http://[::1]:1"), ("AWS_ALLOW_HTTP", "true")]),
            (Service::Azure, "c@account", &[("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")]),
            (Service::Azure, "c", &[("AZURE_STORAGE_USE_EMULATOR", "true")]),
        ];
        for (service, text, environment) in rows {
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            connect(service, "URL", place(service, text), environment).unwrap();
        }
    }

    #[test]
    fn an_address_is_the_url_and_the_endpoint() {
        let address = |url, environment: Environment| {
            let environment: Vec<_> =
                environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            address(url, &environment)
        };
        let one = address("s3://b", &[("AWS_ENDPOINT_URL", "http://a"), ("AWS_REGION", "eu")]);
        let same: Environment =
            &[("AWS_REGION", "eu"), ("AWS_SECRET_ACCESS_KEY", "s"), ("aws_endpoint_url", "http://a"), ("HOME", "/")];
        assert_eq!(address("s3://b", same), one);
        for (url, environment) in [("s3://c", same), ("s3://b", &same[..2])] {
            assert_ne!(address(url, environment), one);
        }
    }
}

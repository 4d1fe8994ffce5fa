//! Buckets: S3, Google Cloud Storage and Azure, by the names of their objects.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::{EntryMode, Operator, services};

use super::{BlobError, install_opendal, scheme, why};

/// The first wait before a page of names is asked for again; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// How long a page of names, or the place where blobs are stored, may be silent.
pub(super) const SILENT: Duration = Duration::from_secs(60);

/// An object, as a list tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Such as `s3://bucket/folder/a.jpg`.
    pub url: String,
    /// Its name within the folder that was listed, such as `a.jpg`.
    pub name: String,
}

/// The scheme, the bucket and the folder of a URL such as `s3://bucket/folder/`. It ends in a slash.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = scheme(url).filter(|(scheme, _)| matches!(*scheme, "s3" | "gs" | "az"))?;
    let (bucket, folder) = rest.trim_start_matches('/').split_once('/')?;
    (!bucket.is_empty() && (folder.is_empty() || folder.ends_with('/'))).then_some((scheme, bucket, folder))
}

/// Whether a URL names a bucket or a folder in one, and not an object.
pub fn is_folder(url: &str) -> bool {
    parts(url).is_some()
}

/// Refuses a bucket's folder whose name is not read as it is written.
///
/// # Errors
/// [`BlobError`] of kind `invalid_input`.
pub fn check_folder(url: &str) -> Result<(), BlobError> {
    parts(url).map_or(Ok(()), |(_, _, folder)| as_written(url, folder))
}

/// The objects in a folder of a bucket and in all folders within, in the order in which the service tells them; S3 and
/// the others sort by name. They are asked for page by page, as the stream is read.
///
/// # Errors
/// [`BlobError`] where the URL is none of a bucket's folder, the environment lacks something, and within the stream
/// where a page does not come, also when asked for again.
pub fn list(url: &str) -> Result<BoxStream<'static, Result<Object, BlobError>>, BlobError> {
    let Some((scheme, bucket, folder)) = parts(url) else {
        let hint = "it should be s3://bucket/folder/, gs://bucket/folder/ or az://container/folder/";
        return Err(BlobError::permanent("invalid_input", format!("{url} is no folder in a bucket; {hint}")));
    };
    as_written(url, folder)?;
    let failed = {
        let url = url.to_owned();
        move |error: opendal::Error| BlobError {
            kind: if error.kind() == opendal::ErrorKind::NotFound { "not_found" } else { "unreachable" },
            message: format!("cannot list {url}: {}", why(&error)),
            transient: error.is_temporary(),
            retry_after: None,
        }
    };
    let retry = RetryLayer::new().with_min_delay(FIRST_WAIT).with_jitter();
    let operator = operator(url, scheme, bucket, SILENT)?.map_err(&failed)?.layer(retry);
    let (start, folder) = (format!("{scheme}://{bucket}/"), folder.to_owned());
    let listing = async move {
        let lister = operator.lister_with(&folder).recursive(true).await.map_err(&failed)?;
        Ok(lister.filter_map(move |entry| {
            let object = match entry {
                Err(error) => Some(Err(failed(error))),
                Ok(entry) if entry.metadata().mode() != EntryMode::FILE => None,
                Ok(entry) => {
                    let name = entry.path().strip_prefix(&folder).unwrap_or_else(|| entry.path());
                    Some(Ok(Object { url: format!("{start}{}", entry.path()), name: name.to_owned() }))
                }
            };
            std::future::ready(object)
        }))
    };
    let stream = futures::stream::once(listing).flat_map(|listing| match listing {
        Ok(objects) => objects.boxed(),
        Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
    });
    Ok(stream.boxed())
}

/// Refuses a key or folder that opendal would read as another one: it drops what is empty between slashes, and spaces at
/// the ends.
///
/// # Errors
/// [`BlobError`] of kind `invalid_input`.
pub(super) fn as_written(url: &str, key: &str) -> Result<(), BlobError> {
    if key.is_empty() || !key.starts_with('/') && opendal::raw::normalize_path(key) == key {
        return Ok(());
    }
    let hint = "names with an empty part between slashes, or with spaces at an end, are not read: rename it";
    Err(BlobError::permanent("invalid_input", format!("{url}: {hint}")))
}

/// Ends what hears nothing for so long; it may be tried again.
pub(super) fn within(silent: Duration) -> TimeoutLayer {
    TimeoutLayer::new().with_timeout(silent).with_io_timeout(silent)
}

/// What speaks to a bucket, which may be silent for so long. Credentials and endpoints come from the environment, by each
/// provider's own names.
pub(super) fn operator(
    location: &str,
    scheme: &str,
    bucket: &str,
    silent: Duration,
) -> Result<Result<Operator, opendal::Error>, BlobError> {
    install_opendal();
    let operator = match scheme {
        "s3" => Operator::new(services::S3::default().bucket(bucket)),
        "gs" => Operator::new(google(bucket)),
        "az" => {
            let endpoint = azure_endpoint()
                .map_err(|missing| BlobError::permanent("unreachable", format!("{location}: {missing}")))?;
            Operator::new(services::Azblob::default().container(bucket).endpoint(&endpoint))
        }
        _ => {
            let known = "file, http, https, s3, gs and az";
            return Err(BlobError::permanent("invalid_input", format!("{location}: {scheme}: is not among {known}")));
        }
    };
    Ok(operator.map(|operator| operator.layer(within(silent))))
}

/// What the environment says, where it says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Google's own clients know this one variable; where it is set they do not sign.
fn google(bucket: &str) -> services::Gcs {
    let service = services::Gcs::default().bucket(bucket);
    match variable("STORAGE_EMULATOR_HOST") {
        Some(host) if host.contains("://") => service.endpoint(&host).skip_signature(),
        Some(host) => service.endpoint(&format!("http://{host}")).skip_signature(),
        None => service,
    }
}

/// The endpoint of an account, for opendal reads the account's name and key from the environment, and this not.
pub(super) fn azure_endpoint() -> Result<String, &'static str> {
    let account = || ["AZBLOB_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_NAME"].into_iter().find_map(variable);
    let of_account = |account| format!("https://{account}.blob.core.windows.net");
    variable("AZBLOB_ENDPOINT")
        .or_else(|| account().map(of_account))
        .ok_or("set AZURE_STORAGE_ACCOUNT_NAME, or AZBLOB_ENDPOINT, to say whose container it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_ends_in_a_slash_names_a_folder() {
        assert_eq!(parts("s3://b/"), Some(("s3", "b", "")));
        assert_eq!(parts("gs://b/a/c/"), Some(("gs", "b", "a/c/")));
        for no in ["s3://b/a.jpg", "s3://b", "https://host/a/", "a/b/", "s3:///", "file:///a/"] {
            assert!(!is_folder(no), "{no}");
        }
    }

    #[test]
    fn what_would_be_read_as_another_name_is_refused() {
        for good in ["s3://b/", "s3://b/a/c/", "s3://b/a c/"] {
            check_folder(good).unwrap();
        }
        for bad in ["s3://b//", "s3://b//a/", "gs://b/a//", "az://b/a//c/", "s3://b/ a/"] {
            assert!(is_folder(bad), "{bad}");
            assert_eq!(check_folder(bad).unwrap_err().kind, "invalid_input", "{bad}");
            assert!(list(bad).is_err(), "{bad}");
        }
    }
}

//! The picture that a caller sends: as the file of a form, or as the body itself.

use axum::RequestExt as _;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};
use tidemill_core::blobs::{Blobs, inline};

use crate::http::body::whole;
use crate::http::problem::Problem;

/// The largest picture that is taken.
const MAX_BYTES: usize = 64 << 20;
/// The largest form. Before the first boundary a form is held in memory, so there must be an end; with a picture that is
/// too large it is read further than that, so that its sender hears of it.
pub(in crate::http) const MAX_FORM_BYTES: usize = 2 * MAX_BYTES;
/// Up to this size a picture travels within its message, which may have 16 MiB and is a third longer.
const MAX_INLINE_BYTES: usize = 8 << 20;
/// The field of a form that holds it.
const FIELD: &str = "image";
/// What is kept of the name that a caller gives it.
const MAX_NAME_CHARS: usize = 200;

/// A picture, as it came.
#[derive(Debug)]
pub(in crate::http) struct Picture {
    /// What the caller calls it.
    pub(super) name: String,
    bytes: Vec<u8>,
}

impl<S: Send + Sync> FromRequest<S> for Picture {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_ascii_lowercase();
        if media_type.starts_with("multipart/form-data") {
            let form = request.extract_with_state(state).await;
            return Self::of_form(form.map_err(|error: axum::extract::multipart::MultipartRejection| {
                Problem::bad_request(error.body_text())
            })?)
            .await;
        }
        if !media_type.starts_with("image/") && media_type != "application/octet-stream" {
            let detail = format!("send multipart/form-data with a file as `{FIELD}`, or the picture itself as image/…");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "media_type", "the body is of another type", detail));
        }
        let bytes = whole(request.into_body(), MAX_BYTES, "no larger picture is taken").await?;
        Self::new("picture", bytes.into())
    }
}

impl Picture {
    fn new(name: &str, bytes: Vec<u8>) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Err(Problem::bad_request("the picture is empty"));
        }
        Ok(Self { name: name.chars().take(MAX_NAME_CHARS).collect(), bytes })
    }

    async fn of_form(mut form: Multipart) -> Result<Self, Problem> {
        let mut picture = None;
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            match field.name() {
                Some(FIELD) if picture.is_none() => {
                    let name = field.file_name().unwrap_or("picture").to_owned();
                    picture = Some((name, read(field).await?));
                }
                Some(FIELD) => return Err(Problem::bad_request(format!("{FIELD}: one picture a request"))),
                name => {
                    let name = name.unwrap_or_default();
                    let detail =
                        format!("the form has a field {name:?}; it takes `{FIELD}`, and options behind the `?`");
                    return Err(Problem::bad_request(detail));
                }
            }
        }
        let (name, bytes) =
            picture.ok_or_else(|| Problem::bad_request(format!("the form has no field `{FIELD}` with the picture")))?;
        Self::new(&name, bytes)
    }

    /// Where a worker finds it: within the message, or among the blobs.
    pub(super) async fn source(self, blobs: Option<&Blobs>) -> Result<Box<str>, Problem> {
        if self.bytes.len() <= MAX_INLINE_BYTES {
            return Ok(inline(&self.bytes).into());
        }
        let blobs = blobs.ok_or_else(|| {
            let detail = format!("a picture of more than {MAX_INLINE_BYTES} bytes needs a place for blobs: blobs.url");
            Problem::too_large(detail)
        })?;
        let blob = blobs.put(self.bytes, "application/octet-stream", "bin").await?;
        Ok(format!("blob:{}", blob.blob).into())
    }
}

/// A field's bytes. One that is too large is read to its end, so that its sender hears of it.
async fn read(mut field: Field<'_>) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut is_too_large = false;
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        is_too_large |= bytes.len() + piece.len() > MAX_BYTES;
        if is_too_large {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&piece);
        }
    }
    if is_too_large {
        return Err(Problem::too_large(format!("{FIELD}: a picture has at most {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn broken(error: &MultipartError) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::too_large(format!("the form: it has at most {MAX_FORM_BYTES} bytes"));
    }
    Problem::bad_request(format!("the form: {}", error.body_text()))
}

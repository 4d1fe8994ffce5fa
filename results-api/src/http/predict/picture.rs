//! The picture that a caller sends: as the file of a form, or as the body itself.

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use tidemill_core::blobs::{Blobs, inline};

use crate::http::body::{Held, NoRoom, Room, counted, whole};
use crate::http::problem::Problem;

/// The largest picture that is taken.
const MAX_BYTES: usize = 64 << 20;
/// The largest form: a picture, and what stands around it. Before the first boundary a form is held in memory too.
pub(in crate::http) const MAX_FORM_BYTES: usize = MAX_BYTES + (64 << 10);
/// Up to this size a picture travels within its message, which may have 16 MiB and is a third longer.
const MAX_INLINE_BYTES: usize = 8 << 20;
/// The field of a form that holds it.
const FIELD: &str = "image";
/// What is kept of the name that a caller gives it.
const MAX_NAME_CHARS: usize = 200;

/// How a picture comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    AsForm,
    AsItIs,
}

/// A picture, as it came.
#[derive(Debug)]
pub(super) struct Picture {
    /// What the caller calls it.
    pub(super) name: String,
    /// The room that it takes.
    pub(super) held: Held,
    bytes: Vec<u8>,
}

impl Sent {
    /// As the head says; nothing of the body is read.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_ascii_lowercase();
        if media_type.starts_with("multipart/form-data") {
            return Ok(Self::AsForm);
        }
        if media_type.starts_with("image/") || media_type == "application/octet-stream" {
            return Ok(Self::AsItIs);
        }
        let detail = format!("send multipart/form-data with a file as `{FIELD}`, or the picture itself as image/…");
        Err(Problem::media_type(detail))
    }

    /// Reads the picture.
    pub(super) async fn read(self, request: Request, room: &Room) -> Result<Picture, Problem> {
        match self {
            Self::AsForm => Picture::of_request(request, room).await,
            Self::AsItIs => {
                let (bytes, held) = whole(request.into_body(), MAX_BYTES, "no larger picture is taken", room).await?;
                Picture::new("picture", bytes.into(), held)
            }
        }
    }
}

impl Picture {
    fn new(name: &str, bytes: Vec<u8>, held: Held) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Err(Problem::bad_request("the picture is empty"));
        }
        Ok(Self { name: name.chars().take(MAX_NAME_CHARS).collect(), held, bytes })
    }

    /// Of a form. All of it counts: also what is kept of it before its first boundary.
    async fn of_request(request: Request, room: &Room) -> Result<Self, Problem> {
        let held = room.held();
        let request = request.map(|body| counted(body, held.clone()));
        let form = Multipart::from_request(request, &()).await;
        let form = form.map_err(|error| Problem::bad_request(error.body_text()))?;
        match Self::of_form(form).await {
            Ok((name, bytes)) => Self::new(&name, bytes, held),
            Err(_) if held.was_refused() => Err(NoRoom.into()),
            Err(problem) => Err(problem),
        }
    }

    async fn of_form(mut form: Multipart) -> Result<(String, Vec<u8>), Problem> {
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
        picture.ok_or_else(|| Problem::bad_request(format!("the form has no field `{FIELD}` with the picture")))
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

/// A field's bytes.
async fn read(mut field: Field<'_>) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        if bytes.len() + piece.len() > MAX_BYTES {
            return Err(Problem::too_large(format!("{FIELD}: a picture has at most {MAX_BYTES} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn broken(error: &MultipartError) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail =
            format!("the form: it has at most {MAX_FORM_BYTES} bytes, and the picture in it at most {MAX_BYTES}");
        return Problem::too_large(detail);
    }
    Problem::bad_request(format!("the form: {}", error.body_text()))
}

//! Parses what clients send, either as a form with a picture or as JSON.

use std::sync::Arc;

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::serve::app::App;
use crate::serve::extraction_thread::Received;
use crate::serve::model_thread::Question;
use crate::serve::pictures::ImageKey;
use crate::serve::problem::Problem;

/// The default of `top_k`.
const TOP_K: usize = 5;

/// The maximum size of a JSON document in bytes: more than a batch of the longest questions needs, but small enough for
/// the documents of all connections to fit in memory together.
const MAX_JSON: usize = 512 << 10;

/// The maximum size of a text field of a form in bytes.
const MAX_TEXT: usize = 16 << 10;

/// A question as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with image_id or image, question and perhaps top_k")]
pub(super) struct JsonQuestion {
    /// An image of the split, by its id.
    image_id: Option<u64>,
    /// A picture that was sent before, by the name that an answer with details gave it.
    image: Option<String>,
    question: String,
    top_k: Option<u64>,
}

/// A form, read from the parts of `multipart/form-data`.
#[derive(Default)]
pub(super) struct Form {
    /// The picture that was sent, if any.
    received: Option<Received>,
    texts: Vec<(String, String)>,
}

/// Whether the body is a form rather than JSON.
pub(super) fn is_form(headers: &HeaderMap) -> Result<bool, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => Ok(true),
        "application/json" => Ok(false),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send multipart/form-data with image and question, or application/json with image_id and question",
        )),
    }
}

/// Reads a body of JSON.
pub(super) async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let too_large = || Problem::too_large(format!("JSON of more than {MAX_JSON} bytes"));
    let body = request.into_body();
    // A body that announces too large a size need not be read.
    if body.size_hint().lower() > MAX_JSON as u64 {
        return Err(too_large());
    }
    let body = Limited::new(body, MAX_JSON).collect().await.map_err(|error| match error.is::<LengthLimitError>() {
        true => too_large(),
        false => Problem::malformed("the body ends too early"),
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::unusable(error.to_string()),
        _ => Problem::malformed(format!("not JSON: {error}")),
    })
}

impl JsonQuestion {
    /// Finds the picture, and checks the other values.
    pub async fn find(self, app: &Arc<App>) -> Result<Question, Problem> {
        let key = match (self.image_id, &self.image) {
            (Some(image_id), None) => ImageKey::OfSplit(image_id),
            (None, Some(name)) => ImageKey::from_name(name)
                .ok_or_else(|| Problem::unusable("\"image\" is not a picture's name from an earlier answer"))?,
            _ => return Err(Problem::unusable("name one image: \"image_id\", or \"image\"")),
        };
        check_question(&self.question, app)?;
        let top_k = check_top_k(self.top_k)?;
        Ok(Question { image: key, picture: app.known(key).await?, text: self.question, top_k })
    }
}

impl Form {
    /// Reads a form. Its picture takes its share of the memory for pictures bit by bit as it arrives.
    pub async fn read(request: Request, app: &App) -> Result<Form, Problem> {
        let mut parts =
            Multipart::from_request(request, &()).await.map_err(|error| Problem::malformed(error.body_text()))?;
        let mut form = Form::default();
        while let Some(part) = parts.next_field().await.map_err(not_received)? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_picture = name == "image" && (part.file_name().is_some() || part.content_type().is_some());
            if form.texts.iter().any(|(known, _)| *known == name) || is_picture && form.received.is_some() {
                return Err(Problem::unusable(format!("{name:?} appears twice")));
            }
            if is_picture {
                form.received = Some(receive(part, app).await?);
            } else if ["image", "image_id", "question", "top_k", "answer", "model_answer", "right"].contains(&&*name) {
                form.texts.push((name, text_of(part).await?));
            } else {
                return Err(Problem::unusable(format!("there is no field {name:?}")));
            }
        }
        Ok(form)
    }

    /// A text field of the form.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find_map(|(known, text)| (known == name).then_some(text.as_str()))
    }

    /// A required text field.
    pub fn wanted(&self, name: &str) -> Result<&str, Problem> {
        self.text(name).ok_or_else(|| Problem::unusable(format!("{name:?} is missing")))
    }

    /// The question, if it can be asked.
    pub fn question(&self, app: &App) -> Result<&str, Problem> {
        let text = self.wanted("question")?;
        check_question(text, app)?;
        Ok(text)
    }

    /// Takes the picture out.
    pub fn take_picture(&mut self) -> Option<Received> {
        self.received.take()
    }

    /// The id of an image of the split, if the form names one.
    pub fn image_id(&self) -> Result<Option<u64>, Problem> {
        let whole = |text: &str| text.parse().map_err(|_| Problem::unusable("\"image_id\" is not a whole number"));
        self.text("image_id").map(whole).transpose()
    }

    /// The question of the form, with its picture.
    pub async fn find(mut self, app: &Arc<App>) -> Result<Question, Problem> {
        let text = self.question(app)?.to_owned();
        let top_k = self.text("top_k").map(|text| text.parse().map_err(|_| Problem::unusable(top_k_wanted())));
        let top_k = check_top_k(top_k.transpose()?)?;
        let (image, picture) = match (self.take_picture(), self.image_id()?, self.text("image")) {
            (Some(received), None, None) => app.sent(received).await?,
            (None, image_id, image) => {
                let image = image.map(str::to_owned);
                let question = JsonQuestion { image_id, image, question: text, top_k: Some(top_k as u64) };
                return question.find(app).await;
            }
            _ => return Err(Problem::unusable("name one image: a picture, \"image_id\", or \"image\"")),
        };
        Ok(Question { image, picture, text, top_k })
    }
}

/// Receives a picture.
async fn receive(mut part: Field<'_>, app: &App) -> Result<Received, Problem> {
    let mut received = Received { bytes: Vec::new(), share: None };
    while let Some(chunk) = part.chunk().await.map_err(not_received)? {
        if received.bytes.len() + chunk.len() > app.limits.picture_bytes {
            let most = app.limits.picture_bytes;
            return Err(Problem::too_large(format!("the picture has more than {most} bytes: scale it down")));
        }
        let share = app.share(chunk.len())?;
        match &mut received.share {
            Some(held) => held.merge(share),
            None => received.share = Some(share),
        }
        received.bytes.extend_from_slice(&chunk);
    }
    if received.bytes.is_empty() {
        return Err(Problem::unusable("\"image\" is empty"));
    }
    Ok(received)
}

async fn text_of(mut part: Field<'_>) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(not_received)? {
        if bytes.len() + chunk.len() > MAX_TEXT {
            return Err(Problem::too_large(format!("a field of more than {MAX_TEXT} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Problem::malformed("a text field is not UTF-8"))
}

fn not_received(error: MultipartError) -> Problem {
    Problem::new(error.status(), error.body_text())
}

fn check_question(text: &str, app: &App) -> Result<(), Problem> {
    let most = app.limits.question_chars;
    if text.trim().is_empty() {
        return Err(Problem::unusable("the question is empty"));
    }
    if text.len() > 4 * most || text.chars().count() > most {
        return Err(Problem::unusable(format!("the question has more than {most} characters")));
    }
    Ok(())
}

fn check_top_k(top_k: Option<u64>) -> Result<usize, Problem> {
    match top_k {
        None => Ok(TOP_K),
        Some(top_k @ 1..=1000) => Ok(top_k as usize),
        Some(_) => Err(Problem::unusable(top_k_wanted())),
    }
}

fn top_k_wanted() -> &'static str {
    "\"top_k\" must be a whole number from 1 to 1000"
}

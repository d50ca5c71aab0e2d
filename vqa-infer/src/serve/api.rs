//! The handlers of the HTTP API.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinError, spawn_blocking};
use vqa_data::features::decode_image;

use crate::answerer::Reply;
use crate::error;
use crate::serve::app::App;
use crate::serve::collector::{NotKept, Verdict};
use crate::serve::model_thread::Question;
use crate::serve::pictures::{ImageKey, Picture};
use crate::serve::problem::{Problem, json};
use crate::serve::request::{Form, JsonQuestion, is_form, read_json};
use crate::serve::thumbnail::{thumbnail, whole_picture};

type Shared = State<Arc<App>>;

/// The query of a request, or why it cannot be parsed.
type QueryOf<T> = Result<Query<T>, QueryRejection>;

/// The parameter in a path, or why it cannot be parsed.
type PathOf<T> = Result<Path<T>, PathRejection>;

fn of_query<T>(query: QueryOf<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|rejection| Problem::malformed(rejection.body_text()))
}

/// `?details=1`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct DetailsQuery {
    #[serde(default)]
    details: Option<String>,
}

impl DetailsQuery {
    fn details(&self) -> Result<bool, Problem> {
        match self.details.as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(Problem::unusable("\"details\" must be 0 or 1")),
        }
    }
}

/// An answer, in the shape of Hugging Face's pipeline.
#[derive(Debug, Serialize)]
struct Scored {
    answer: String,
    /// Its probability.
    score: f32,
}

/// An answer with where the model looked.
#[derive(Debug, Serialize)]
struct Detailed {
    answers: Vec<Scored>,
    /// The picture's name, for asking about it again: an image's id, or the picture's digest.
    image: String,
    /// Width and height of the picture in pixels, if known.
    size: Option<[u32; 2]>,
    /// x1 y1 x2 y2 of each region, in pixels.
    boxes: Vec<[f32; 4]>,
    /// The weight of each region; they add up to 1.
    attention: Vec<f32>,
    /// The words that the model does not know and treats as padding.
    unknown_words: Vec<String>,
}

/// The answer to a question, with or without details.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Short(Vec<Scored>),
    Detailed(Box<Detailed>),
}

pub(super) async fn ask(
    State(app): Shared,
    query: QueryOf<DetailsQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let details = of_query(query)?.details()?;
    let question = match is_form(request.headers())? {
        true => Form::read(request, &app).await?.find(&app).await?,
        false => read_json::<JsonQuestion>(request).await?.find(&app).await?,
    };
    let answer = answer(&app, vec![question], details).await?.pop();
    Ok(json(&answer))
}

pub(super) async fn ask_batch(
    State(app): Shared,
    query: QueryOf<DetailsQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let details = of_query(query)?.details()?;
    if is_form(request.headers())? {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json: a list of questions"));
    }
    let asked: Vec<JsonQuestion> = read_json(request).await?;
    let most = app.limits.questions;
    if asked.len() > most {
        return Err(Problem::too_large(format!("{} questions, but at most {most} are answered at once", asked.len())));
    }
    let mut questions = Vec::with_capacity(asked.len());
    for (i, question) in asked.into_iter().enumerate() {
        let found = question.find(&app).await;
        questions.push(
            found.map_err(|problem| Problem { message: format!("question {i}: {}", problem.message), ..problem })?,
        );
    }
    Ok(json(&answer(&app, questions, details).await?))
}

/// Asks the model.
async fn answer(app: &App, questions: Vec<Question>, details: bool) -> Result<Vec<Answer>, Problem> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let asked_about: Vec<_> = questions.iter().map(|asked| (asked.image, Arc::clone(&asked.picture))).collect();
    let replies = app.model.ask(questions).await?;
    let answer = |((image, picture), reply): ((ImageKey, Arc<Picture>), Reply)| {
        let answers = reply.answers.into_iter().map(|(answer, score)| Scored { answer, score }).collect();
        if !details {
            return Answer::Short(answers);
        }
        Answer::Detailed(Box::new(Detailed {
            answers,
            image: image.name(),
            size: picture.size,
            boxes: picture.regions.corners().collect(),
            attention: reply.attention,
            unknown_words: reply.unknown_words,
        }))
    };
    Ok(asked_about.into_iter().zip(replies).map(answer).collect())
}

/// The query of `GET /api/images`.
#[derive(Debug, Deserialize)]
pub(super) struct ImageQuery {
    #[serde(default)]
    search: String,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

/// Some images of the split.
#[derive(Debug, Serialize)]
struct ImageList {
    /// How many images match in all.
    total: usize,
    images: Vec<ListedImage>,
}

#[derive(Debug, Serialize)]
struct ListedImage {
    image_id: u64,
    questions: Vec<String>,
}

pub(super) async fn images(State(app): Shared, query: QueryOf<ImageQuery>) -> Result<Response, Problem> {
    const LIMIT: usize = 60;
    const MOST: usize = 1000;
    let query = of_query(query)?;
    let limit = query.limit.unwrap_or(LIMIT);
    if limit > MOST {
        return Err(Problem::unusable(format!("\"limit\" must be at most {MOST}")));
    }
    let list = spawn_blocking(move || {
        let (total, found) =
            app.gallery.as_ref().map_or((0, Vec::new()), |gallery| gallery.search(&query.search, query.offset, limit));
        let listed = found.into_iter().map(|image| ListedImage {
            image_id: image.image_id,
            questions: image.questions.into_iter().map(str::to_owned).collect(),
        });
        ImageList { total, images: listed.collect() }
    });
    let list = list.await.map_err(|_| Problem::internal("the images cannot be searched"))?;
    Ok(json(&list))
}

pub(super) async fn picture(State(app): Shared, place: PathOf<String>) -> Result<Response, Problem> {
    let (path, _) = picture_path(&app, place)?;
    let _turn = app.drawing.acquire().await.map_err(|_| Problem::stopping())?;
    jpeg(spawn_blocking(move || whole_picture(&path)).await)
}

pub(super) async fn thumbnail_of(State(app): Shared, place: PathOf<String>) -> Result<Response, Problem> {
    let (path, image_id) = picture_path(&app, place)?;
    if let Some(known) = app.thumbnails.get(&image_id) {
        return jpeg(Ok(Ok(known)));
    }
    let _turn = app.drawing.acquire().await.map_err(|_| Problem::stopping())?;
    let drawn = spawn_blocking(move || thumbnail(&path)).await;
    if let Ok(Ok(drawn)) = &drawn {
        app.thumbnails.insert(image_id, drawn.clone(), drawn.len());
    }
    jpeg(drawn)
}

/// The path of an image's picture. Paths are derived only from ids that are in the split.
fn picture_path(app: &App, place: PathOf<String>) -> Result<(PathBuf, u64), Problem> {
    let image_id = place.ok().and_then(|Path(image_id)| image_id.parse().ok());
    let path = image_id.and_then(|image_id| Some((app.gallery.as_ref()?.picture(image_id)?, image_id)));
    path.ok_or_else(no_picture)
}

fn no_picture() -> Problem {
    Problem::not_found("there is no such picture")
}

fn jpeg(drawn: Result<error::Result<Bytes>, JoinError>) -> Result<Response, Problem> {
    let bytes = drawn
        .map_err(|_| Problem::internal("the picture cannot be drawn"))?
        // The error is only logged, since it contains the path, which clients must not see.
        .map_err(|error| {
            tracing::warn!("{error}");
            Problem::not_found("the picture cannot be read: the server's output says why")
        })?;
    // Not kept: the next server at this address may be for other pictures with the same ids.
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, no-cache")];
    Ok((headers, bytes).into_response())
}

pub(super) async fn model(State(app): Shared) -> Response {
    json(&app.about)
}

pub(super) async fn health(State(app): Shared) -> Result<&'static str, Problem> {
    if app.is_stopping() { Err(Problem::stopping()) } else { Ok("ok\n") }
}

pub(super) async fn metrics(State(app): Shared) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], app.telemetry.text()).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("page/openapi.json")).into_response()
}

/// Keeps a verdict on an answer.
pub(super) async fn collect(State(app): Shared, headers: HeaderMap, request: Request) -> Result<StatusCode, Problem> {
    if app.collector.is_none() {
        return Err(Problem::not_found("verdicts are not kept: start vqa serve with --collect FILE"));
    }
    if !is_form(&headers)? {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send multipart/form-data"));
    }
    let mut form = Form::read(request, &app).await?;
    let right = match form.wanted("right")? {
        "true" => true,
        "false" => false,
        _ => return Err(Problem::unusable("\"right\" must be true or false")),
    };
    form.question(&app)?;
    let most = app.limits.question_chars;
    for name in ["answer", "model_answer"] {
        if form.wanted(name)?.chars().count() > most {
            return Err(Problem::unusable(format!("{name:?} is longer than {most} characters")));
        }
    }
    let received = form.take_picture();
    let image_id = form.image_id()?;
    let kept = spawn_blocking(move || keep(&app, &form, received.map(|received| received.bytes), image_id, right));
    kept.await.map_err(|_| Problem::internal("the verdict cannot be kept"))??;
    Ok(StatusCode::NO_CONTENT)
}

fn keep(app: &App, form: &Form, sent: Option<Vec<u8>>, image_id: Option<u64>, right: bool) -> Result<(), Problem> {
    let bytes = match (sent, image_id) {
        (Some(bytes), None) => bytes,
        (None, Some(image_id)) => {
            let path = app.gallery.as_ref().and_then(|gallery| gallery.picture(image_id)).ok_or_else(no_picture)?;
            std::fs::read(path).map_err(|_| Problem::not_found("the picture cannot be read"))?
        }
        _ => return Err(Problem::unusable("name one image: a picture, or \"image_id\"")),
    };
    let format = image::guess_format(&bytes).ok();
    let extension = format.and_then(|format| format.extensions_str().first()).copied().unwrap_or("bin");
    let image = format!("{}.{extension}", ImageKey::of_content(&bytes).name());
    // Only pictures that training can read are kept.
    decode_image("the picture".as_ref(), bytes.clone(), app.limits.pixels)
        .map_err(|error| Problem::unusable(error.to_string()))?;
    let (question, answer) = (form.wanted("question")?, form.wanted("answer")?);
    let verdict = Verdict { image, question, answer, model_answer: form.wanted("model_answer")?, right };
    let Some(collector) = &app.collector else { return Err(Problem::not_found("verdicts are not kept")) };
    collector.keep(&verdict, &bytes).map_err(|error| match error {
        NotKept::Full => {
            let (pictures, file) = (collector.pictures().display(), collector.path().display());
            tracing::warn!("{pictures} is full: move it away, together with {file}; both are then created anew");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "the directory for collected pictures is full")
        }
        NotKept::Failed(error) => {
            tracing::warn!("{error}");
            Problem::internal("the verdict cannot be written: the server's output says why")
        }
    })
}

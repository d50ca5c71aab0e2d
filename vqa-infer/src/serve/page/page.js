"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** The response of `GET /api/model`. */
let model = null;

/**
 * The picture on the stage: either a file that the user has chosen, with the server's name for it once it has been
 * sent, or an image of the split.
 */
let picture = null;

/** The questions about each picture with their replies, latest first, by the picture's key. */
const histories = new Map();

/** What is shown: the question and its reply. */
let shown = null;

/** Counts requests, so that a late answer does not replace a newer one. */
let turn = 0;

// Requests to the server.

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refusal(0, "The server does not answer. Is it still running?");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw new Refusal(response.status, body.error || response.statusText);
  return body;
}

function post(path, body) {
  return call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

function postForm(path, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return call(path, { method: "POST", body: form });
}

/** Asks about the picture. A file is sent once, and again only if the server has forgotten it. */
async function askServer(about, question) {
  const path = "api/ask?details=1";
  if (about.imageId !== undefined) return post(path, { image_id: about.imageId, question });
  if (about.name) {
    try {
      return await post(path, { image: about.name, question });
    } catch (refusal) {
      if (refusal.status !== 404) throw refusal;
    }
  }
  return postForm(path, { question, image: about.file });
}

// The picture.

function setPicture(next, url, description) {
  if (picture?.url) URL.revokeObjectURL(picture.url);
  picture = next;
  turn += 1;
  shown = null;
  at("stage").classList.remove("empty");
  at("frame").hidden = true;
  at("choose").textContent = "Choose another";
  clearOverlay();
  const image = at("picture");
  image.hidden = !url;
  image.alt = description;
  if (url) image.src = url;
  else image.removeAttribute("src");
  at("answer").hidden = true;
  at("hint").hidden = false;
  say("");
  at("caption").textContent = description;
  for (const id of ["question", "submit"]) at(id).disabled = false;
  for (const button of document.querySelectorAll("#examples button")) button.disabled = false;
  showHistory();
  markChosen();
  at("question").focus({ preventScroll: true });
}

function chooseFile(file) {
  if (!file) return;
  if (model?.extractor === null) {
    say("This model can only be asked about the pictures of the split.", true);
    return;
  }
  if (model && file.size > model.max_picture_bytes) {
    say(`The picture is larger than ${Math.floor(model.max_picture_bytes / 1048576)} MB: scale it down.`, true);
    return;
  }
  const url = URL.createObjectURL(file);
  setPicture({ file, url, key: `${file.name} ${file.size} ${file.lastModified}` }, url, file.name);
}

function chooseImage(imageId, questions) {
  const url = model.has_pictures ? `api/images/${imageId}/picture` : null;
  setPicture({ imageId, key: `image ${imageId}` }, url, `image ${imageId}`);
  showExamples(questions.slice(0, 8));
  at("stage").scrollIntoView({ block: "nearest" });
}

/** Gives the frame the shape of the picture, even if the picture itself cannot be shown. */
function setFrame(width, height) {
  at("frame").style.setProperty("--width", width);
  at("frame").style.setProperty("--height", height);
  at("frame").hidden = false;
}

at("picture").addEventListener("load", () => {
  const image = at("picture");
  // An SVG may have no size of its own.
  setFrame(image.naturalWidth || 300, image.naturalHeight || 150);
  image.classList.toggle("tiny", image.naturalWidth < 160);
  if (shown) showOverlay(shown.reply);
});
at("picture").addEventListener("error", () => {
  if (!picture) return;
  at("picture").hidden = true;
  at("caption").textContent = "This browser cannot show the file, but perhaps the model can read it: ask.";
});

// Where the model looked.

function clearOverlay() {
  at("frame").querySelector(".regions")?.remove();
}

function showOverlay(reply) {
  clearOverlay();
  const image = at("picture");
  // If neither is known, the extent of the boxes.
  const natural = image.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null;
  const reach = [2, 3].map((corner) => Math.max(1, ...reply.boxes.map((box) => box[corner])));
  const [width, height] = reply.size || natural || reach;
  if (!natural) setFrame(width, height);
  const overlay = regionOverlay(reply.boxes, reply.attention, width, height);
  overlay.setAttribute("role", "img");
  overlay.setAttribute("aria-label", "where the model looked");
  at("frame").append(overlay);
  const most = reply.attention.indexOf(Math.max(...reply.attention));
  const rest = `Looked most at the framed region, with ${percent(reply.attention[most])} of the attention.`;
  at("caption").textContent = rest;
  overlay.addEventListener("pointerover", (event) => {
    const region = event.target.dataset?.region;
    if (region === undefined) return;
    at("caption").textContent = `${percent(reply.attention[region])} of the attention is here.`;
  });
  overlay.addEventListener("pointerleave", () => { at("caption").textContent = rest; });
}

at("show").addEventListener("change", (event) => {
  at("frame").classList.toggle("unseen-map", !event.target.checked);
});

// Question and answer.

function say(text, isAlert = false) {
  at("message").textContent = text;
  at("message").classList.toggle("alert", isAlert);
}

async function ask(question) {
  question = question.trim();
  if (!picture || !question) return;
  const about = picture;
  const mine = ++turn;
  at("question").value = question;
  say(about.file && !about.name ? "Looking at the picture …" : "Thinking …");
  try {
    const reply = await askServer(about, question);
    if (about.file) about.name = reply.image;
    remember(about, question, reply);
    if (mine === turn && picture === about) {
      say("");
      show(question, reply);
    }
  } catch (refusal) {
    if (mine === turn) {
      shown = null;
      at("answer").hidden = true;
      at("hint").hidden = true;
      clearOverlay();
      say(refusal.message, true);
    }
  }
}

function show(question, reply) {
  shown = { question, reply };
  at("asked").textContent = question;
  at("answers").replaceChildren(...reply.answers.map(({ answer, score }) => {
    const item = document.createElement("li");
    const part = (name, text) => {
      const element = document.createElement("span");
      element.className = name;
      element.textContent = text;
      item.append(element);
      return element;
    };
    part("bar", "").style.width = `${100 * score}%`;
    part("text", answer);
    part("share", percent(score));
    return item;
  }));
  const unknown = reply.unknown_words;
  at("unknown").hidden = unknown.length === 0;
  at("unknown").textContent = `The model does not know these words: ${unknown.join(", ")}`;
  at("answer").hidden = false;
  at("hint").hidden = true;
  resetVerdict();
  showOverlay(reply);
  showHistory();
  // On a narrow screen the answers are below the picture.
  at("answers").scrollIntoView({ block: "nearest" });
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(at("question").value);
  at("question").select();
});

function showExamples(questions) {
  at("examples").replaceChildren(...questions.map((question) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = question;
    button.disabled = picture === null;
    button.addEventListener("click", () => ask(question));
    return button;
  }));
}

// The history of a picture.

function remember(about, question, reply) {
  const past = (histories.get(about.key) || []).filter((entry) => entry.question !== question);
  past.unshift({ question, reply });
  histories.set(about.key, past.slice(0, 50));
}

function showHistory() {
  const past = (picture && histories.get(picture.key)) || [];
  at("history").hidden = past.length === 0;
  at("past").replaceChildren(...past.map(({ question, reply }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const text = document.createElement("span");
    text.textContent = question;
    const answer = document.createElement("b");
    answer.textContent = reply.answers[0]?.answer ?? "";
    button.append(text, answer);
    button.addEventListener("click", () => {
      turn += 1;
      say("");
      at("question").value = question;
      show(question, reply);
    });
    item.append(button);
    return item;
  }));
}

// Right or wrong.

function resetVerdict() {
  at("verdict").hidden = !model?.collects;
  at("correction").hidden = true;
  at("wrong").setAttribute("aria-expanded", "false");
  at("correct").value = "";
  at("saved").textContent = "";
  for (const id of ["right", "wrong"]) at(id).disabled = false;
}

async function collect(right, answer) {
  const { question, reply } = shown;
  const about = picture;
  const fields = { question, answer, model_answer: reply.answers[0].answer, right };
  if (about.imageId !== undefined) fields.image_id = about.imageId;
  else fields.image = about.file;
  try {
    await postForm("api/collect", fields);
    at("saved").textContent = "Saved, thank you.";
    at("correction").hidden = true;
    for (const id of ["right", "wrong"]) at(id).disabled = true;
  } catch (refusal) {
    at("saved").textContent = refusal.message;
  }
}

at("right").addEventListener("click", () => collect(true, shown.reply.answers[0].answer));
at("wrong").addEventListener("click", () => {
  at("correction").hidden = false;
  at("wrong").setAttribute("aria-expanded", "true");
  at("correct").focus();
});
at("verdict").addEventListener("submit", (event) => {
  event.preventDefault();
  collect(false, at("correct").value.trim());
});

// Files: chosen, dropped, pasted.

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => {
  chooseFile(event.target.files[0]);
  // So that the same file can be chosen again.
  event.target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("stage").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop" || event.relatedTarget === null) at("stage").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => chooseFile(event.dataTransfer?.files[0]));
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) {
    event.preventDefault();
    chooseFile(file);
  }
});

// The pictures of the split.

const gallery = { search: "", total: 0, loaded: 0, turn: 0, isLoading: false };

function markChosen() {
  for (const button of document.querySelectorAll("#images button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.image) === picture?.imageId));
  }
}

async function loadImages() {
  if (gallery.isLoading || (gallery.loaded > 0 && gallery.loaded >= gallery.total)) return;
  gallery.isLoading = true;
  const mine = gallery.turn;
  const query = new URLSearchParams({ search: gallery.search, offset: gallery.loaded, limit: 60 });
  try {
    const { total, images } = await call(`api/images?${query}`);
    if (mine !== gallery.turn) return;
    gallery.total = total;
    gallery.loaded += images.length;
    const none = "No picture found: search for the start of an id, or for words of a question";
    at("total").textContent = total === 0 ? none : total === 1 ? "1 picture" : `${total} pictures`;
    at("images").append(...images.map(({ image_id: imageId, questions }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.image = imageId;
      button.title = questions.slice(0, 3).join("\n");
      if (model.has_pictures) {
        const image = document.createElement("img");
        image.loading = "lazy";
        image.alt = "";
        image.src = `api/images/${imageId}/thumbnail`;
        button.append(image);
      }
      const label = document.createElement("span");
      label.textContent = `${imageId}: ${questions[0] ?? ""}`;
      button.append(label);
      button.addEventListener("click", () => chooseImage(imageId, questions));
      item.append(button);
      return item;
    }));
    markChosen();
  } catch (refusal) {
    if (mine === gallery.turn) at("total").textContent = refusal.message;
  } finally {
    if (mine === gallery.turn) gallery.isLoading = false;
  }
  // Load more while the end of the list is still near the screen.
  if (mine === gallery.turn && at("more").getBoundingClientRect().top < window.innerHeight + 400) {
    if (gallery.loaded < gallery.total) loadImages();
  }
}

function searchImages(text) {
  Object.assign(gallery, { search: text, total: 0, loaded: 0, turn: gallery.turn + 1, isLoading: false });
  at("images").replaceChildren();
  loadImages();
}

let typing = 0;
at("search").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => searchImages(event.target.value), 200);
});

// The keyboard: "/" goes to the question, Escape leaves it.

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    at(picture ? "question" : "choose").focus();
  } else if (event.key === "Escape" && isTyping) {
    event.target.blur();
  }
});

// Startup.

async function start() {
  try {
    model = await call("api/model");
  } catch (refusal) {
    say(refusal.message, true);
    return;
  }
  const score = model.val_score === null ? "" : `, validation score ${model.val_score.toFixed(1)} %`;
  at("model").textContent = `${model.name}: ${model.n_answers} answers${score}`;
  at("question").maxLength = model.max_question_chars;
  if (model.extractor === null) at("invitation").textContent = "Choose a picture of the split below.";
  const usual = ["What is in the picture?", "What color is it?", "How many are there?", "Is there a person?"];
  showExamples(model.examples.length > 0 ? model.examples : usual);
  if (model.n_images > 0) {
    at("gallery").hidden = false;
    at("images").classList.toggle("texts", !model.has_pictures);
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) loadImages();
    }, { rootMargin: "400px" }).observe(at("more"));
  }
}

start();

"use strict";

// Everything that comes from data becomes a text node or an attribute, never markup.
(() => {
  const { cards, pictures, style, rank_colors: rankColors } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const list = at("cards");
  const SLICE = 48;

  /** Creates an element with attributes and children, leaving out those that are null. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value != null) element.setAttribute(key, value);
    element.append(...children.filter((child) => child != null));
    return element;
  }

  const percent = (share) => {
    const value = 100 * share;
    return value < 0.1 ? "< 0.1 %" : `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
  };

  const VERDICTS = {
    right: ["✓", "right", "Right"],
    partly: ["~", "partly right", "Partly"],
    wrong: ["✗", "wrong", "Wrong"],
    unknown: ["", "not annotated", ""],
  };

  for (const [i, card] of cards.entries()) {
    card.order = i;
    card.confidence = card.best.length ? card.best[0][1] : 0;
    const score = card.soft_score;
    card.verdict = score == null ? "unknown" : score >= 0.9 ? "right" : score > 0 ? "partly" : "wrong";
    card.focus = Math.max(0, ...card.weights);
    card.changes = card.without_top != null && card.without_top[0] !== card.answer;
    const texts = [card.question, card.answer, ...card.annotators.map(([answer]) => answer), card.folder];
    card.text = texts.join("\n").toLowerCase();
  }

  // A picture with its overlay. There are many regions, so they are created only once the pointer is over the picture.
  function figure(card, file, alt, shown) {
    const { width, height, boxes } = pictures[card.picture];
    const source = { src: `${card.folder}/${file}`, alt, width, height };
    const image = make("img", { ...source, loading: "lazy", decoding: "async" });
    const share = make("span", { class: "share", "aria-hidden": "true" });
    const whole = make("div", { class: shown ? "picture shown" : "picture" }, image, share);
    whole.style.setProperty("--ratio", width / height);
    const top = card.weights.indexOf(Math.max(...card.weights));
    const overlay = () => {
      if (!boxes.length || whole.querySelector("svg")) return;
      const drawing = regionOverlay(boxes, card.weights, width, height);
      drawing.setAttribute("aria-hidden", "true");
      share.textContent = `most: ${percent(card.weights[top])}`;
      drawing.addEventListener("pointerover", (event) => {
        const region = event.target.closest("[data-region]");
        if (region) share.textContent = `${percent(card.weights[region.dataset.region])} of the attention`;
      });
      image.after(drawing);
    };
    if (shown) overlay();
    else whole.addEventListener("pointerenter", overlay, { once: true });
    return whole;
  }

  function bars(card) {
    const items = card.best.map(([answer, p]) => {
      const item = make("li", {}, make("span", {}, answer), make("span", {}, percent(p)));
      item.style.setProperty("--share", `${100 * p}%`);
      return item;
    });
    return make("ol", { class: "best", "aria-label": "Best answers" }, ...items);
  }

  function withoutTop(card) {
    if (!card.without_top) return null;
    const [answer, p] = card.without_top;
    const said = make("b", { class: card.changes ? "changed" : null }, answer);
    return make("p", { class: "fact" }, "without its top region: ", said, ` ${percent(p)}`);
  }

  function people(card) {
    if (!card.annotators.length) return make("p", { class: "fact" }, "not annotated");
    const parts = card.annotators.flatMap(([answer, n], i) => {
      const said = card.annotators.length > 1 || n > 1 ? `${answer} (${n})` : answer;
      return [i ? ", " : "", i ? said : make("b", {}, said)];
    });
    return make("p", { class: "fact" }, "people: ", ...parts);
  }

  function ranks(card) {
    if (style !== "boxes" || !card.ranked) return null;
    const items = card.ranked.map((region, rank) => {
      const number = make("i", {}, String(rank + 1));
      number.style.setProperty("--rank", rankColors[rank]);
      return make("li", {}, number, percent(card.weights[region]));
    });
    return make("ol", { class: "ranks", "aria-label": "Attention of the numbered regions" }, ...items);
  }

  function judged(card) {
    if (card.soft_score == null) return null;
    const [sign, words] = VERDICTS[card.verdict];
    const score = `soft score ${Number(card.soft_score.toFixed(2))}`;
    return make("span", { class: "judged", title: `${words}: ${score}` }, `${sign} ${score}`);
  }

  function about(card, heading) {
    const tags = [card.answer_type, card.question_type, `question ${card.folder.replace("_", ", no. ")}`];
    return make(
      "div",
      { class: "about" },
      make("h3", heading ? { id: heading } : {}, card.question),
      make("p", { class: "answer" }, make("span", {}, card.answer), judged(card)),
      bars(card),
      make("div", { class: "facts" }, withoutTop(card), people(card), ranks(card)),
      make("p", { class: "tags" }, ...tags.filter(Boolean).map((tag) => make("span", {}, tag))),
    );
  }

  function photographs(card, shown) {
    const { width, height } = pictures[card.picture];
    return make(
      "div",
      { class: width > 1.9 * height ? "pictures wide" : "pictures" },
      figure(card, "original.jpg", "picture", shown),
      figure(card, "topdown_att.jpg", "where the model looked", false),
    );
  }

  function article(card, place) {
    const [, words] = VERDICTS[card.verdict];
    const label = `${card.question} The model says ${card.answer}, ${percent(card.confidence)}, ${words}`;
    const element = make(
      "article",
      {
        class: `card ${card.verdict}`,
        tabindex: place === 0 ? 0 : -1,
        "aria-label": label,
        "aria-posinset": place + 1,
        "aria-setsize": shown.length,
        "data-place": place,
      },
      photographs(card, false),
      about(card),
    );
    return element;
  }

  // The cards that pass the filters. Only the first `made` of them exist as elements.
  let shown = [];
  let made = 0;

  function makeMore(until = made + SLICE) {
    const slice = document.createDocumentFragment();
    for (; made < Math.min(until, shown.length); made += 1) slice.append(article(shown[made], made));
    list.append(slice);
  }

  const SORTS = {
    order: () => 0,
    sure: (a, b) => b.confidence - a.confidence,
    unsure: (a, b) => a.confidence - b.confidence,
    mistakes: (a, b) => (b.verdict === "wrong") - (a.verdict === "wrong") || b.confidence - a.confidence,
    focused: (a, b) => b.focus - a.focus,
    spread: (a, b) => a.focus - b.focus,
    question: (a, b) => a.question.localeCompare(b.question),
  };

  function update() {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = document.querySelector("input[name=verdict]:checked")?.value ?? "all";
    const [answerType, questionType] = [at("answer-type").value, at("question-type").value];
    const ends = [Number(at("from").value), Number(at("to").value)].sort((a, b) => a - b);
    at("confidence").textContent = `${ends[0]} to ${ends[1]} %`;
    shown = cards.filter((card) => {
      const sure = 100 * card.confidence;
      return (
        (verdict === "all" || card.verdict === verdict) &&
        (!answerType || card.answer_type === answerType) &&
        (!questionType || card.question_type === questionType) &&
        sure >= ends[0] && sure <= ends[1] &&
        (!at("changes").checked || card.changes) &&
        words.every((word) => card.text.includes(word))
      );
    });
    const by = SORTS[at("sort").value] ?? SORTS.order;
    shown.sort((a, b) => by(a, b) || a.order - b.order);
    list.replaceChildren();
    made = 0;
    makeMore();
    at("none").hidden = shown.length > 0;
    const all = cards.length.toLocaleString("en");
    const n = shown.length.toLocaleString("en");
    at("count").textContent = shown.length === cards.length ? `${all} questions` : `${n} of ${all} questions`;
  }

  /** Fills a select element with types, most frequent first, and hides it if there is nothing to choose. */
  function fillTypes(id, key, all) {
    const counts = new Map();
    for (const card of cards) if (card[key] != null) counts.set(card[key], (counts.get(card[key]) ?? 0) + 1);
    const types = [...counts].sort((a, b) => b[1] - a[1]);
    at(id).append(make("option", { value: "" }, all));
    for (const [type, n] of types) at(id).append(make("option", { value: type }, `${type} (${n})`));
    at(`${id}-field`).hidden = types.length < 2;
  }

  function fillVerdicts() {
    const n = (verdict) => cards.filter((card) => card.verdict === verdict).length;
    const option = (value, name, count) =>
      make(
        "label",
        {},
        make("input", { type: "radio", name: "verdict", value, checked: value === "all" ? "" : null }),
        name,
        count == null ? null : make("small", {}, count.toLocaleString("en")),
      );
    at("verdicts").append(option("all", "All"));
    for (const verdict of ["right", "partly", "wrong"]) {
      if (n(verdict)) at("verdicts").append(option(verdict, VERDICTS[verdict][2], n(verdict)));
    }
    at("verdicts").hidden = cards.every((card) => card.soft_score == null);
  }

  // One question, large.
  const dialog = at("enlarged");
  let enlarged = 0;

  function mostLookedAt(card, drawing) {
    const { boxes } = pictures[card.picture];
    const regions = card.weights.map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
    const items = regions.filter(([weight]) => weight > 0).map(([weight, i]) => {
      const [x1, y1, x2, y2] = boxes[i].map(Math.round);
      const button = make("button", { type: "button" }, `${percent(weight)} at x ${x1} to ${x2}, y ${y1} to ${y2}`);
      const region = drawing.querySelector(`[data-region="${i}"]`);
      for (const [event, is] of [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]]) {
        button.addEventListener(event, () => region?.classList.toggle("pointed", is));
      }
      return make("li", {}, button);
    });
    return make("div", { class: "looked-at" }, "looked most", make("ol", { class: "looked" }, ...items));
  }

  function enlarge(place) {
    if (!shown.length) return;
    enlarged = Math.min(Math.max(place, 0), shown.length - 1);
    makeMore(Math.max(made, enlarged + 1));
    const card = shown[enlarged];
    const parts = [photographs(card, true), about(card, "enlarged-question")];
    const element = make("div", { class: `card ${card.verdict}` }, ...parts);
    const drawing = element.querySelector("svg");
    if (drawing) element.querySelector(".tags").before(mostLookedAt(card, drawing));
    at("enlarged-card").replaceChildren(element);
    at("place").textContent = `${enlarged + 1} of ${shown.length.toLocaleString("en")}`;
    at("previous").disabled = enlarged === 0;
    at("next").disabled = enlarged === shown.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  /** Moves the focus to a card, which becomes the one that Tab reaches. */
  function focusCard(place) {
    if (place < 0 || place >= shown.length) return;
    makeMore(Math.max(made, place + 1));
    list.querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
    const card = list.children[place];
    card.setAttribute("tabindex", 0);
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  dialog.addEventListener("close", () => focusCard(enlarged));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  at("close").addEventListener("click", () => dialog.close());
  at("previous").addEventListener("click", () => enlarge(enlarged - 1));
  at("next").addEventListener("click", () => enlarge(enlarged + 1));
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card && !String(getSelection())) enlarge(Number(card.dataset.place));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (dialog.open) {
      if (event.key === "ArrowLeft") enlarge(enlarged - 1);
      else if (event.key === "ArrowRight") enlarge(enlarged + 1);
      else return;
      event.preventDefault();
      return;
    }
    if (event.key === "/" && !typing) {
      event.preventDefault();
      at("search").focus();
      at("search").select();
      return;
    }
    if (event.target === at("search") && ["Enter", "Escape", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      if (event.key === "Escape" && at("search").value) {
        at("search").value = "";
        update();
      } else focusCard(0);
      return;
    }
    if (typing) return;
    const card = event.target.closest?.(".card");
    const place = card ? Number(card.dataset.place) : -1;
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (card && event.key in steps) {
      event.preventDefault();
      focusCard(place + steps[event.key]);
    } else if (!card && event.target === document.body && event.key === "ArrowRight") {
      event.preventDefault();
      focusCard(0);
    } else if (card && event.target === card && event.key === "Enter") {
      event.preventDefault();
      enlarge(place);
    }
  });

  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(update);
  };
  at("controls").addEventListener("input", soon);
  at("controls").addEventListener("reset", soon);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("none-reset").addEventListener("click", () => at("controls").reset());

  fillTypes("answer-type", "answer_type", "all");
  fillTypes("question-type", "question_type", "all");
  fillVerdicts();
  at("changes-field").hidden = !cards.some((card) => card.changes);
  at("controls").hidden = false;
  update();
  // Observed anew each time, since an element that stays near the screen would not be reported again.
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting) || made >= shown.length) return;
    makeMore();
    observer.unobserve(at("more"));
    observer.observe(at("more"));
  }, { rootMargin: "2000px" });
  observer.observe(at("more"));
  // Keeps elements that are scrolled to from being covered by the filters, whose height depends on the window.
  new ResizeObserver(() => {
    const covered = getComputedStyle(at("controls")).position === "sticky" ? at("controls").offsetHeight : 0;
    document.documentElement.style.scrollPaddingTop = `${covered + 12}px`;
  }).observe(at("controls"));
  // The time until the page was ready to use, in milliseconds.
  document.documentElement.dataset.ready = Math.round(performance.now());
})();

//! Tests of the page of `vqa visualize`, opened as a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::{Page, in_browser};
use crate::world::{ok, world};

const DATA: &str = "<script type=\"application/json\" id=\"data\">";

/// The directory of a report about the full split, drawn once and only read.
fn report() -> &'static Path {
    static REPORT: LazyLock<PathBuf> = LazyLock::new(|| {
        ok(world(), "visualize --checkpoint run/model_1.safetensors --data val --n 100000 --out-dir maps");
        world().join("maps/run_model_1_val_visualization")
    });
    &REPORT
}

/// The data that the page's script reads.
fn data() -> Value {
    let page = fs::read_to_string(report().join("index.html")).unwrap();
    let (_, json) = page.split_once(DATA).unwrap();
    serde_json::from_str(json.split_once("</script>").unwrap().0).unwrap()
}

/// Writes another page beside the report's, with other data, and returns its address.
fn write_page(name: &str, data: &Value) -> String {
    let page = fs::read_to_string(report().join("index.html")).unwrap();
    let (head, json) = page.split_once(DATA).unwrap();
    let (_, rest) = json.split_once("</script>").unwrap();
    let data = data.to_string().replace('<', "\\u003c");
    let path = report().join(name);
    fs::write(&path, format!("{head}{DATA}{data}</script>{rest}")).unwrap();
    address(&path)
}

fn address(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Runs a test on the report, on a screen of this width and height, with the data of the page.
fn on_report(screen: [u32; 2], test: impl AsyncFnOnce(&Page, &Value)) {
    in_browser(async |page| {
        page.resize(screen).await;
        page.open(&address(&report().join("index.html"))).await;
        page.until("document.documentElement.dataset.ready").await;
        test(page, &data()).await;
    });
}

const DESKTOP: [u32; 2] = [1280, 900];

/// How many questions the page says that it shows.
async fn n_shown(page: &Page) -> usize {
    // A change of the filters shows with the next frame.
    page.js("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))").await;
    let count = page.text("#count").await;
    count.split(' ').next().unwrap().replace(',', "").parse().unwrap()
}

/// The questions of all cards, after waiting until all of them have been created.
async fn questions(page: &Page) -> Vec<String> {
    let n = n_shown(page).await;
    let all_made = format!(
        "document.querySelectorAll('#cards .card').length >= {n} \
         || (document.querySelector('#more').scrollIntoView(), false)"
    );
    page.until(&all_made).await;
    page.js("scrollTo(0, 0)").await;
    let body = "return [...document.querySelectorAll('#cards .card h3')].map((heading) => heading.textContent)";
    serde_json::from_value(page.js(body).await).unwrap()
}

/// The questions of the matching cards in the data.
fn those(data: &Value, fits: impl Fn(&Value) -> bool) -> Vec<String> {
    let cards = data["cards"].as_array().unwrap().iter();
    cards.filter(|card| fits(card)).map(|card| card["question"].as_str().unwrap().to_owned()).collect()
}

fn confidence(card: &Value) -> f64 {
    card["best"][0][1].as_f64().unwrap()
}

/// Chooses an option of a select element. The driver's own method omits the first of the two events.
async fn select(page: &Page, selector: &str, value: &str) {
    let body = "const select = document.querySelector(arguments[0]);
        select.value = arguments[1];
        for (const event of ['input', 'change']) select.dispatchEvent(new Event(event, { bubbles: true }));
        return select.value";
    assert_eq!(page.js_with(body, json!([selector, value])).await, value);
}

#[test]
fn every_question_has_a_card_with_what_is_known_of_it() {
    on_report(DESKTOP, async |page, data| {
        page.screenshot("report-head").await;
        let all = those(data, |_| true);
        assert!(all.len() > 60, "{}", all.len());
        // At first there are enough cards for a few screens; the others are created on scrolling.
        assert_eq!(page.count(".card").await, 48);
        assert_eq!(questions(page).await, all);
        let card = &data["cards"][0];
        assert_eq!(page.js("return document.querySelectorAll('.card .best')[0].children.length").await, 5);
        let width = "const [item] = document.querySelectorAll('.card .best li');
            return parseFloat(getComputedStyle(item, '::before').width) / item.getBoundingClientRect().width";
        let width = page.js(width).await.as_f64().unwrap();
        assert!((width - confidence(card)).abs() < 0.01, "{width} {card}");
        let text = page.text(".card").await;
        for words in [&card["question"], &card["answer"], &card["question_type"], &card["annotators"][0][0]] {
            assert!(text.contains(words.as_str().unwrap()), "{words}: {text}");
        }
        // Its picture and map are shown; those far below are loaded only when scrolled to.
        page.until(
            "[...document.querySelectorAll('.card')[0].querySelectorAll('img')].every((i) => i.naturalWidth > 0)",
        )
        .await;
        page.js("document.querySelector('.card').scrollIntoView()").await;
        page.screenshot("report-cards").await;
    });
}

#[test]
fn pictures_far_below_are_not_loaded_before_they_are_scrolled_to() {
    on_report([360, 640], async |page, _| {
        page.until("document.querySelector('.card img').naturalWidth > 0 || (scrollBy(0, 300), false)").await;
        let last = "[...document.querySelectorAll('.card img')].at(-1)";
        assert_eq!(page.js(&format!("return {last}.complete && {last}.naturalWidth > 0")).await, false);
        page.js(&format!("{last}.scrollIntoView()")).await;
        page.until("document.querySelectorAll('.card').length > 48").await;
    });
}

#[test]
fn filters_leave_the_questions_that_fit() {
    on_report(DESKTOP, async |page, data| {
        for answer_type in ["yes/no", "number", "other"] {
            select(page, "#answer-type", answer_type).await;
            assert_eq!(questions(page).await, those(data, |card| card["answer_type"] == answer_type), "{answer_type}");
        }
        let question_type = &data["cards"][0]["question_type"];
        select(page, "#answer-type", "").await;
        select(page, "#question-type", question_type.as_str().unwrap()).await;
        assert_eq!(questions(page).await, those(data, |card| card["question_type"] == *question_type));
        page.click("#show-all").await;
        let score = |card: &Value| card["soft_score"].as_f64().unwrap();
        page.click("#verdicts label:has([value=right])").await;
        assert_eq!(questions(page).await, those(data, |card| score(card) >= 0.9));
        page.click("#verdicts label:has([value=wrong])").await;
        let wrong = those(data, |card| score(card) == 0.0);
        assert_eq!(questions(page).await, wrong);
        // Filters combine.
        select(page, "#answer-type", "number").await;
        let both = those(data, |card| score(card) == 0.0 && card["answer_type"] == "number");
        assert!(both.len() < wrong.len());
        assert_eq!(questions(page).await, both);
        page.screenshot("report-filtered").await;
        page.click("#show-all").await;
        assert_eq!(n_shown(page).await, those(data, |_| true).len());
    });
}

#[test]
fn filters_know_how_sure_the_model_was() {
    in_browser(async |page| {
        // The test model has about the same confidence in everything, so vary it.
        let mut data = data();
        for (i, card) in data["cards"].as_array_mut().unwrap().iter_mut().enumerate() {
            card["best"][0][1] = json!((i % 20) as f64 / 20.0 + 0.01);
        }
        let address = write_page("sure.html", &data);
        page.open(&address).await;
        page.find("#from").await.click().await.unwrap();
        let from = page.js("return Number(document.querySelector('#from').value)").await.as_f64().unwrap();
        assert!((40.0..=60.0).contains(&from), "{from}");
        assert_eq!(questions(page).await, those(&data, |card| 100.0 * confidence(card) >= from));
        assert_eq!(page.text("#confidence").await, format!("{from} to 100 %"));
        // With the keyboard, and with the two sliders crossing.
        page.press(Key::Right).await;
        let from = from + 5.0;
        assert_eq!(questions(page).await, those(&data, |card| 100.0 * confidence(card) >= from));
        page.js("document.querySelector('#to').focus()").await;
        page.press(Key::Home).await;
        assert_eq!(questions(page).await, those(&data, |card| 100.0 * confidence(card) <= from));
    });
}

#[test]
fn questions_and_answers_are_searched() {
    on_report(DESKTOP, async |page, data| {
        page.type_text("/").await;
        assert_eq!(page.js("return document.activeElement.id").await, "search");
        page.type_text("HOW many").await;
        let found = those(data, |card| {
            let text = format!("{} {} {}", card["question"], card["answer"], card["annotators"]).to_lowercase();
            text.contains("how") && text.contains("many")
        });
        assert!(!found.is_empty());
        assert_eq!(questions(page).await, found);
        page.fill("#search", "zebra").await;
        page.until("document.querySelector('#none').checkVisibility()").await;
        assert_eq!(n_shown(page).await, 0);
        page.screenshot("report-none").await;
        page.click("#none-reset").await;
        assert_eq!(n_shown(page).await, those(data, |_| true).len());
        assert!(!page.is_seen("#none").await);
    });
}

#[test]
fn questions_are_sorted() {
    on_report(DESKTOP, async |page, data| {
        let cards = data["cards"].as_array().unwrap();
        let by = |key: &dyn Fn(&Value) -> f64| {
            let mut sorted: Vec<&Value> = cards.iter().collect();
            sorted.sort_by(|a, b| key(a).total_cmp(&key(b)));
            sorted.into_iter().map(|card| card["question"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let focus = |card: &Value| {
            card["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).fold(0.0, f64::max)
        };
        select(page, "#sort", "unsure").await;
        assert_eq!(questions(page).await, by(&confidence));
        select(page, "#sort", "sure").await;
        assert_eq!(questions(page).await, by(&|card| -confidence(card)));
        select(page, "#sort", "focused").await;
        assert_eq!(questions(page).await, by(&|card| -focus(card)));
        select(page, "#sort", "mistakes").await;
        let is_wrong = |card: &Value| card["soft_score"] == 0.0;
        assert_eq!(questions(page).await, by(&|card| -confidence(card) - if is_wrong(card) { 10.0 } else { 0.0 }));
        select(page, "#sort", "question").await;
        assert!(questions(page).await.is_sorted_by_key(|question| question.to_lowercase()));
        select(page, "#sort", "order").await;
        assert_eq!(questions(page).await, those(data, |_| true));
    });
}

#[test]
fn a_box_says_how_much_attention_it_has() {
    on_report(DESKTOP, async |page, data| {
        page.js("document.querySelector('.card').scrollIntoView({ block: 'center' })").await;
        assert_eq!(page.count(".card svg.regions").await, 0);
        page.hover(".card .picture").await;
        page.until("document.querySelectorAll('.card svg.regions').length === 1").await;
        assert_eq!(page.count(".card .region").await, 21);
        page.hover(".card .region[data-region='0']").await;
        let weight = data["cards"][0]["weights"][0].as_f64().unwrap();
        let expected = format!("{:.1} % of the attention", 100.0 * weight);
        page.until(&format!("document.querySelector('.card .share').innerText === {}", json!(expected))).await;
        page.until("getComputedStyle(document.querySelector('.card .regions')).opacity === '1'").await;
        page.screenshot("report-hover").await;
        // The overlay covers the picture exactly.
        let same = "const [a, b] = ['.card img', '.card .regions'].map((selector) => {
                const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
                return [x, y, width, height].map(Math.round).join();
            });
            return a === b";
        assert_eq!(page.js(same).await, true);
    });
}

#[test]
fn a_click_enlarges_and_escape_closes() {
    on_report(DESKTOP, async |page, data| {
        let all = those(data, |_| true);
        page.click(".card[data-place='2'] h3").await;
        page.until("document.querySelector('#enlarged').open").await;
        assert_eq!(page.text("#enlarged-question").await, all[2]);
        assert_eq!(page.text("#place").await, format!("3 of {}", all.len()));
        assert!(page.is_seen("#enlarged .regions").await);
        page.until("[...document.querySelectorAll('#enlarged img')].every((image) => image.naturalWidth > 0)").await;
        page.screenshot("report-enlarged").await;
        // The most attended region is listed, and highlighted when pointed at.
        page.hover("#enlarged .looked button").await;
        page.until("document.querySelector('#enlarged .region.pointed')").await;
        page.press(Key::Right).await;
        assert_eq!(page.text("#enlarged-question").await, all[3]);
        page.click("#previous").await;
        page.click("#previous").await;
        assert_eq!(page.text("#enlarged-question").await, all[1]);
        page.press(Key::Escape).await;
        page.until("!document.querySelector('#enlarged').open").await;
        assert_eq!(page.js("return document.activeElement.dataset.place").await, "1");
        // The dialog closes on a click on the cross, and beside it.
        page.press(Key::Enter).await;
        page.until("document.querySelector('#enlarged').open").await;
        page.click("#close").await;
        page.until("!document.querySelector('#enlarged').open").await;
    });
}

#[test]
fn everything_is_reached_with_the_keyboard() {
    on_report(DESKTOP, async |page, data| {
        page.js("const all = 'a, button, input, select, summary, .card[tabindex=\"0\"]';
            const controls = [...document.querySelectorAll(all)].filter((control) =>
                control.checkVisibility() && !control.disabled && (control.type !== 'radio' || control.checked));
            controls.forEach((control, i) => { control.dataset.order = i; })")
            .await;
        let n_controls = page.count("[data-order]").await;
        for order in 0..n_controls {
            page.press(Key::Tab).await;
            let body = "const at = document.activeElement;
                // The ring of a hidden radio button is around its label.
                const { outlineStyle, outlineWidth } = getComputedStyle(at.type === 'radio' ? at.closest('label') : at);
                return [Number(at.dataset.order ?? -1), outlineStyle, parseFloat(outlineWidth) >= 2]";
            let outer = page.js("return document.activeElement.outerHTML").await;
            assert_eq!(page.js(body).await, json!([order, "solid", true]), "{outer}");
        }
        // The cards are a single tab stop, and the arrow keys move between them.
        let columns = page
            .js("return getComputedStyle(document.querySelector('#cards')).gridTemplateColumns.split(' ').length")
            .await;
        let columns = columns.as_u64().unwrap();
        let place = async || page.js("return Number(document.activeElement.dataset.place)").await.as_u64().unwrap();
        assert_eq!(place().await, 0);
        page.press(Key::Right).await;
        page.press(Key::Down).await;
        assert_eq!(place().await, 1 + columns);
        // The filters stay above the cards, and do not cover the one that has the focus.
        for key in [Key::Down, Key::Down, Key::Down, Key::Up, Key::Up, Key::Up] {
            page.press(key).await;
            let rectangles = "const [controls, card] = [document.querySelector('#controls'), document.activeElement]
                    .map((element) => element.getBoundingClientRect());
                return card.top > controls.bottom && card.top < innerHeight";
            assert_eq!(page.js(rectangles).await, true);
        }
        page.press(Key::Up).await;
        page.press(Key::Left).await;
        page.press(Key::Left).await;
        assert_eq!(place().await, 0);
        page.press(Key::Enter).await;
        page.until("document.querySelector('#enlarged').open").await;
        assert_eq!(page.text("#enlarged-question").await, those(data, |_| true)[0]);
        page.press(Key::Escape).await;
        page.until("!document.querySelector('#enlarged').open").await;
        assert_eq!(place().await, 0);
    });
}

#[test]
fn the_page_fits_a_phone() {
    on_report([360, 740], async |page, _| {
        page.assert_fits_width(360).await;
        page.screenshot("report-phone-head").await;
        page.js("document.querySelector('#controls').scrollIntoView()").await;
        page.screenshot("report-phone-controls").await;
        page.js("document.querySelector('.card').scrollIntoView()").await;
        page.until("document.querySelector('.card img').naturalWidth > 0").await;
        page.screenshot("report-phone-card").await;
        page.click(".card h3").await;
        page.until("document.querySelector('#enlarged').open").await;
        page.assert_fits_width(360).await;
        page.until("document.querySelector('#enlarged img').naturalWidth > 0").await;
        page.screenshot("report-phone-enlarged").await;
    });
}

#[test]
fn texts_are_readable_in_light_and_dark() {
    on_report(DESKTOP, async |page, _| {
        for is_dark in [false, true] {
            page.set_dark(is_dark).await;
            page.js("scrollTo(0, 0)").await;
            let name = if is_dark { "dark" } else { "light" };
            page.screenshot(&format!("report-{name}")).await;
            let (contrast, text) = page.least_contrast().await;
            assert!(contrast >= 4.5, "{name}: {contrast} for {text:?}");
            page.click(".card h3").await;
            page.until("document.querySelector('#enlarged').open").await;
            let (contrast, text) = page.least_contrast().await;
            assert!(contrast >= 4.5, "{name}: {contrast} for {text:?}");
            page.press(Key::Escape).await;
            page.until("!document.querySelector('#enlarged').open").await;
        }
    });
}

#[test]
fn texts_of_others_stay_texts() {
    in_browser(async |page| {
        let hostile = "<img src=x onerror=alert(1)>\"'</script><b>";
        let mut data = data();
        for key in ["question", "answer", "question_type"] {
            data["cards"][0][key] = json!(hostile);
        }
        data["cards"][0]["annotators"][0][0] = json!(hostile);
        data["cards"][0]["best"][0][0] = json!(hostile);
        let address = write_page("hostile.html", &data);
        page.open(&address).await;
        page.until("document.documentElement.dataset.ready").await;
        assert_eq!(questions(page).await[0], hostile);
        page.click(".card h3").await;
        page.until("document.querySelector('#enlarged').open").await;
        assert_eq!(page.text("#enlarged-question").await, hostile);
        assert_eq!(page.count("img[src=x], main script, dialog script, b b").await, 0);
    });
}

/// A page of 2,000 cards is quickly usable. The time is only printed, as no test should depend on the speed of a
/// machine.
#[test]
fn two_thousand_questions_are_shown_a_screen_at_a_time() {
    in_browser(async |page| {
        let mut data = data();
        let cards = data["cards"].as_array().unwrap().clone();
        let many: Vec<Value> = cards.iter().cycle().take(2000).cloned().collect();
        data["cards"] = json!(many);
        let address = write_page("many.html", &data);
        page.open(&address).await;
        page.until("document.documentElement.dataset.ready").await;
        assert_eq!(n_shown(page).await, 2000);
        assert_eq!(page.count(".card").await, 48);
        let ready = page.js("return Number(document.documentElement.dataset.ready)").await;
        // From a keystroke in the search field to the frame that shows the results.
        let search = "const started = performance.now();
            document.querySelector('#search').value = arguments[0];
            document.querySelector('#search').dispatchEvent(new Event('input', { bubbles: true }));
            return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
                done(performance.now() - started))))";
        let searched = page.js_with(search, json!(["how many"])).await.as_f64().unwrap();
        assert!(n_shown(page).await < 2000);
        println!("2,000 questions: ready after {ready} ms, searched in {searched:.0} ms");
        page.fill("#search", "").await;
        assert_eq!(n_shown(page).await, 2000);
        page.click(".card h3").await;
        page.until("document.querySelector('#enlarged').open").await;
        assert_eq!(page.text("#place").await, "1 of 2,000");
    });
}

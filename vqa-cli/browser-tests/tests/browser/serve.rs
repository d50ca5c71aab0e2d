//! Tests of the page of `vqa serve`.

use std::fs;

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::{Page, in_browser};
use crate::world::{Server, ok, picture};

/// Runs a test on the page of its own server.
fn on_page(arguments: &str, test: impl AsyncFnOnce(&Page, &mut Server)) {
    on_screen([1280, 900], arguments, test);
}

/// Like [`on_page`], on a screen of this width and height.
fn on_screen(screen: [u32; 2], arguments: &str, test: impl AsyncFnOnce(&Page, &mut Server)) {
    in_browser(async |page| {
        page.resize(screen).await;
        let mut server = Server::start(arguments);
        page.open(&server.url).await;
        page.until("document.querySelector('#model').innerText").await;
        if arguments.contains("--data") {
            page.until("document.querySelectorAll('#images li').length > 0").await;
        }
        test(page, &mut server).await;
        page.assert_no_errors().await;
        // Anything still loading would fail when the server stops.
        page.open("about:blank").await;
    });
}

/// Chooses an image of the split.
async fn choose(page: &Page, image_id: u64) {
    page.click(&format!("#images button[data-image='{image_id}']")).await;
    page.until("document.querySelector('#picture').naturalWidth > 0").await;
}

/// Waits until all thumbnails have loaded.
async fn thumbnails_loaded(page: &Page) {
    page.until("[...document.querySelectorAll('#images img')].every((image) => image.naturalWidth > 0)").await;
}

/// Asks, and waits for the answer.
async fn ask(page: &Page, question: &str) {
    page.fill("#question", question).await;
    page.click("#submit").await;
    answered(page, question).await;
}

async fn answered(page: &Page, question: &str) {
    page.until(&format!("document.querySelector('#asked').innerText === {}", json!(question))).await;
    page.until("!document.querySelector('#message').innerText").await;
}

/// The value of a metric of the server, summed over its labels.
async fn metric(page: &Page, name: &str) -> f64 {
    let text = page.js("return fetch('/metrics').then((response) => response.text())").await;
    let lines = text
        .as_str()
        .unwrap()
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn a_picture_of_the_split_is_asked_about() {
    on_page("--data val", async |page, _| {
        assert_eq!(page.count("#images li").await, 13);
        assert!(!page.is_seen("#answer").await);
        thumbnails_loaded(page).await;
        page.screenshot("serve-start").await;
        choose(page, 70).await;
        ask(page, "What color is the circle?").await;
        page.screenshot("serve-answer").await;
        assert_eq!(page.count("#answers .text").await, 5);
        // The length of each bar matches the percentage beside it.
        page.until("!document.getAnimations().length").await;
        let bars = page
            .js("return [...document.querySelectorAll('#answers li')].map((item) => [
                item.querySelector('.bar').getBoundingClientRect().width / item.getBoundingClientRect().width * 100,
                parseFloat(item.querySelector('.share').innerText)])")
            .await;
        let bars: Vec<[f64; 2]> = serde_json::from_value(bars).unwrap();
        assert!(bars.iter().all(|[width, share]| *share > 0.0 && (width - share).abs() < 0.6), "{bars:?}");
        assert!(bars.is_sorted_by(|[_, share], [_, next]| share >= next), "{bars:?}");
        let shown = page.js("return shown.reply").await;
        assert_eq!(json!(page.texts("#answers .text").await[0]), shown["answers"][0]["answer"]);
    });
}

#[test]
fn the_map_shows_where_the_model_looked() {
    on_page("--data val", async |page, _| {
        choose(page, 70).await;
        ask(page, "What color is the circle?").await;
        // A grid of 20 regions and the full picture, in an overlay of the picture's size.
        let weights: Vec<f64> = serde_json::from_value(page.js("return shown.reply.attention").await).unwrap();
        assert_eq!(page.count("#frame .region").await, 21);
        assert_eq!(weights.len(), 21);
        let rectangles = "const [a, b] = ['#picture', '#frame .regions'].map((selector) => {
                const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
                return [x, y, width, height].map(Math.round);
            });
            return [a, b]";
        let rectangles = page.js(rectangles).await;
        assert_eq!(rectangles[0], rectangles[1]);
        let most = weights.iter().copied().fold(0.0, f64::max);
        let percent = |share: f64| {
            if share < 0.1 { format!("{:.1} %", 100.0 * share) } else { format!("{:.0} %", 100.0 * share) }
        };
        let rest = page.text("#caption").await;
        assert!(rest.contains(&percent(most)), "{rest}");
        assert_eq!(page.count("#frame .region.top").await, 1);
        // The first cell lies above the region of the full picture, which is larger.
        page.hover("#frame .region[data-region='0']").await;
        page.until_says("#caption", "is here").await;
        assert!(page.text("#caption").await.starts_with(&percent(weights[0])), "{weights:?}");
        page.screenshot("serve-hover").await;
        page.leave().await;
        page.until(&format!("document.querySelector('#caption').innerText === {}", json!(rest))).await;
        page.click("#show").await;
        assert!(!page.is_seen("#frame .regions").await);
        // It stays hidden for the next answer, too.
        ask(page, "How many shapes are there?").await;
        assert!(!page.is_seen("#frame .regions").await);
        page.click("#show").await;
        assert!(page.is_seen("#frame .regions").await);
    });
}

#[test]
fn pictures_are_found_by_id_and_by_question() {
    on_page("--data val", async |page, _| {
        page.until("document.querySelector('#total').innerText === '13 pictures'").await;
        page.fill("#search", "70").await;
        page.until("document.querySelector('#total').innerText === '1 picture'").await;
        assert_eq!(page.js("return document.querySelector('#images button').dataset.image").await, "70");
        page.fill("#search", "HOW MANY").await;
        page.until("Number.parseInt(document.querySelector('#total').innerText) > 1").await;
        let titles = page.js("return fetch('/api/images?search=how+many').then((response) => response.json())").await;
        let expected: Vec<Value> =
            titles["images"].as_array().unwrap().iter().map(|image| image["image_id"].clone()).collect();
        page.until(&format!("document.querySelectorAll('#images button').length === {}", expected.len())).await;
        let found = page
            .js("return [...document.querySelectorAll('#images button')].map((button) => Number(button.dataset.image))")
            .await;
        assert_eq!(found, json!(expected));
        page.fill("#search", "zebra").await;
        page.until_says("#gallery", "No picture").await;
        // With the search cleared, all images are listed again, each once.
        page.fill("#search", "").await;
        page.until("document.querySelector('#total').innerText === '13 pictures'").await;
        assert_eq!(page.count("#images button").await, 13);
    });
}

#[test]
fn pictures_far_below_are_not_loaded_before_they_are_scrolled_to() {
    on_screen([360, 640], "--data train", async |page, _| {
        page.until("[...document.querySelectorAll('#images img')].some((image) => image.naturalWidth > 0)").await;
        let thumbnails = "vqa_http_requests_total{route=\"/api/images/{image_id}/thumbnail\",status=\"200\"}";
        // After a second, only the thumbnails near the screen are loaded.
        page.js("return new Promise((done) => setTimeout(done, 1000))").await;
        assert_eq!(page.count("#images img").await, 60);
        let n_loaded = page
            .js("return [...document.querySelectorAll('#images img')].filter((image) => image.naturalWidth > 0).length")
            .await;
        let n_loaded = n_loaded.as_f64().unwrap();
        assert!((1.0..50.0).contains(&n_loaded), "{n_loaded}");
        assert_eq!(metric(page, thumbnails).await, n_loaded);
        // The rest of the 65 are listed when the end of the list is near.
        page.js("document.querySelector('#more').scrollIntoView()").await;
        page.until("document.querySelectorAll('#images img').length === 65").await;
        page.js("document.querySelector('#more').scrollIntoView()").await;
        page.until("[...document.querySelectorAll('#images img')].at(-1).naturalWidth > 0").await;
    });
}

#[test]
fn what_the_model_does_not_know_is_named() {
    on_page("--data val", async |page, _| {
        choose(page, 70).await;
        ask(page, "What color is the zebra's umbrella?").await;
        page.until_says("#unknown", "umbrella").await;
        assert!(page.text("#unknown").await.contains("zebra"));
        assert!(!page.text("#unknown").await.contains("color"));
        page.screenshot("serve-unknown").await;
        ask(page, "What color is the circle?").await;
        assert!(!page.is_seen("#unknown").await);
    });
}

#[test]
fn what_was_asked_is_kept_for_each_picture() {
    on_page("--data val", async |page, _| {
        choose(page, 70).await;
        ask(page, "What color is the circle?").await;
        let first = page.texts("#answers li").await;
        ask(page, "How many shapes are there?").await;
        let second = page.texts("#answers li").await;
        assert_eq!(page.texts("#past button span").await, ["How many shapes are there?", "What color is the circle?"]);
        page.screenshot("serve-history").await;
        let n_asked = metric(page, "vqa_batch_questions_sum").await;
        page.click("#past li:nth-child(2) button").await;
        answered(page, "What color is the circle?").await;
        assert_eq!(page.texts("#answers li").await, first);
        page.click("#past li:nth-child(1) button").await;
        answered(page, "How many shapes are there?").await;
        assert_eq!(page.texts("#answers li").await, second);
        assert_eq!(page.js("return document.querySelector('#question').value").await, "How many shapes are there?");
        assert_eq!(metric(page, "vqa_batch_questions_sum").await, n_asked);
        // Another picture has its own history.
        choose(page, 71).await;
        assert!(!page.is_seen("#history").await);
        assert!(!page.is_seen("#answer").await);
        assert_eq!(page.count("#frame .regions").await, 0);
        choose(page, 70).await;
        assert_eq!(page.count("#past li").await, 2);
    });
}

#[test]
fn an_example_is_asked_with_a_click() {
    on_page("--data val", async |page, _| {
        // Without a picture there is nothing to ask about.
        assert_eq!(
            page.js("return [...document.querySelectorAll('#examples button')].every((button) => button.disabled)")
                .await,
            true
        );
        choose(page, 70).await;
        let example = page.text("#examples button").await;
        page.click("#examples button").await;
        answered(page, &example).await;
        assert_eq!(page.js("return document.querySelector('#question').value").await, json!(example));
    });
}

#[test]
fn a_picture_is_dropped_and_asked_about_twice() {
    on_page("", async |page, _| {
        page.screenshot("serve-empty").await;
        assert!(!page.is_seen("#gallery").await);
        let bytes = fs::read(picture("val", 70)).unwrap();
        page.drop_file("my picture.jpg", "image/jpeg", &bytes).await;
        page.until("document.querySelector('#picture').naturalWidth === 200").await;
        page.until_says("#caption", "my picture.jpg").await;
        page.js("window.sent = [];
            const send = window.fetch;
            window.fetch = (path, options) => {
              if (options) sent.push(options.body.constructor.name);
              return send(path, options);
            };")
            .await;
        ask(page, "What color is the circle?").await;
        assert_eq!(page.count("#frame .region").await, 21);
        ask(page, "How many shapes are there?").await;
        assert_eq!(metric(page, "vqa_extract_duration_seconds_count").await, 1.0);
        // The first request is a form with the file, the next is JSON with its name.
        assert_eq!(page.js("return sent").await, json!(["FormData", "String"]));
        page.screenshot("serve-dropped").await;
    });
}

#[test]
fn a_file_is_chosen() {
    on_page("", async |page, _| {
        // The file dialog is the browser's own; the test fills the field that it would set.
        let file = picture("val", 71);
        page.find("#file").await.send_keys(file.to_str().unwrap()).await.unwrap();
        page.until("document.querySelector('#picture').naturalWidth === 200").await;
        ask(page, "What color is the circle?").await;
        // The same file can be chosen again.
        page.find("#file").await.send_keys(file.to_str().unwrap()).await.unwrap();
        page.until("!document.querySelector('#answer').checkVisibility()").await;
        assert_eq!(page.texts("#past button span").await, ["What color is the circle?"]);
    });
}

#[test]
fn a_picture_that_no_browser_shows_has_a_map_all_the_same() {
    on_page("", async |page, _| {
        page.drop_file("scan.tiff", "image/tiff", &tiff(60, 40)).await;
        page.until_says("#caption", "cannot show").await;
        ask(page, "What color is the circle?").await;
        let size = "const { width, height } = document.querySelector('#frame .regions').getBoundingClientRect();
            return [width, height]";
        let [width, height] = serde_json::from_value::<[f64; 2]>(page.js(size).await).unwrap();
        assert!(width >= 200.0 && (width / height - 1.5).abs() < 0.02, "{width} x {height}");
        page.screenshot("serve-not-shown").await;
        // A picture that can be shown replaces the plain background.
        page.drop_file("p.jpg", "image/jpeg", &fs::read(picture("val", 70)).unwrap()).await;
        page.until("document.querySelector('#picture').naturalWidth === 200").await;
        ask(page, "What color is the circle?").await;
        let same = page
            .js("const [a, b] = ['#picture', '#frame'].map((s) => document.querySelector(s).getBoundingClientRect());
            return Math.abs(a.width - b.width) < 1 && Math.abs(a.height - b.height) < 1")
            .await;
        assert_eq!(same, true);
    });
}

#[test]
fn a_split_without_pictures_shows_regions() {
    on_page("--data no_pictures --config no_pictures.toml", async |page, _| {
        page.until("document.querySelector('#total').innerText === '13 pictures'").await;
        page.click("#images button[data-image='70']").await;
        ask(page, "What color is the circle?").await;
        let height = page.js("return document.querySelector('#frame .regions').getBoundingClientRect().height").await;
        assert!(height.as_f64().unwrap() > 100.0, "{height}");
        page.screenshot("serve-no-pictures").await;
    });
}

/// An uncompressed greyscale TIFF, which Chromium does not decode.
fn tiff(width: u16, height: u16) -> Vec<u8> {
    let n_pixels = width * height;
    let entries: [(u16, u16); 9] = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 122),
        (277, 1),
        (278, height),
        (279, n_pixels),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, value) in entries {
        bytes.extend([tag, 3, 1, 0, value, 0].into_iter().flat_map(u16::to_le_bytes));
    }
    bytes.extend([0; 4]);
    assert_eq!(bytes.len(), 122);
    bytes.extend((0..n_pixels).map(|i| (i % 251) as u8));
    bytes
}

#[test]
fn a_verdict_is_kept_and_can_be_imported() {
    on_page("--data val", async |page, server| {
        choose(page, 70).await;
        ask(page, "What color is the circle?").await;
        page.click("#right").await;
        page.until_says("#saved", "Saved").await;
        let right = page.text("#answers .text").await;
        // A verdict on a picture of the user's own, with the right answer.
        page.drop_file("mine.jpg", "image/jpeg", &fs::read(picture("val", 71)).unwrap()).await;
        ask(page, "How many shapes are there?").await;
        page.click("#wrong").await;
        page.until("document.activeElement.id === 'correct'").await;
        page.screenshot("serve-verdict").await;
        page.type_text("forty-two").await;
        page.press(Key::Enter).await;
        page.until_says("#saved", "Saved").await;
        let lines = fs::read_to_string(server.directory.path().join("verdicts.jsonl")).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["question"], "What color is the circle?");
        assert_eq!([&lines[0]["answer"], &lines[0]["model_answer"]], [&json!(right); 2]);
        assert_eq!(lines[0]["right"], true);
        let shown = page.text("#answers .text").await;
        assert_eq!([&lines[1]["answer"], &lines[1]["model_answer"]], [&json!("forty-two"), &json!(shown)]);
        assert_eq!(lines[1]["right"], false);
        ok(server.directory.path(), "import verdicts.jsonl --images verdicts_pictures --out mine --val 0.5");
        let config = fs::read_to_string(server.directory.path().join("mine/config.toml")).unwrap();
        assert!(config.contains("[[data.train.composition]]"), "{config}");
    });
}

#[test]
fn a_file_that_is_no_picture_is_refused_in_words() {
    on_page("--data val", async |page, _| {
        page.drop_file("notes.txt", "text/plain", b"no picture at all").await;
        page.fill("#question", "What is it?").await;
        page.click("#submit").await;
        page.until("document.querySelector('#message.alert')?.innerText").await;
        let message = page.text("#message").await;
        assert!(message.contains("picture") || message.contains("image"), "{message}");
        assert!(!message.contains("undefined") && !message.contains('{'), "{message}");
        page.screenshot("serve-no-picture").await;
        let errors = page.take_errors().await;
        assert!(errors.len() == 1 && errors[0].contains("422"), "{errors:?}");
        // The page still works with another picture.
        choose(page, 70).await;
        assert!(!page.is_seen("#message").await);
        ask(page, "What color is the circle?").await;
    });
}

#[test]
fn a_server_that_was_stopped_is_named() {
    on_page("--data val", async |page, server| {
        choose(page, 70).await;
        ask(page, "What color is the circle?").await;
        thumbnails_loaded(page).await;
        server.stop();
        page.fill("#question", "How many shapes are there?").await;
        page.click("#submit").await;
        page.until_says("#message.alert", "The server does not answer. Is it still running?").await;
        assert!(!page.is_seen("#answer").await);
        page.screenshot("serve-stopped").await;
        let errors = page.take_errors().await;
        assert!(errors.len() == 1 && errors[0].contains("ERR_CONNECTION_REFUSED"), "{errors:?}");
    });
}

#[test]
fn everything_is_reached_with_the_keyboard() {
    on_page("--data val", async |page, _| {
        // Before a picture is chosen "/" goes to the button that chooses one.
        page.type_text("/").await;
        assert_eq!(focused(page).await, "choose");
        page.js("document.activeElement.blur()").await;
        // Tab to the first image of the split, and choose it.
        for _ in 0..50 {
            page.press(Key::Tab).await;
            assert_focus_is_visible(page).await;
            if focused(page).await == "image" {
                break;
            }
        }
        page.press(Key::Enter).await;
        page.until("document.querySelector('#picture').naturalWidth > 0").await;
        page.until("document.activeElement.id === 'question'").await;
        page.type_text("What color is the circle?").await;
        page.press(Key::Enter).await;
        answered(page, "What color is the circle?").await;
        // Typing replaces the old question, "/" in the field is not a shortcut, and Escape leaves the field.
        page.type_text("1/2?").await;
        assert_eq!(page.js("return document.querySelector('#question').value").await, "1/2?");
        page.press(Key::Escape).await;
        assert_eq!(page.js("return document.activeElement === document.body").await, true);
        page.type_text("/").await;
        assert_eq!(focused(page).await, "question");
        assert_eq!(page.js("return document.querySelector('#question').value").await, "1/2?");
        // Once around the page: Tab reaches every control, in the order of the page.
        page.js("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)").await;
        page.js("const controls = [...document.querySelectorAll('button, input, a')]
            .filter((control) => control.checkVisibility() && !control.disabled);
            controls.forEach((control, i) => { control.dataset.order = i; })")
            .await;
        let n_controls = page.count("[data-order]").await;
        assert!(n_controls > 20, "{n_controls}");
        page.js("document.querySelector('[data-order=\"0\"]').focus()").await;
        for order in 0..n_controls {
            assert_eq!(page.js("return Number(document.activeElement.dataset.order ?? -1)").await, order);
            // A focus set by the page is visible only after a key was pressed.
            if order > 0 {
                assert_focus_is_visible(page).await;
            }
            if focused(page).await == "right" {
                page.screenshot("serve-keyboard").await;
            }
            page.press(Key::Tab).await;
        }
        assert_eq!(page.js("return Number(document.activeElement.dataset.order ?? -1)").await, -1);
        // The checkbox and the verdict buttons.
        page.js("document.querySelector('#submit').focus()").await;
        while focused(page).await != "show" {
            page.press(Key::Tab).await;
        }
        page.type_text(" ").await;
        assert!(!page.is_seen("#frame .regions").await);
    });
}

/// The id of the focused element, or else its kind.
async fn focused(page: &Page) -> String {
    let body =
        "const { id, tagName, dataset } = document.activeElement; return id || (dataset.image ? 'image' : tagName)";
    page.js(body).await.as_str().unwrap().to_owned()
}

/// Fails unless the focused element has an outline and is on the screen.
async fn assert_focus_is_visible(page: &Page) {
    let body = "const at = document.activeElement;
        const { outlineStyle, outlineWidth } = getComputedStyle(at);
        const { top, bottom, left, right } = at.getBoundingClientRect();
        return [at.matches(':focus-visible'), outlineStyle, parseFloat(outlineWidth) >= 2,
            (top + bottom) / 2 > 0 && (top + bottom) / 2 < innerHeight && left >= 0 && right <= innerWidth + 1]";
    let found = page.js(body).await;
    assert_eq!(
        found,
        json!([true, "solid", true, true]),
        "{}",
        page.js("return document.activeElement.outerHTML").await
    );
}

#[test]
fn the_page_fits_a_phone() {
    on_screen([360, 740], "--data val", async |page, _| {
        page.assert_fits_width(360).await;
        page.screenshot("serve-phone-start").await;
        choose(page, 70).await;
        ask(page, "What color is the circle-with-a-very-long-word-that-cannot-be-broken-anywhere-at-all?").await;
        page.assert_fits_width(360).await;
        page.screenshot("serve-phone-answer").await;
        page.click("#wrong").await;
        page.assert_fits_width(360).await;
        page.js("scrollTo(0, document.body.scrollHeight)").await;
        page.screenshot("serve-phone-end").await;
        // Controls are large enough to touch with a finger.
        let small = page
            .js("return [...document.querySelectorAll('button, input:not([hidden])')]
            .filter((control) => control.checkVisibility())
            .map((control) => control.closest('label') ?? control)
            .filter((control) => control.getBoundingClientRect().height < 24).map((control) => control.outerHTML)")
            .await;
        assert_eq!(small, json!([]));
    });
}

#[test]
fn texts_are_readable_in_light_and_dark() {
    on_page("--data val", async |page, _| {
        for is_dark in [false, true] {
            page.set_dark(is_dark).await;
            let name = if is_dark { "dark" } else { "light" };
            choose(page, 70).await;
            ask(page, "What color is the umbrella?").await;
            page.click("#wrong").await;
            page.until("!document.getAnimations().length").await;
            page.screenshot(&format!("serve-{name}")).await;
            let ground = page.js("return getComputedStyle(document.body).backgroundColor").await;
            assert_eq!(ground == "rgb(22, 24, 28)", is_dark, "{ground}");
            let (contrast, text) = page.least_contrast().await;
            assert!(contrast >= 4.5, "{name}: {contrast} for {text:?}");
            page.fill("#search", "zebra").await;
            page.until_says("#gallery", "No picture").await;
            let (contrast, text) = page.least_contrast().await;
            assert!(contrast >= 4.5, "{name}: {contrast} for {text:?}");
            page.fill("#search", "").await;
        }
    });
}

#[test]
fn texts_of_others_stay_texts() {
    on_page("--data val", async |page, _| {
        let hostile = "<img src=x onerror=alert(1)>\"'</script><b>";
        choose(page, 70).await;
        ask(page, hostile).await;
        assert_eq!(page.text("#past button span").await, hostile);
        assert!(page.text("#unknown").await.contains("img"));
        page.fill("#search", hostile).await;
        page.until_says("#gallery", "No picture").await;
        page.drop_file(
            &format!("{hostile}.jpg").replace('/', ""),
            "image/jpeg",
            &fs::read(picture("val", 71)).unwrap(),
        )
        .await;
        page.until_says("#caption", "<img src=x").await;
        ask(page, hostile).await;
        assert_eq!(page.count("main img[src=x], main b b, main script").await, 0);
        assert_eq!(page.js("return document.querySelector('#picture').alt.startsWith('<img src=x')").await, true);
    });
}

//! The page that shows all folders: `index.html`.

use serde::Serialize;

use crate::numbered_boxes::COLORS;
use crate::report::card::Cards;
use crate::report::contents::Page;
use crate::report::head::{escape, head};

/// The data that the script reads.
#[derive(Serialize)]
struct Data<'a> {
    style: &'static str,
    /// The colours of the numbers on the maps, by rank.
    rank_colors: Vec<String>,
    #[serde(flatten)]
    cards: &'a Cards,
}

/// Renders the page. It needs no network, and no files but the pictures in the folders.
pub(super) fn html(page: &Page) -> String {
    let color = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
    let data =
        Data { style: page.style.name(), rank_colors: COLORS.into_iter().map(color).collect(), cards: page.cards };
    let data = serde_json::to_string(&data).expect("strings, finite numbers and lists");
    let parts = [
        ("title", escape(page.title)),
        ("style", include_str!("page/style.css").to_owned()),
        ("head", head(page)),
        ("data", in_script(&data)),
        ("regions", include_str!("../page/regions.js").to_owned()),
        ("script", include_str!("page/page.js").to_owned()),
    ];
    fill(include_str!("page/page.html"), &parts)
}

/// Escapes JSON so that it can stand in a script element: nothing in its strings can begin or end a tag or a comment.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// Replaces each `{{name}}` in the template with the part of that name. Anything in a part that looks like a name is
/// left as it is.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(template.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut pieces = template.split("{{");
    filled.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        let part = parts.iter().find(|(known, _)| *known == name);
        filled.push_str(&part.unwrap_or_else(|| panic!("the template has no {name}")).1);
        filled.push_str(rest);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map_style::MapStyle;
    use crate::report::contents::Skipped;
    use crate::report::explained::ExplainedQuestion;

    /// Whatever the questions and answers contain, the page has the same elements and the script reads the original
    /// text.
    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</script><img src=x onerror=alert(1)> \"quoted\" 'single' & \\ <!-- {{title}} \u{2028} é\0";
        let mut cards = Cards::default();
        let explained = ExplainedQuestion {
            question: hostile.to_owned(),
            answer: hostile.to_owned(),
            best: vec![(hostile.to_owned(), 0.5)],
            annotators: vec![(hostile.to_owned(), 3)],
            answer_type: Some(hostile.to_owned()),
            boxes: vec![[0.0, f32::NAN, 1.0, f32::INFINITY]],
            attention: vec![f32::NAN],
            ..ExplainedQuestion::default()
        };
        cards.push(&explained, MapStyle::Boxes, (4, 4));
        let skipped = [Skipped { question_id: 1, question: hostile.to_owned(), problem: hostile.to_owned() }];
        let notes = [hostile.to_owned()];
        let page = Page {
            title: hostile,
            notes: &notes,
            style: MapStyle::Boxes,
            scores: None,
            cards: &cards,
            skipped: &skipped,
        };
        let page = html(&page);
        assert_eq!(page.matches("</script>").count(), 2, "the data's and the script's");
        assert!(!page.contains("<img src=x") && !page.contains("<!--"));
        let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        let card = &data["cards"][0];
        for text in [&card["question"], &card["answer"], &card["best"][0][0], &card["annotators"][0][0]] {
            assert_eq!(text, hostile);
        }
        assert_eq!(card["weights"], serde_json::json!([0.0]));
    }

    #[test]
    fn nothing_comes_from_a_network() {
        let page = Page {
            title: "title",
            notes: &[],
            style: MapStyle::Article,
            scores: None,
            cards: &Cards::default(),
            skipped: &[],
        };
        let page = html(&page).replace("http://www.w3.org/2000/svg", "");
        for address in ["http:", "https:", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML", "<link"] {
            assert!(!page.contains(address), "{address}");
        }
    }
}

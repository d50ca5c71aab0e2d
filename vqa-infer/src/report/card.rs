//! A question on the page.

use crate::report::explained::Explained;

pub(super) fn card(explained: &Explained, folder: &str, (width, height): (u32, u32)) -> String {
    let verdict = match explained.soft_score {
        None => "unknown",
        Some(score) if score >= 0.9 => "right",
        Some(score) if score > 0.0 => "partly",
        Some(_) => "wrong",
    };
    let question = escape(&explained.question);
    let answer = escape(&explained.answer);
    let bars: String = explained
        .best
        .iter()
        .map(|(answer, p)| {
            let percent = (100.0 * p).round();
            format!("<li><i style=\"width:{percent}%\"></i><span>{}</span><b>{percent} %</b></li>", escape(answer))
        })
        .collect();
    let people = if explained.annotators.is_empty() {
        "not annotated".to_owned()
    } else {
        let counted = explained.annotators.iter().map(|(answer, n)| format!("{} ({n})", escape(answer)));
        counted.collect::<Vec<_>>().join(", ")
    };
    format!(
        "<article class=\"{verdict}\">\n<div class=\"pictures\">\
         <img src=\"{folder}/original.jpg\" alt=\"picture\" width=\"{width}\" height=\"{height}\" loading=\"lazy\">\
         <img src=\"{folder}/topdown_att.jpg\" alt=\"where the model looked\" width=\"{width}\" \
         height=\"{height}\" loading=\"lazy\"></div>\n\
         <h2>{question}</h2>\n<p class=\"answer\">{answer}</p>\n<ul>{bars}</ul>\n\
         <p class=\"people\"><b>people:</b> {people}</p>\n</article>\n"
    )
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

//! The head of the page, readable without scripts: scores, calibration, confusions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::calibration::{Calibration, CalibrationBin};
use crate::map_style::MapStyle;
use crate::report::contents::Page;
use crate::report::scores::Scores;

/// How many question types are shown at first; the rest are folded away.
const N_TYPES: usize = 8;

/// Title, notes, scores, a legend for the maps, and the questions left out.
pub(super) fn head(page: &Page) -> String {
    let mut html = format!("<h1>{}</h1>\n", escape(page.title));
    for note in page.notes {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    match page.scores {
        Some(scores) => html.push_str(&scores_html(scores)),
        None => {
            html.push_str(
                "<p class=\"note\">No scores are shown: the split has no annotations, or the report was made without \
                 scores.</p>\n",
            );
        }
    }
    html.push_str(&legend(page.style));
    if !page.skipped.is_empty() {
        let n = page.skipped.len();
        let _ = writeln!(
            html,
            "<details class=\"skipped\"><summary>{n} question{} left out, for want of a picture</summary><ul>",
            plural(n)
        );
        for skipped in page.skipped {
            let (question, problem) = (escape(&skipped.question), escape(&skipped.problem));
            let _ = writeln!(html, "<li>{}: {question} <span>{problem}</span></li>", skipped.question_id);
        }
        html.push_str("</ul></details>\n");
    }
    html
}

fn scores_html(scores: &Scores) -> String {
    let mut html = String::from("<section class=\"tiles\" aria-label=\"Scores of the whole split\">\n");
    let mut tile = |name: &str, value: String, explanation: &str| {
        let _ = writeln!(
            html,
            "<div class=\"tile\" title=\"{explanation}\"><span>{name}</span><strong>{value}</strong></div>"
        );
    };
    tile("Questions", grouped(scores.n_questions), "in the whole split, some of which are shown as cards");
    tile(
        "Official accuracy",
        format!("{:.1} %", scores.accuracy.overall),
        "min(1, other annotators who gave the answer / 3), averaged over leaving out each annotator in turn",
    );
    tile(
        "Soft score",
        format!("{:.1} %", scores.soft_score),
        "min(1, 0.3 × annotators who gave the answer), averaged over the questions",
    );
    if let Some((_, blind)) = &scores.blind {
        tile(
            "Blind",
            format!("{:.1} %", blind.overall),
            "official accuracy when asked about another image of the split",
        );
        tile(
            "Looking adds",
            format!("{:+.1}", scores.accuracy.overall - blind.overall).replace('-', "−"),
            "percentage points of official accuracy that the right image adds",
        );
    }
    tile(
        "Calibration error",
        format!("{:.1}", scores.calibration.ece),
        "how far confidence and soft score are apart, the mean over the questions in percentage points (ECE, ten bins)",
    );
    html.push_str("</section>\n<div class=\"panels\">\n");
    html.push_str(&types_html(scores));
    html.push_str(&calibration_html(&scores.calibration));
    if !scores.confusions.is_empty() {
        html.push_str(&confusions_html(scores));
    }
    html.push_str("</div>\n");
    html
}

/// Official accuracy by answer type and question type, beside that of the blind model.
fn types_html(scores: &Scores) -> String {
    let blind = scores.blind.as_ref().map(|(_, accuracy)| accuracy);
    let mut html = String::from("<section class=\"panel types\"><h2>By type</h2>\n");
    let table = |rows: &str, caption: &str, name: &str| {
        let blind = if blind.is_some() { "<th scope=\"col\">blind</th>" } else { "" };
        format!(
            "<table><caption class=\"unseen\">{caption}</caption><thead><tr><th scope=\"col\">{name}</th>\
             <th scope=\"col\"><span class=\"unseen\">questions</span></th><th scope=\"col\"><span class=\"unseen\">bar\
             </span></th><th scope=\"col\">model</th>{blind}</tr></thead><tbody>\n{rows}</tbody></table>\n"
        )
    };
    let rows =
        |counts: &BTreeMap<String, usize>, model: &BTreeMap<String, f64>, blind: Option<&BTreeMap<String, f64>>| {
            let mut types: Vec<(&String, &usize)> = counts.iter().collect();
            types.sort_by_key(|&(_, &n)| Reverse(n));
            let row = |(name, &n): (&String, &usize)| {
                let blind = blind.map(|blind| blind.get(name).copied().unwrap_or_default());
                type_row(name, n, model.get(name).copied().unwrap_or_default(), blind)
            };
            types.into_iter().map(row).collect::<Vec<String>>()
        };
    let accuracy = &scores.accuracy;
    let of_answers = rows(&scores.answer_types, &accuracy.per_answer_type, blind.map(|blind| &blind.per_answer_type));
    let of_questions =
        rows(&scores.question_types, &accuracy.per_question_type, blind.map(|blind| &blind.per_question_type));
    html.push_str(&table(&of_answers.concat(), "Official accuracy by answer type, in percent", "answer type"));
    let (shown, folded) = of_questions.split_at(of_questions.len().min(N_TYPES));
    html.push_str(&table(&shown.concat(), "Official accuracy by question type, in percent", "question type"));
    if !folded.is_empty() {
        let _ = writeln!(html, "<details><summary>{} more question types</summary>", folded.len());
        html.push_str(&table(&folded.concat(), "Official accuracy by further question types", "question type"));
        html.push_str("</details>\n");
    }
    let blind = if blind.is_some() { ", and the line that of answers about another image (blind)" } else { "" };
    let _ = writeln!(html, "<p class=\"hint\">The bar is the official accuracy in percent{blind}.</p></section>");
    html
}

fn type_row(name: &str, n: usize, model: f64, blind: Option<f64>) -> String {
    let (mark, value) = match blind {
        Some(blind) => (
            format!("<line x1=\"{blind:.1}\" x2=\"{blind:.1}\" y1=\"0\" y2=\"10\" class=\"blind\"/>"),
            format!("<td class=\"soft\">{blind:.1}</td>"),
        ),
        None => (String::new(), String::new()),
    };
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"soft\">{}</td><td class=\"bar\"><svg viewBox=\"0 0 100 10\" \
         preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"ground\" width=\"100\" height=\"10\"/><rect \
         class=\"value\" width=\"{model:.1}\" height=\"10\"/>{mark}</svg></td><td>{model:.1}</td>{value}</tr>\n",
        escape(name),
        grouped(n)
    )
}

/// A chart of the soft score of the answers by confidence, and of how many answers each bin has.
fn calibration_html(calibration: &Calibration) -> String {
    let mut html = String::from("<section class=\"panel calibration\"><h2>Does it know what it knows?</h2>\n");
    let most = calibration.bins.iter().map(|bin| bin.n_questions).max().unwrap_or(0).max(1) as f64;
    // The plot is 210 by 200 units, with room for the labels of its axes.
    html.push_str(
        "<svg viewBox=\"0 0 262 292\" role=\"img\" aria-label=\"Soft score by confidence, and number of questions\">\n\
         <g transform=\"translate(40 8)\">\n",
    );
    for percent in [0, 25, 50, 75, 100] {
        let y = 200 - 2 * percent;
        let _ = writeln!(
            html,
            "<line class=\"grid\" x1=\"0\" x2=\"210\" y1=\"{y}\" y2=\"{y}\"/><text class=\"left\" x=\"-6\" \
             y=\"{}\">{percent}</text><text class=\"below\" x=\"{}\" y=\"268\">{percent}</text>",
            y + 3,
            percent * 21 / 10
        );
    }
    for (i, bin) in calibration.bins.iter().enumerate() {
        let CalibrationBin { n_questions, confidence, score } = *bin;
        let x = 21 * i;
        let n_height = 44.0 * n_questions as f64 / most;
        let said = match n_questions {
            0 => format!("{} to {} %: no answer", 10 * i, 10 * i + 10),
            n => format!(
                "{} to {} %: {} answer{}, confidence {confidence:.1} %, soft score {score:.1} %",
                10 * i,
                10 * i + 10,
                grouped(n),
                plural(n)
            ),
        };
        let _ = write!(html, "<g><title>{said}</title><rect class=\"touch\" x=\"{x}\" width=\"21\" height=\"254\"/>");
        if n_questions > 0 {
            let _ = write!(
                html,
                "<rect class=\"value\" x=\"{}\" y=\"{:.1}\" width=\"17\" height=\"{:.1}\"/><line class=\"sure\" \
                 x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><rect class=\"count\" x=\"{}\" y=\"{:.1}\" \
                 width=\"17\" height=\"{n_height:.1}\"/>",
                x + 2,
                200.0 - 2.0 * score,
                2.0 * score,
                x + 1,
                x + 20,
                x + 2,
                254.0 - n_height,
                y = 200.0 - 2.0 * confidence
            );
        }
        html.push_str("</g>\n");
    }
    html.push_str(
        "<line class=\"diagonal\" x1=\"0\" y1=\"200\" x2=\"210\" y2=\"0\"/>\n\
         <text class=\"below name\" x=\"105\" y=\"282\">confidence, %</text>\n\
         <text class=\"below name\" transform=\"translate(-28 100) rotate(-90)\">soft score, %</text>\n</g></svg>\n",
    );
    let _ = writeln!(
        html,
        "<p class=\"hint\">Bars: the mean soft score of the answers at each confidence. Red: their mean confidence; \
         for a well-calibrated model, the bars end there. Here they are {:.1} points apart on average (ECE). Grey: how \
         many answers there are.</p></section>",
        calibration.ece
    );
    html
}

fn confusions_html(scores: &Scores) -> String {
    let mut html = String::from(
        "<section class=\"panel confusions\"><h2>Most frequent confusions</h2>\n<table><thead><tr><th \
         scope=\"col\">people say</th><th scope=\"col\">the model says</th><th scope=\"col\">times</th></tr></thead>\
         <tbody>\n",
    );
    for pair in &scores.confusions {
        let (truth, answer) = (escape(&pair.truth), escape(&pair.answer));
        let n = grouped(pair.n_questions);
        let _ = writeln!(html, "<tr><td>{truth}</td><td class=\"wrong\">{answer}</td><td>{n}</td></tr>");
    }
    let _ = writeln!(
        html,
        "</tbody></table><p class=\"hint\">Of {} answers that no annotator gave.</p></section>",
        grouped(scores.n_wrong)
    );
    html
}

/// Explains the colours of a map.
fn legend(style: MapStyle) -> String {
    let (scale, text) = match style {
        MapStyle::Article => (
            "<i class=\"scale white\"></i>",
            "The picture fades into white where the model did not look. The red frame is around the most attended \
             region.",
        ),
        MapStyle::Heat => (
            "<i class=\"scale heat\"></i>",
            "From dark, where the model did not look, to yellow, where it looked most. The white frame is around the \
             most attended region.",
        ),
        MapStyle::Boxes => (
            "<i class=\"scale numbered\"></i>",
            "The most attended regions, at most ten, numbered from the most attended one.",
        ),
    };
    format!(
        "<p class=\"legend\"><b>Maps</b> {scale} {text} Point at a picture to see each region's share of the \
         attention.</p>\n"
    )
}

/// Formats a number with commas between groups of thousands.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let (first, rest) = digits.split_at(first);
    rest.as_bytes().chunks(3).fold(first.to_owned(), |text, three| text + "," + &String::from_utf8_lossy(three))
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Escapes text for use in an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [0, 12, 999, 1000, 214_354, 1_000_000].map(grouped),
            ["0", "12", "999", "1,000", "214,354", "1,000,000"]
        );
    }
}

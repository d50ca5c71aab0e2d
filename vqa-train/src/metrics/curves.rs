//! Plots a run: scores, loss and learning rate over the epochs.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::metrics::lines::{EpochMetrics, Line, StepMetrics};

const SIZE: (u32, u32) = (960, 900);

/// Heights of the panels for scores and loss. The learning rate gets the rest.
const HEIGHTS: [u32; 2] = [390, 290];

/// Left and right margin of the plot.
const MARGIN: i32 = 28;

// A white background of its own, so that the plot looks the same in light and dark viewers.
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(31, 41, 55);
const PALE_INK: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const TRAIN: RGBColor = RGBColor(37, 99, 235);
const VAL: RGBColor = RGBColor(217, 119, 6);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
/// The result of drawing into a string, which never fails in fact.
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Points of a curve: (epoch, value).
type Points = Vec<(f64, f64)>;

/// Draws the lines of `metrics.jsonl` as an SVG. Returns `None` if no epoch is finished.
pub(crate) fn draw(title: &str, lines: impl Iterator<Item = Line>) -> Option<String> {
    let (mut steps, mut epochs) = (Vec::new(), Vec::new());
    lines.for_each(|line| match line {
        Line::Step(step) => steps.push(step),
        Line::Epoch(epoch) => epochs.push(epoch),
    });
    let last = epochs.last()?;
    // The number of steps per epoch, to place steps between epochs. Files of older versions do not have it.
    let n_steps = last.step.map_or(f64::INFINITY, |step| step as f64 / last.epoch as f64);
    let of_steps = |value: fn(&StepMetrics) -> f64| -> Points {
        let placed = |step: &StepMetrics| (step.step as f64 / n_steps, value(step));
        steps.iter().filter(|_| n_steps.is_finite()).map(placed).filter(|(_, y)| y.is_finite()).collect()
    };
    let of_epochs = |value: fn(&EpochMetrics) -> Option<f64>| -> Points {
        epochs
            .iter()
            .filter_map(|epoch| Some((epoch.epoch as f64, value(epoch)?)))
            .filter(|(_, y)| y.is_finite())
            .collect()
    };
    let x_max = epochs.iter().map(|epoch| epoch.epoch as f64).fold(1.0, f64::max);

    let (train_scores, val_scores) = (of_epochs(|epoch| Some(epoch.train_score)), of_epochs(|epoch| epoch.val_score));
    let (step_scores, bounds) = (of_steps(|step| step.score), of_epochs(|epoch| epoch.val_upper_bound));
    let best = val_scores.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best });
    let beside = |best: (f64, f64)| train_scores.iter().find(|train| train.0 == best.0);
    let scores = Panel {
        title: "Soft score, %",
        range: range(&step_scores, &[&train_scores, &val_scores, &bounds]),
        best,
        best_is_above: best.is_some_and(|best| beside(best).is_none_or(|train| train.1 < best.1)),
        curves: vec![
            Curve::steps(step_scores),
            Curve::of("train", TRAIN, train_scores),
            Curve::of("val", VAL, val_scores),
            Curve { dashed: true, marked: false, ..Curve::of("upper bound", PALE_INK, bounds) },
        ],
        format: [|y| format!("{y:.0}"), |y| format!("{y:.2}")],
    };
    let (train_losses, val_losses) = (of_epochs(|epoch| Some(epoch.train_loss)), of_epochs(|epoch| epoch.val_loss));
    let step_losses = of_steps(|step| step.loss);
    // The first epoch's mean loss includes the high loss of the first steps, so it does not set the scale.
    let settled = train_losses.iter().skip(usize::from(train_losses.len() > 2)).copied().collect();
    let losses = Panel {
        title: "Loss of a question",
        range: range(&step_losses, &[&settled, &val_losses]),
        best: None,
        best_is_above: false,
        curves: vec![
            Curve::steps(step_losses),
            Curve::of("train", TRAIN, train_losses),
            Curve::of("val", VAL, val_losses),
        ],
        format: [short, |y| format!("{y:.3}")],
    };
    let rates = of_steps(|step| step.lr);
    let lr = Panel {
        title: "Learning rate",
        range: 0.0..1.1 * range(&Points::new(), &[&rates]).end,
        best: None,
        best_is_above: false,
        curves: vec![Curve { marked: rates.len() == 1, ..Curve::of("lr", INK, rates) }],
        format: [short, short],
    };

    let mut svg = String::new();
    let mut paint = || -> Drawn {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&PAPER)?;
        root.draw(&Text::new(title.to_owned(), (MARGIN, 20), font(22, INK, HPos::Left)))?;
        let (_, below) = root.split_vertically(52);
        let (top, below) = below.split_vertically(HEIGHTS[0]);
        let (middle, bottom) = below.split_vertically(HEIGHTS[1]);
        scores.draw(&top, x_max)?;
        losses.draw(&middle, x_max)?;
        lr.draw(&bottom, x_max)?;
        root.present()
    };
    paint().expect("a string can be written to");
    Some(svg)
}

/// A curve of a panel.
struct Curve {
    /// Its name in the legend; `None` for a background curve, which has no entry there.
    name: Option<&'static str>,
    color: RGBAColor,
    dashed: bool,
    /// Whether its points are marked.
    marked: bool,
    points: Points,
}

impl Curve {
    fn of(name: &'static str, color: RGBColor, points: Points) -> Curve {
        let marked = points.len() <= 40;
        Curve { name: Some(name), color: color.to_rgba(), dashed: false, marked, points }
    }

    /// The individual steps, drawn behind the curve of the epochs' means.
    fn steps(points: Points) -> Curve {
        Curve { name: None, color: TRAIN.mix(0.3), dashed: false, marked: false, points }
    }
}

/// A chart with a title and a legend.
struct Panel {
    title: &'static str,
    curves: Vec<Curve>,
    /// The range of values shown.
    range: Range<f64>,
    /// A point to label as the best.
    best: Option<(f64, f64)>,
    /// Whether its label goes above it, rather than below.
    best_is_above: bool,
    /// How values are formatted, at the axis and in the legend.
    format: [fn(f64) -> String; 2],
}

impl Panel {
    fn draw(&self, area: &Area, x_max: f64) -> Drawn {
        if self.curves.iter().all(|curve| curve.points.is_empty()) {
            return Ok(());
        }
        area.draw(&Text::new(self.title, (MARGIN, 12), font(17, INK, HPos::Left)))?;
        let mut right = SIZE.0 as i32 - MARGIN;
        for curve in self.curves.iter().rev() {
            let (Some(name), Some(&(_, last))) = (curve.name, curve.points.last()) else { continue };
            let entry = format!("{name} {}", self.format[1](last));
            area.draw(&Text::new(entry.clone(), (right, 13), font(15, INK, HPos::Right)))?;
            // Letters are about half as wide as they are high.
            right -= 7 * entry.len() as i32 + 14;
            let line = [(right - 24, 21), (right, 21)];
            let pieces =
                if curve.dashed { vec![[line[0], (right - 16, 21)], [(right - 8, 21), line[1]]] } else { vec![line] };
            for piece in pieces {
                area.draw(&PathElement::new(piece, curve.color.stroke_width(3)))?;
            }
            right -= 48;
        }

        let mut chart = ChartBuilder::on(area)
            .margin_top(38)
            .margin_left(MARGIN - 8)
            .margin_right(MARGIN)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..x_max, self.range.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(PALE_INK)
            .x_labels(14.min(x_max as usize + 1))
            .y_labels(area.dim_in_pixel().1 as usize / 50)
            .label_style(("sans-serif", 13).with_color(PALE_INK))
            .x_label_formatter(&|&x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|&y| self.format[0](y))
            .draw()?;
        for curve in &self.curves {
            let points = || curve.points.iter().copied().filter(|(_, y)| self.range.contains(y));
            let width = if curve.name.is_some() { 2 } else { 1 };
            if curve.dashed {
                chart.draw_series(DashedLineSeries::new(points(), 7, 6, curve.color.stroke_width(width)))?;
            } else {
                chart.draw_series(LineSeries::new(points(), curve.color.stroke_width(width)))?;
            }
            if curve.marked {
                chart.draw_series(points().map(|point| Circle::new(point, 3, curve.color.filled())))?;
            }
        }
        if let Some((x, y)) = self.best {
            chart.draw_series([Circle::new((x, y), 6, VAL.stroke_width(2))])?;
            // Next to the validation curve, on the side away from the training curve.
            let (right, anchor) = if x > 0.8 * x_max { (-10, HPos::Right) } else { (10, HPos::Left) };
            let down = if self.best_is_above { -26 } else { 12 };
            let name = format!("best {}, epoch {x}", self.format[1](y));
            let name = Text::new(name, (right, down), font(14, VAL, anchor));
            chart.draw_series([EmptyElement::at((x, y)) + name])?;
        }
        Ok(())
    }
}

fn font(size: u32, color: RGBColor, anchor: HPos) -> TextStyle<'static> {
    ("sans-serif", size).with_color(color).with_anchor::<RGBColor>(Pos::new(anchor, VPos::Top)).into_text_style(&SIZE)
}

/// Returns a range that shows these values, with some room around them. It ignores the highest twentieth of the
/// `steps`, since the first steps of a run can have a loss far above all others; these may be cut off.
fn range(steps: &Points, others: &[&Points]) -> Range<f64> {
    let mut steps: Vec<f64> = steps.iter().map(|point| point.1).collect();
    steps.sort_by(f64::total_cmp);
    steps.truncate(steps.len() - steps.len().div_ceil(20).min(steps.len() / 4));
    let values = steps.iter().copied().chain(others.iter().flat_map(|points| points.iter().map(|point| point.1)));
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    let room = 0.06 * (high - low).max(1e-3 * high.abs()).max(1e-12);
    (low - room).max(0.0)..high + room
}

/// Formats a number of any size to three digits.
fn short(y: f64) -> String {
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if y != 0.0 && y.abs() < 1e-3 {
        let text = format!("{y:.2e}");
        return text
            .split_once('e')
            .map(|(digits, exponent)| format!("{}e{exponent}", trimmed(digits)))
            .unwrap_or(text);
    }
    let digits = (2.0 - y.abs().max(1e-3).log10().floor()).clamp(0.0, 6.0) as usize;
    trimmed(&format!("{y:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(lines: &[&str]) -> Option<String> {
        draw("a <run>", Line::parse_all(&lines.join("\n")))
    }

    const STEP: &str = concat!(
        r#"{"kind": "step", "epoch": 1, "step": 5, "#,
        r#""loss": 9, "lr": 0.0005, "score": 10, "samples_per_s": 1, "data_ms": 1, "forward_ms": 1, "backward_ms": 1}"#,
    );
    const EPOCH_1: &str = concat!(
        r#"{"kind": "epoch", "epoch": 1, "step": 10, "train_loss": 4.5, "train_score": 30, "#,
        r#""val_score": 41.257, "val_loss": 3.25, "val_upper_bound": 92.5, "seconds": 3}"#,
    );
    const EPOCH_2: &str = concat!(
        r#"{"kind": "epoch", "epoch": 2, "step": 20, "train_loss": 3.5, "train_score": 40, "#,
        r#""val_score": 39, "val_upper_bound": 92.5, "seconds": 3}"#,
    );

    #[test]
    fn the_legend_has_the_last_values_and_the_best_is_named() {
        let svg = drawn(&[STEP, EPOCH_1, EPOCH_2]).unwrap();
        for text in [
            "a &lt;run&gt;",
            "train 40.00",
            "val 39.00",
            "upper bound 92.50",
            "best 41.26, epoch 1",
            "train 3.500",
            "lr 5e-4",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn what_is_missing_is_left_out() {
        assert_eq!(drawn(&[]), None);
        assert_eq!(drawn(&[STEP]), None);
        let bare =
            r#"{"kind": "epoch", "epoch": 1, "train_loss": 4.5, "train_score": 30, "val_score": null, "seconds": 3}"#;
        let svg = drawn(&[STEP, bare, "{\"kind\": \"st"]).unwrap();
        assert!(
            svg.contains("train 30.00")
                && !svg.contains("val ")
                && !svg.contains("best")
                && !svg.contains("Learning rate")
        );
    }

    #[test]
    fn first_steps_far_above_the_others_do_not_set_the_scale() {
        let steps: Points = (1..=100).map(|step| (f64::from(step), if step < 4 { 2000.0 } else { 5.0 })).collect();
        assert!(range(&steps, &[&vec![(1.0, 7.0)]]).end < 8.0);
        assert_eq!([0.00125, 0.0005, 12.34, 1234.0, 0.0].map(short), ["0.00125", "5e-4", "12.3", "1234", "0"]);
    }
}

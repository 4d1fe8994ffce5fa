//! The chart of a training: loss and accuracy of every epoch, side by side, as SVG.

use plotters::prelude::*;

use super::history::{Epoch, Figures};

/// Pixels.
const SIZE: (u32, u32) = (1080, 460);
/// The height of the title above both.
const TITLE: u32 = 40;
const FONT: &str = "sans-serif";

/// From matplotlib's own cycle, which are told apart by people who do not see all colours as well.
const TRAINING: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(255, 127, 14);
const GRAY: RGBColor = RGBColor(120, 120, 120);

/// One of the two drawings.
struct Panel {
    title: &'static str,
    unit: &'static str,
    /// Where its numbers end, if they do.
    top: Option<f64>,
    value: fn(&Figures) -> f64,
}

/// Draws loss and accuracy (to segment, intersection over union) against the epoch. The best epoch is marked.
///
/// # Errors
/// What the library says; it has no reason to.
pub fn chart(title: &str, epochs: &[Epoch], best: u32) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, title, epochs, best).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(svg: &mut String, title: &str, epochs: &[Epoch], best: u32) -> Result<(), Box<dyn std::error::Error>> {
    let is_segmenting = epochs.iter().any(|epoch| epoch.validation.iou.is_some());
    let right = if is_segmenting {
        Panel { title: "Intersection over union", unit: "share", top: Some(1.0), value: |f| f.iou.unwrap_or(0.0) }
    } else {
        Panel { title: "Accuracy", unit: "share of pictures", top: Some(1.0), value: |f| f.accuracy }
    };
    let left = Panel { title: "Loss", unit: "cross-entropy", top: None, value: |f| f.loss };
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.margin(14, 0, 0, 0).split_vertically(TITLE);
    above.titled(title, (FONT, 22).into_font().color(&BLACK))?;
    for (area, panel) in below.split_evenly((1, 2)).iter().zip([left, right]) {
        panel.draw(area, epochs, best)?;
    }
    root.present()?;
    Ok(())
}

impl Panel {
    fn draw<D: DrawingBackend>(
        &self,
        area: &DrawingArea<D, plotters::coord::Shift>,
        epochs: &[Epoch],
        best: u32,
    ) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
        let lines =
            [("training", TRAINING, false), ("validation", VALIDATION, true)].map(|(name, colour, is_aside)| {
                let value = |epoch: &Epoch| (self.value)(if is_aside { &epoch.validation } else { &epoch.training });
                let points: Vec<(f64, f64)> =
                    epochs.iter().map(|epoch| (f64::from(epoch.epoch), value(epoch))).collect();
                // A loss that is no number has no place on the paper.
                (name, colour, points.into_iter().filter(|(_, value)| value.is_finite()).collect::<Vec<_>>())
            });
        let values = || lines.iter().flat_map(|(_, _, points)| points).map(|(_, value)| *value);
        let (low, high) = match self.top {
            // Down to a round tenth below the lowest.
            Some(top) => (((values().fold(top, f64::min) - 0.02) * 10.0).floor().max(0.0) / 10.0, top),
            None => (0.0, values().fold(0.0, f64::max).max(1e-3) * 1.05),
        };
        let last = f64::from(epochs.last().map_or(1, |epoch| epoch.epoch).max(2));
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 18))
            .margin_left(12)
            .margin_right(24)
            .margin_bottom(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(1.0..last, low..high)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .y_desc(self.unit)
            .axis_desc_style((FONT, 15))
            .label_style((FONT, 14))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRAY.mix(0.25))
            .x_labels((last as usize).min(11))
            .x_label_formatter(&|epoch| if epoch.fract() == 0.0 { format!("{epoch}") } else { String::new() })
            .y_label_formatter(&|value| format!("{value:.2}"))
            .draw()?;
        if best > 0 {
            let dashes = DashedLineSeries::new([(f64::from(best), low), (f64::from(best), high)], 4, 4, GRAY.into());
            chart.draw_series(dashes)?.label(format!("best epoch: {best}")).legend(line(GRAY));
        }
        for (name, colour, points) in lines {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?.label(name).legend(line(colour));
        }
        let corner = if self.top.is_some() { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight };
        chart
            .configure_series_labels()
            .position(corner)
            .margin(12)
            .background_style(WHITE.mix(0.85))
            .border_style(GRAY.mix(0.5))
            .label_font((FONT, 14))
            .draw()?;
        Ok(())
    }
}

/// The piece of a line beside a name.
fn line(colour: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(count: u32) -> Vec<Epoch> {
        let figures = |loss, iou| Figures { loss, accuracy: 1.0 - loss / 3.0, iou };
        (1..=count)
            .map(|epoch| {
                let loss = 2.0 / f64::from(epoch);
                Epoch { epoch, training: figures(loss, None), validation: figures(loss + 0.1, None), seconds: 1.0 }
            })
            .collect()
    }

    #[test]
    fn both_are_drawn_with_their_axes_and_names() {
        let svg = chart("digits: cifar10-cnn", &epochs(10), 9).unwrap();

        for said in [
            "digits: cifar10-cnn",
            "Loss",
            "Accuracy",
            "epoch",
            "cross-entropy",
            "training",
            "validation",
            "best epoch: 9",
        ] {
            assert!(svg.contains(said), "{said}");
        }
        assert_eq!(svg.matches("<circle").count(), 40);
    }

    #[test]
    fn one_epoch_and_a_loss_that_is_no_number_have_a_chart_too() {
        chart("x", &epochs(1), 1).unwrap();
        let mut broken = epochs(3);
        broken[1].training.loss = f64::NAN;
        broken[2].validation.loss = f64::INFINITY;
        chart("x", &broken, 1).unwrap();
        chart("x", &[], 0).unwrap();
    }
}

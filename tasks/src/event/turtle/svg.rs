//! SVG: a picture as lines.

use std::fmt::Write as _;

use super::picture::{Colour, Picture, Shape};

/// Writes a picture.
pub(super) fn write(picture: &Picture) -> String {
    let (width, height) = (picture.width, picture.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.2} {height:.2}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" fill=\"none\" stroke-linecap=\"round\" stroke-linejoin=\"round\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n",
        hex(picture.paper)
    );
    for shape in &picture.shapes {
        let written = match shape {
            Shape::Line { points, width, colour } => {
                let (points, colour) = (listed(points), hex(*colour));
                writeln!(svg, "<polyline points=\"{points}\" stroke=\"{colour}\" stroke-width=\"{width:.2}\"/>")
            }
            Shape::Ring { centre: (x, y), radius, width, colour } => writeln!(
                svg,
                "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius:.2}\" fill=\"{}\" stroke=\"{}\" \
                 stroke-width=\"{width:.2}\"/>",
                hex(picture.paper),
                hex(*colour)
            ),
            Shape::Area { points, colour } => {
                writeln!(svg, "<polygon points=\"{}\" fill=\"{}\"/>", listed(points), hex(*colour))
            }
        };
        // Writing to a string cannot fail.
        written.unwrap_or_default();
    }
    svg + "</svg>\n"
}

fn listed(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
    points.join(" ")
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

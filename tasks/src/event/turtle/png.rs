//! PNG: a picture as pixels.

use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use tidemill_core::failure::Failure;
use tiny_skia::{Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Stroke, Transform};

use super::picture::{Colour, Picture, Shape};

/// Draws a picture; its longer side has that many pixels.
///
/// # Errors
/// Where there is no memory for it.
pub(super) fn draw(picture: &Picture, size: u32) -> Result<Vec<u8>, Failure> {
    let failed = |reason: &dyn std::fmt::Display| Failure::permanent("drawing", format!("cannot draw: {reason}"));
    let scale = f64::from(size) / picture.width.max(picture.height);
    let pixels = |length: f64| ((length * scale).round() as u32).clamp(1, size);
    let mut pixmap =
        Pixmap::new(pixels(picture.width), pixels(picture.height)).ok_or_else(|| failed(&"no room for the pixels"))?;
    pixmap.fill(colour(picture.paper));
    let transform = Transform::from_scale(scale as f32, scale as f32);
    for shape in &picture.shapes {
        put(&mut pixmap, shape, picture.paper, transform);
    }
    // Opaque from the paper up, so the three colours are what they are.
    let rgb: Vec<u8> = pixmap.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&rgb, pixmap.width(), pixmap.height(), ExtendedColorType::Rgb8)
        .map_err(|error| failed(&error))?;
    Ok(png)
}

fn put(pixmap: &mut Pixmap, shape: &Shape, paper: Colour, transform: Transform) {
    let stroke = |width: f64| Stroke {
        width: width as f32,
        line_cap: LineCap::Round,
        line_join: LineJoin::Round,
        ..Stroke::default()
    };
    let mut path = PathBuilder::new();
    match shape {
        Shape::Line { points, width, colour } => {
            trace(&mut path, points);
            if let Some(path) = path.finish() {
                pixmap.stroke_path(&path, &paint(*colour), &stroke(*width), transform, None);
            }
        }
        Shape::Ring { centre: (x, y), radius, width, colour } => {
            path.push_circle(*x as f32, *y as f32, *radius as f32);
            if let Some(path) = path.finish() {
                pixmap.fill_path(&path, &paint(paper), FillRule::Winding, transform, None);
                pixmap.stroke_path(&path, &paint(*colour), &stroke(*width), transform, None);
            }
        }
        Shape::Area { points, colour } => {
            trace(&mut path, points);
            path.close();
            if let Some(path) = path.finish() {
                pixmap.fill_path(&path, &paint(*colour), FillRule::Winding, transform, None);
            }
        }
    }
}

fn trace(path: &mut PathBuilder, points: &[(f64, f64)]) {
    for (number, (x, y)) in points.iter().enumerate() {
        if number == 0 { path.move_to(*x as f32, *y as f32) } else { path.line_to(*x as f32, *y as f32) }
    }
}

fn paint(shade: Colour) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color(colour(shade));
    paint.anti_alias = true;
    paint
}

fn colour([red, green, blue]: Colour) -> Color {
    Color::from_rgba8(red, green, blue, 255)
}

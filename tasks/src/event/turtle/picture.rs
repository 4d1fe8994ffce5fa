//! Picture: what a path looks like, whatever it is drawn with.

use super::{Pose, STEP, cosine};

/// A colour: red, green, blue.
pub(super) type Colour = [u8; 3];

const PAPER: Colour = [0xfb, 0xfa, 0xf6];
const GRID: Colour = [0xe6, 0xe3, 0xd8];
const FIRST: Colour = [0x1f, 0x6f, 0xa8];
const LAST: Colour = [0xc8, 0x3e, 0x4d];

/// Grid lines to one side, at most; a picture of a long way would be grey with them.
const MAX_GRID_LINES: f64 = 80.0;
/// Lines of one colour; their change is not seen.
const SHADES: usize = 64;

/// Something drawn, y downwards, within 0 to width and 0 to height.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A line through points.
    Line { points: Vec<(f64, f64)>, width: f64, colour: Colour },
    /// A ring; filled with the colour of the paper.
    Ring { centre: (f64, f64), radius: f64, width: f64, colour: Colour },
    /// A filled area.
    Area { points: Vec<(f64, f64)>, colour: Colour },
}

/// Shapes on paper, the lowest first.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) paper: Colour,
    pub(super) shapes: Vec<Shape>,
}

impl Picture {
    /// The path of a turtle, with a ring where it began and an arrowhead where it ended.
    pub(super) fn of(path: &[Pose]) -> Self {
        let bounds = |of: fn(&Pose) -> f64| {
            let all = || path.iter().map(of);
            (all().fold(0.0, f64::min), all().fold(0.0, f64::max))
        };
        let ((left, right), (bottom, top)) = (bounds(|pose| pose.x), bounds(|pose| pose.y));
        // Seen as a whole, a line is as thick in a large picture as in a small one.
        let thick = ((right - left).max(top - bottom) / 160.0).max(2.5);
        // Around the path there is room for its marks.
        let margin = STEP.max(thick * 6.0);
        let (left, top) = (left - margin, top + margin);
        let (width, height) = (right + margin - left, top + margin - bottom);
        let place = |pose: &Pose| (pose.x - left, top - pose.y);

        let mut shapes = grid(left, top, width, height, thick * 0.4);
        shapes.extend(lines(path, place, thick));
        if let (Some(first), Some(last)) = (path.first(), path.last()) {
            shapes.push(Shape::Ring { centre: place(first), radius: thick * 2.2, width: thick, colour: FIRST });
            shapes.push(arrowhead(place(last), last.heading, thick * 4.5));
        }
        Self { width, height, paper: PAPER, shapes }
    }
}

/// Lines a step apart, through where the turtle began.
fn grid(left: f64, top: f64, width: f64, height: f64, thick: f64) -> Vec<Shape> {
    let steps = (width.max(height) / STEP / MAX_GRID_LINES).ceil().max(1.0);
    let apart = STEP * steps;
    let along = |start: f64, length: f64| {
        let first = (start / apart).ceil() * apart - start;
        (0..).map(move |n| first + f64::from(n) * apart).take_while(move |at| *at <= length)
    };
    let line = |points: [(f64, f64); 2]| Shape::Line { points: points.into(), width: thick, colour: GRID };
    let upright = along(left, width).map(|x| line([(x, 0.0), (x, height)]));
    let level = along(-top, height).map(|y| line([(0.0, y), (width, y)]));
    upright.chain(level).collect()
}

/// The path in pieces, each a shade further from the first colour to the last.
fn lines(path: &[Pose], place: impl Fn(&Pose) -> (f64, f64), thick: f64) -> Vec<Shape> {
    let mut points: Vec<(f64, f64)> = path.iter().map(place).collect();
    points.dedup();
    let steps = points.len().saturating_sub(1);
    let shades = steps.clamp(1, SHADES);
    let piece = |shade: usize| {
        let (from, to) = (steps * shade / shades, steps * (shade + 1) / shades);
        let colour = mix(FIRST, LAST, shade as f64 / (shades.max(2) - 1) as f64);
        Shape::Line { points: points[from..=to].to_vec(), width: thick, colour }
    };
    if steps == 0 { Vec::new() } else { (0..shades).map(piece).collect() }
}

fn arrowhead((x, y): (f64, f64), heading: u32, length: f64) -> Shape {
    let corner = |degrees: u32, far: f64| {
        let degrees = heading + degrees;
        (x + far * cosine(degrees), y - far * cosine(degrees + 270))
    };
    let points =
        vec![corner(0, length), corner(150, length * 0.8), corner(180, length * 0.35), corner(210, length * 0.8)];
    Shape::Area { points, colour: LAST }
}

fn mix(one: Colour, other: Colour, part: f64) -> Colour {
    std::array::from_fn(|i| {
        let (from, to) = (f64::from(one[i]), f64::from(other[i]));
        (from + (to - from) * part.clamp(0.0, 1.0)).round() as u8
    })
}

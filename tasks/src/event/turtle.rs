//! `event.turtle`: key events steer a turtle, which draws.

mod events;
mod picture;
mod png;
mod svg;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::blobs::BlobRef;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Task, Tools, Wait, raw, raw_word};

use self::events::EventLoop;
use self::picture::Picture;

/// Events of one item.
const MAX_EVENTS: usize = 20_000;
/// How far the turtle goes at once.
const STEP: f64 = 50.0;

/// Lets a turtle draw.
#[derive(Clone, Copy, Debug)]
pub struct Turtle;

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Key {
    /// Go 50 units forward.
    Up,
    /// Turn 30 degrees to the left.
    Left,
    /// Turn 30 degrees to the right.
    Right,
}

/// Options of a batch.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What the drawing is: svg, or png.
    pub format: Format,
    /// The longer side of a PNG, in pixels.
    #[schemars(range(min = 16, max = 4096))]
    pub size: u32,
}

/// What a drawing can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines, sharp at any size.
    #[default]
    Svg,
    /// Pixels.
    Png,
}

impl Default for Options {
    fn default() -> Self {
        Self { format: Format::Svg, size: 800 }
    }
}

/// Where the turtle is, and where it looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Pose {
    /// To the right of where it began.
    pub x: f64,
    /// Above where it began.
    pub y: f64,
    /// In degrees, counted to the left: 0 looks to the right, 90 up.
    pub heading: u32,
}

/// Where it went.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The drawing.
    pub drawing: BlobRef,
    /// Where the turtle began, and where it was after each event.
    pub path: Vec<Pose>,
}

impl Pose {
    const START: Self = Self { x: 0.0, y: 0.0, heading: 0 };

    fn forward(&mut self, units: f64) {
        self.x = round(self.x + units * cosine(self.heading));
        self.y = round(self.y + units * cosine(self.heading + 270));
    }

    fn turn(&mut self, degrees: u32) {
        self.heading = (self.heading + degrees) % 360;
    }
}

/// Exact where it can be, so that a turtle that goes in a circle comes back to where it began.
fn cosine(degrees: u32) -> f64 {
    let half_root = 3f64.sqrt() / 2.0;
    match degrees % 360 {
        0 => 1.0,
        30 | 330 => half_root,
        60 | 300 => 0.5,
        90 | 270 => 0.0,
        120 | 240 => -0.5,
        150 | 210 => -half_root,
        180 => -1.0,
        other => f64::from(other).to_radians().cos(),
    }
}

/// To a millionth; and zero has no sign.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6 + 0.0
}

impl Task for Turtle {
    type Input = Vec<Key>;
    type Options = Options;
    type Output = Output;
    type Plan = Options;

    fn about(&self) -> About {
        About {
            name: "event.turtle",
            summary: "Steer a turtle by key events, and see what it drew",
            details: "An input is a list of key events, such as [\"Up\",\"Left\",\"Up\"] or, on the command line, 'Up Left \
                      Up'. They go through an event loop, to the handlers that are registered for each key: Up goes 50 \
                      units forward, Left and Right turn by 30 degrees. The output is the path, from where the turtle \
                      began, looking to the right, and a drawing: a ring where it began, an arrowhead where it ended.",
            examples: &[
                "tidemill run event.turtle 'Up Left Up Left Up Right Right Up' --out drawings",
                "tidemill run event.turtle --items keys.ndjson -o format=png -o size=400 --out drawings",
            ],
            arguments: Arguments::Values,
            makes_files: true,
        }
    }

    fn plan(&self, options: Options) -> Result<Options, Invalid> {
        match options.size {
            16..=4096 => Ok(options),
            size => Err(Invalid(format!("size: {size} is not within 16 and 4096"))),
        }
    }

    fn check(&self, _options: &Options, keys: &Vec<Key>) -> Result<(), Invalid> {
        match keys.len() {
            0..=MAX_EVENTS => Ok(()),
            many => Err(Invalid(format!("{many} events are more than {MAX_EVENTS}"))),
        }
    }

    fn cost(&self, options: &Options) -> Cost {
        Cost::millis(if options.format == Format::Svg { 1 } else { 30 })
    }

    /// `Up Left Up`, in any case and with commas where somebody likes them.
    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        if word.trim_start().starts_with(['[', '{', '"']) {
            return raw_word(word);
        }
        let names = word.split([',', ' ', '\t', '\n']).filter(|name| !name.is_empty());
        let keys = names.map(|name| match name.to_ascii_lowercase().as_str() {
            "up" => "Up",
            "left" => "Left",
            "right" => "Right",
            _ => name,
        });
        raw(&keys.collect::<Vec<_>>())
    }
}

impl Wait for Turtle {
    fn hands(&self, _options: &Options) -> Hands {
        Hands::PerCore(4)
    }

    async fn run(self: Arc<Self>, options: Arc<Options>, keys: Vec<Key>, tools: Tools) -> Result<Output, Failure> {
        let drawing = tools.compute.run(move |_| {
            let path = walk(&keys);
            let picture = Picture::of(&path);
            let bytes = match options.format {
                Format::Svg => Ok(svg::write(&picture).into_bytes()),
                Format::Png => png::draw(&picture, options.size),
            };
            bytes.map(|bytes| (path, bytes, options.format))
        });
        let (path, bytes, format) = drawing.await??;
        let (media_type, extension) = match format {
            Format::Svg => ("image/svg+xml", "svg"),
            Format::Png => ("image/png", "png"),
        };
        Ok(Output { drawing: tools.blobs.put(bytes, media_type, extension).await?, path })
    }
}

/// Where the turtle is at first, and after each event.
fn walk(keys: &[Key]) -> Vec<Pose> {
    let mut events = EventLoop::default();
    events.on(Key::Up, |turtle: &mut Pose| turtle.forward(STEP));
    events.on(Key::Left, |turtle: &mut Pose| turtle.turn(30));
    events.on(Key::Right, |turtle: &mut Pose| turtle.turn(330));
    events.extend(keys);
    let mut turtle = Pose::START;
    let mut path = vec![turtle];
    while events.turn(&mut turtle) {
        path.push(turtle);
    }
    path
}

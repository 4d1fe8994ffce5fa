//! `vision.classify`: says what is on a picture.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Lane, Task, Tools, Wait, raw};

use super::card::{Card, Question};
use super::picture::engine;
use super::{Engine, Fetched, Label, Models};
use crate::image::Limits;

/// Answers that are asked for at most.
const MAX_TOP: usize = 1000;

/// Classifies pictures. Without an engine it can be described and checked, not run.
#[derive(Clone)]
pub struct Classify {
    /// Where models are found.
    pub models: Models,
    /// What pictures are refused by their header.
    pub limits: Limits,
    /// What runs the network.
    pub engine: Option<Arc<dyn Engine>>,
}

impl std::fmt::Debug for Classify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classify").field("models", &self.models).finish_non_exhaustive()
    }
}

/// Options of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A model's name (`tidemill models` lists them), or the path of a folder with a model card.
    pub model: Option<String>,
    /// How many labels each picture gets, the most probable first: 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { model: None, top: 5 }
    }
}

/// What is on the picture.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The model that says so.
    pub model: String,
    /// The most probable labels, the most probable first.
    pub labels: Vec<Label>,
    /// Pixels to a row of the upright picture.
    pub width: u32,
    /// Rows of the upright picture.
    pub height: u32,
}

/// The model, found and checked.
#[derive(Debug)]
pub struct Plan {
    card: Card,
    top: usize,
}

impl Task for Classify {
    type Input = String;
    type Options = Options;
    type Output = Output;
    type Plan = Plan;

    fn about(&self) -> About {
        About {
            name: "vision.classify",
            summary: "Say what is on a picture",
            details: "An input is the path or URL of a picture, the output the most probable labels with their \
                      probabilities. The model is a folder with a model card, a network and its labels; the card says how \
                      pictures are prepared for it. Bring your own: any TorchScript file with a card.",
            examples: &[
                "tidemill run vision.classify photos/ --format table",
                "tidemill run vision.classify cat.jpg -o model=efficientnet-lite0 -o top=3",
            ],
            arguments: Arguments::Files,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Plan, Invalid> {
        let Options { model, top } = options;
        if !(1..=MAX_TOP).contains(&top) {
            return Err(Invalid(format!("top: {top} is not within 1 and {MAX_TOP}")));
        }
        let card = self.models.find(model.as_deref(), Question::Classify)?;
        Ok(Plan { card, top })
    }

    fn cost(&self, _plan: &Plan) -> Cost {
        Cost::millis(10)
    }

    fn lane(&self, _plan: &Plan) -> Lane {
        Lane::Vision
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for Classify {
    fn hands(&self, _plan: &Plan) -> Hands {
        // Two batches of eight in the network's hands, and as many decoded or on their way.
        Hands::PerCore(24)
    }

    fn device(&self, _plan: &Plan) -> String {
        self.engine.as_ref().map_or_else(|| "none".into(), |engine| engine.device())
    }

    async fn run(self: Arc<Self>, plan: Arc<Plan>, location: String, tools: Tools) -> Result<Output, Failure> {
        let engine = engine(&self.engine)?;
        let Fetched { prepared, pixels, .. } = Fetched::from(&location, &plan.card, self.limits, &tools).await?;
        let labels = engine.classify(&plan.card, pixels, plan.top).await?;
        Ok(Output { model: plan.card.name.clone(), labels, width: prepared.width, height: prepared.height })
    }
}

//! The names of classes.

use tidemill_tasks::vision::card::{Card, CardError, Labels};

/// Returns the names of a card's classes, by class number.
///
/// # Errors
///
/// Where the card's own file of labels cannot be read or does not fit it.
pub fn labels(card: &Card) -> Result<Vec<String>, CardError> {
    Ok(match card.labels()? {
        Labels::ImageNet => tch::vision::imagenet::CLASSES.iter().map(|&name| name.to_owned()).collect(),
        Labels::Own(labels) => labels,
    })
}

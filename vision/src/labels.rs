//! The names of classes.

use tidemill_tasks::vision::card::{Card, CardError, Labels, distinct};

/// Returns the names of a card's classes, by class number, each another.
///
/// # Errors
///
/// Where the card's own file of labels cannot be read or does not fit it.
pub fn labels(card: &Card) -> Result<Vec<String>, CardError> {
    Ok(match card.labels()? {
        Labels::ImageNet => distinct(tch::vision::imagenet::CLASSES),
        Labels::Own(labels) => labels,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tidemill_tasks::vision::card::Question;

    use super::*;

    #[test]
    fn the_bird_and_the_machine_have_each_a_name() {
        let labels = labels(&Card::draft("any", Question::Classify)).unwrap();

        assert_eq!((&*labels[134], &*labels[517]), ("crane", "crane (517)"));
        assert_eq!(labels.iter().collect::<HashSet<_>>().len(), 1000);
    }
}

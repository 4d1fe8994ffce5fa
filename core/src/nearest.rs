//! "Did you mean": the known names that are most like a misspelt one.

/// The names most like `name`, best first, at most three; empty where none is like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    // 0.7 (Jaro–Winkler) keeps `image.tranform` and `classify`, and drops names that share a letter or two.
    const LIKE: f64 = 0.7;
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let last = lower.rsplit('.').next().unwrap_or(&lower);
            let score = strsim::jaro_winkler(&wanted, &lower).max(strsim::jaro_winkler(&wanted, last));
            (score, candidate)
        })
        .filter(|(score, _)| *score >= LIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = scored.first().map_or(0.0, |(score, _)| *score);
    scored.into_iter().filter(|(score, _)| best - score < 0.15).take(3).map(|(_, name)| name.to_owned()).collect()
}

/// `; did you mean …?` or nothing: to be put at the end of a message.
pub fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [&str; 5] = ["time.sleep", "compute.map", "compute.factorize", "image.transform", "vision.classify"];

    #[test]
    fn a_slip_of_the_finger_finds_the_name() {
        assert_eq!(nearest("image.tranfsorm", TASKS)[0], "image.transform");
        assert_eq!(nearest("vision.clasify", TASKS)[0], "vision.classify");
        assert_eq!(nearest("classify", TASKS)[0], "vision.classify");
    }

    #[test]
    fn a_word_that_is_like_none_finds_none() {
        assert!(nearest("qqq", TASKS).is_empty());
    }
}

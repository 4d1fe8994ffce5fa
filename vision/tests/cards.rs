//! What a model card may say, and what is said to a person whose card says something else.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::fs;

use common::{card, changed_card, repository};
use tidemill_tasks::vision::card::{Card, CardErrorKind, Labels};

#[test]
fn the_cards_of_the_repository_are_found_by_name() {
    let folders = [repository().join("no-such-folder"), repository().join("models")];
    let cards = Card::list(&folders);

    let found = cards["efficientnet-lite0"].as_ref().unwrap();
    assert_eq!(found.labels().unwrap(), Labels::ImageNet);
    assert_eq!(found, &card());
    assert!(cards.values().all(Result::is_ok), "{cards:?}");
    for (name, card) in &cards {
        assert_eq!(Card::named(&folders, name).unwrap().unwrap(), *card.as_ref().unwrap());
    }
    let inside = [folders[1].join("efficientnet-lite0")];
    for name in ["", ".", "..", "no-such-model"] {
        assert!(Card::named(&inside, name).is_none(), "{name:?}");
    }
}

#[test]
fn a_spoilt_card_names_its_key_and_what_is_allowed() {
    for (from, to, kind, said) in [
        (
            "short_side = 256",
            "short_side = 200",
            CardErrorKind::Invalid,
            "`input.resize.short_side` is not valid: at least",
        ),
        ("short_side = 256, ", "", CardErrorKind::Invalid, "`input.crop` is not valid"),
        ("std = [0.5", "std = [-0.5", CardErrorKind::Invalid, "`input.std` is not valid: three numbers above 0"),
        ("classes = 1000", "classes = 999", CardErrorKind::Invalid, "\"imagenet\" goes with 1000 classes"),
        ("\"imagenet\"", "\"../labels.txt\"", CardErrorKind::Invalid, "without a path"),
        ("\"weights.safetensors\"", "\"/etc/passwd\"", CardErrorKind::Invalid, "`network.file` is not valid"),
        ("sha256 = \"", "sha256 = \"x", CardErrorKind::Invalid, "64 lowercase hexadecimal digits"),
        ("name = \"efficientnet", "name = \"resnet", CardErrorKind::Invalid, "`name` is not valid: the folder's name"),
        ("\"bicubic\"", "\"cubic\"", CardErrorKind::Malformed, "expected one of `bilinear`, `bicubic`, `lanczos3`"),
        ("licence = ", "license = ", CardErrorKind::Malformed, "unknown field `license`"),
        ("width = 224\n", "", CardErrorKind::Malformed, "missing field `width`"),
        ("cpu = [\"bf16\", \"fp32\"]", "cpu = []", CardErrorKind::Invalid, "`precision` is not valid"),
    ] {
        let (sandbox, folder) = changed_card(|text| text.replacen(from, to, 1));

        let error = Card::load(&folder).unwrap_err();

        assert_eq!(error.kind, kind, "{from} → {to}: {error}");
        assert!(error.to_string().contains(said), "{from} → {to}: {error}");
        assert!(error.file.starts_with(sandbox.path()), "{error}");
    }
}

#[test]
fn labels_must_be_one_for_each_class() {
    let (_sandbox, folder) = changed_card(|text| text.replace("\"imagenet\"", "\"labels.txt\""));
    fs::write(folder.join("labels.txt"), "tench\ngoldfish\n").unwrap();

    let error = Card::load(&folder).unwrap_err();

    assert!(
        error.to_string().ends_with("has 2 lines, but output.classes is 1000: one name a line, none empty"),
        "{error}"
    );
}

#[test]
fn missing_weights_come_with_a_way_to_get_them() {
    let (_sandbox, folder) = changed_card(|text| text.replace("warm_up = [1, 8]", "warm_up = [1]"));
    fs::remove_file(folder.join("weights.safetensors")).unwrap();

    let error = Card::load(&folder).unwrap().verify().unwrap_err();

    assert_eq!(error.kind, CardErrorKind::Unreadable);
    assert!(error.to_string().contains("make models"), "{error}");
}

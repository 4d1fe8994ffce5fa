use super::*;

fn keys(word: &str) -> Vec<Key> {
    serde_json::from_str(Turtle.input_from_word(word).get()).unwrap()
}

fn ends(word: &str) -> (f64, f64, u32) {
    let Pose { x, y, heading } = *walk(&keys(word)).last().unwrap();
    (x, y, heading)
}

#[test]
fn up_goes_forward_and_left_and_right_turn() {
    assert_eq!(ends(""), (0.0, 0.0, 0));
    assert_eq!(ends("Up"), (50.0, 0.0, 0));
    assert_eq!(ends("Left"), (0.0, 0.0, 30));
    assert_eq!(ends("Right"), (0.0, 0.0, 330));
    assert_eq!(ends("Left Left Left Up"), (0.0, 50.0, 90));
    assert_eq!(ends("Right,Right,Right,Up"), (0.0, -50.0, 270));
    assert_eq!(ends("left up"), (43.301_27, 25.0, 30));
    let path = walk(&keys("Up Left Up"));
    assert_eq!(path.len(), 4);
    assert_eq!(path[2], Pose { x: 50.0, y: 0.0, heading: 30 });
}

#[test]
fn a_turtle_that_goes_in_a_circle_comes_back() {
    assert_eq!(ends(&"Up Left ".repeat(12)), (0.0, 0.0, 0));
    assert_eq!(ends(&"Up Right Right ".repeat(600)), (0.0, 0.0, 0));
}

#[test]
fn what_is_no_key_is_refused() {
    for (word, says) in [("Down", "unknown variant `Down`"), ("{\"keys\":[]}", "expected a sequence"), ("7", "`7`")] {
        let error = serde_json::from_str::<Vec<Key>>(Turtle.input_from_word(word).get()).unwrap_err();
        assert!(error.to_string().contains(says), "{word}: {error}");
    }
    assert!(Turtle.check(&Options::default(), &vec![Key::Up; MAX_EVENTS + 1]).is_err());
    for size in [0, 15, 4097] {
        assert!(Turtle.plan(Options { size, ..Options::default() }).is_err());
    }
}

#[test]
fn everything_lies_within_the_picture_wherever_the_turtle_goes() {
    let long = "Up ".repeat(2000);
    for word in ["", "Left", "Up Up Up", "Left Left Left Up Up Right Right Up Up", &long, &"Up Left ".repeat(500)] {
        let picture = Picture::of(&walk(&keys(word)));
        let inside =
            |(x, y): &(f64, f64)| (-1.0..=picture.width + 1.0).contains(x) && (-1.0..=picture.height + 1.0).contains(y);
        for shape in &picture.shapes {
            match shape {
                Shape::Line { points, .. } | Shape::Area { points, .. } => {
                    assert!(points.iter().all(inside), "{shape:?}")
                }
                Shape::Ring { centre, .. } => assert!(inside(centre)),
            }
        }
        assert!(picture.shapes.len() < 300, "{}", picture.shapes.len());
        let png = image::load_from_memory(&png::draw(&picture, 200).unwrap()).unwrap();
        assert_eq!(png.width().max(png.height()), 200);
        assert!(svg::write(&picture).ends_with("</svg>\n"));
    }
}

use super::picture::Shape;

#[test]
fn a_drawing_shows_the_line_where_the_turtle_went() {
    // 150 wide, 100 high; from (50, 50) to (100, 50).
    let picture = Picture::of(&walk(&keys("Up")));
    assert_eq!((picture.width, picture.height), (150.0, 100.0));
    let png = image::load_from_memory(&png::draw(&picture, 300).unwrap()).unwrap().to_rgb8();
    assert_eq!(png.dimensions(), (300, 200));
    let is_paper = |x, y| png.get_pixel(x, y).0 == picture.paper;
    assert!(!is_paper(150, 100), "on the way");
    assert!(is_paper(150, 60) && is_paper(40, 130), "elsewhere");
    assert!(is_paper(100, 100), "the ring where it began");
    let svg = svg::write(&picture);
    assert!(svg.contains("<polyline points=\"50.00,50.00 100.00,50.00\""), "{svg}");
}

//! From what a network says of each place to the class of each pixel.

/// What a network says: for every class a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// How many classes.
    pub classes: usize,
    /// Columns of each map.
    pub width: usize,
    /// Rows of each map.
    pub height: usize,
    /// `[classes, height, width]`, each from 0 to 1.
    pub values: Vec<f32>,
}

/// The class of each pixel of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Pixels to a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// A class's number for each pixel, rows from the top.
    pub classes: Vec<u8>,
}

/// Stretches the maps over a picture of this size, bilinearly, and takes the most probable class of each pixel; of equals
/// the first. `None` once `stopped` says so, or where the maps are not as large as they say or of more than 256 classes.
///
/// # Source
///
/// Where a pixel lies in the map: PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
pub fn mask(scores: &Scores, (width, height): (u32, u32), stopped: &dyn Fn() -> bool) -> Option<Mask> {
    let Scores { classes, width: map_width, height: map_height, ref values } = *scores;
    let is_whole = values.len() == classes * map_width * map_height && !values.is_empty();
    if !is_whole || classes > 256 || width == 0 || height == 0 {
        return None;
    }
    let columns: Vec<Between> = (0..width).map(|x| Between::of(x, width, map_width)).collect();
    let mut mask = Vec::with_capacity(width as usize * height as usize);
    let (mut line, mut best) = (vec![0.0; map_width], vec![0.0; width as usize]);
    for y in 0..height {
        if stopped() {
            return None;
        }
        let row = Between::of(y, height, map_height);
        let start = mask.len();
        mask.resize(start + width as usize, 0);
        for (class, map) in (0..=255).zip(values.chunks_exact(map_width * map_height)) {
            let (above, below) = (&map[row.first * map_width..], &map[row.second * map_width..]);
            for ((value, above), below) in line.iter_mut().zip(above).zip(below) {
                *value = row.blend(*above, *below);
            }
            for ((best, chosen), column) in best.iter_mut().zip(&mut mask[start..]).zip(&columns) {
                let value = column.blend(line[column.first], line[column.second]);
                if class == 0 || value > *best {
                    (*best, *chosen) = (value, class);
                }
            }
        }
    }
    Some(Mask { width, height, classes: mask })
}

impl Mask {
    /// Which part of the pixels each class has.
    pub fn shares(&self, classes: usize) -> Vec<f64> {
        let mut counts = [0_u64; 256];
        for &class in &self.classes {
            counts[usize::from(class)] += 1;
        }
        counts.iter().take(classes).map(|&count| count as f64 / self.classes.len().max(1) as f64).collect()
    }
}

/// A place between two of a map's.
#[derive(Clone, Copy, Debug)]
struct Between {
    first: usize,
    second: usize,
    part: f32,
}

impl Between {
    fn of(pixel: u32, pixels: u32, places: usize) -> Self {
        let at = ((f64::from(pixel) + 0.5) * places as f64 / f64::from(pixels) - 0.5).max(0.0);
        let first = (at as usize).min(places - 1);
        Self { first, second: (first + 1).min(places - 1), part: (at - first as f64) as f32 }
    }

    fn blend(self, first: f32, second: f32) -> f32 {
        first + (second - first) * self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(values: &[f32], width: usize, height: usize) -> Scores {
        let rest = values.iter().map(|value| 1.0 - value);
        Scores { classes: 2, width, height, values: rest.chain(values.iter().copied()).collect() }
    }

    #[test]
    fn the_edge_of_a_mask_lies_where_the_probability_crosses_a_half() {
        // From 0 to 1 between the middles of two places, which are the pixels 1.5 and 5.5 of 8.
        let mask = mask(&two(&[0.0, 1.0], 2, 1), (8, 1), &|| false).unwrap();

        assert_eq!(mask.classes, [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(mask.shares(2), [0.5, 0.5]);
    }

    #[test]
    fn a_map_of_the_pictures_size_is_taken_as_it_is() {
        let mask = mask(&two(&[0.9, 0.1, 0.4, 0.6], 2, 2), (2, 2), &|| false).unwrap();

        assert_eq!(mask.classes, [1, 0, 0, 1]);
    }

    #[test]
    fn a_smaller_picture_is_covered_as_well() {
        let mask = mask(&two(&[1.0, 1.0, 0.0, 0.0], 2, 2), (1, 4), &|| false).unwrap();

        assert_eq!(mask.classes, [1, 1, 0, 0]);
    }

    #[test]
    fn maps_that_are_not_whole_and_items_that_were_stopped_have_no_mask() {
        let short = Scores { values: vec![0.5; 3], ..two(&[0.5; 2], 2, 1) };
        assert_eq!(mask(&short, (2, 2), &|| false), None);
        assert_eq!(mask(&two(&[0.5; 2], 2, 1), (2, 2), &|| true), None);
        assert_eq!(mask(&two(&[], 0, 0), (2, 2), &|| false), None);
    }
}

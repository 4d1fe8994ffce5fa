//! Run lengths: how COCO writes a mask.

/// One class's part of a picture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// The class's number.
    pub(super) class: u8,
    /// How many pixels it has.
    pub(super) area: u64,
    /// Left, top, width and height of the smallest box around it, in pixels.
    pub(super) bbox: [u32; 4],
    /// Lengths of runs outside and inside by turns, beginning outside, down the columns from the left.
    pub(super) counts: Vec<u32>,
}

/// Every class but the first that has pixels, by number. `mask` has a class for each pixel, rows from the top.
///
/// # Source
/// pycocotools' mask.py: column-major order, and the first count is of zeros.
pub(super) fn regions(mask: &[u8], width: u32, height: u32) -> Vec<Region> {
    struct Growing {
        area: u64,
        left_top: (u32, u32),
        right_bottom: (u32, u32),
        counts: Vec<u32>,
        /// Where the last run ended.
        end: u32,
    }
    let mut found: [Option<Growing>; 256] = [const { None }; 256];
    let mut place = 0_u32;
    for x in 0..width {
        for y in 0..height {
            let class = mask[y as usize * width as usize + x as usize];
            if class > 0 {
                let growing = found[usize::from(class)].get_or_insert_with(|| Growing {
                    area: 0,
                    left_top: (x, y),
                    right_bottom: (x, y),
                    counts: Vec::new(),
                    end: 0,
                });
                growing.area += 1;
                // Columns come from the left.
                growing.right_bottom = (x, growing.right_bottom.1.max(y));
                growing.left_top.1 = growing.left_top.1.min(y);
                match growing.counts.last_mut() {
                    Some(run) if growing.end == place => *run += 1,
                    _ => growing.counts.extend([place - growing.end, 1]),
                }
                growing.end = place + 1;
            }
            place += 1;
        }
    }
    let region = |(growing, class): (Option<Growing>, u8)| {
        let Growing { area, left_top: (left, top), right_bottom: (right, bottom), mut counts, end } = growing?;
        if end < place {
            counts.push(place - end);
        }
        Some(Region { class, area, bbox: [left, top, right - left + 1, bottom - top + 1], counts })
    };
    found.into_iter().zip(0..=255).filter_map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_down_the_columns_and_begin_outside() {
        let mask = [
            1, 0, 2, //
            1, 1, 0,
        ];
        assert_eq!(
            regions(&mask, 3, 2),
            [
                Region { class: 1, area: 3, bbox: [0, 0, 2, 2], counts: vec![0, 2, 1, 1, 2] },
                Region { class: 2, area: 1, bbox: [2, 0, 1, 1], counts: vec![4, 1, 1] },
            ]
        );
        assert_eq!(regions(&[0; 4], 2, 2), []);
        assert_eq!(regions(&[3; 4], 2, 2), [Region { class: 3, area: 4, bbox: [0, 0, 2, 2], counts: vec![0, 4] }]);
    }

    #[test]
    fn the_runs_give_the_mask_again() {
        let (width, height) = (37, 23);
        let mask: Vec<u8> = (0..width * height).map(|n| ((n * n / 7 + n / 5) % 4) as u8).collect();
        let mut again = vec![0; mask.len()];
        for region in regions(&mask, width, height) {
            let (mut place, mut is_inside) = (0, false);
            for run in region.counts {
                for _ in 0..run {
                    if is_inside {
                        again[((place % height) * width + place / height) as usize] = region.class;
                    }
                    place += 1;
                }
                is_inside = !is_inside;
            }
            assert_eq!(place, width * height);
        }
        assert_eq!(again, mask);
    }
}

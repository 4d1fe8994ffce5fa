//! Reducing by the mean of blocks of pixels, by whole factors however large: sums are whole numbers, rounded once.

use super::picture::{Channels, Picture};

/// The longest side of a block: its sums, of samples of 8 bits by alpha of 8 bits, then fit 32 bits.
pub(super) const LONGEST_BLOCK: u32 = 1 << 15;

/// Makes one pixel of each block of so many pixels across and down, and of `margin` more blocks on every side. Beyond
/// the edge, the edge goes on. Colours count by their alpha.
pub(super) fn means(picture: &Picture, block: (u32, u32), margin: (u32, u32)) -> Picture {
    match picture.channels {
        Channels::Gray => means_n::<1>(picture, block, margin),
        Channels::Rgb => means_n::<3>(picture, block, margin),
        Channels::Rgba => means_n::<4>(picture, block, margin),
    }
}

fn means_n<const N: usize>(picture: &Picture, block: (u32, u32), margin: (u32, u32)) -> Picture {
    let length = |side: u32, block: u32, margin: u32| side.div_ceil(block) + 2 * margin;
    let (width, height) = (length(picture.width, block.0, margin.0), length(picture.height, block.1, margin.1));
    let mut reduced = Picture::blank(width, height, picture.channels);
    let stride = reduced.stride();
    let pixels = f64::from(block.0) * f64::from(block.1);
    let mut sums = vec![[0_u32; N]; picture.width as usize];
    for (y, row) in (0..height).zip(reduced.data.chunks_exact_mut(stride)) {
        sums.fill([0; N]);
        for line in covered(y, block.1, margin.1, picture.height) {
            add(&mut sums, &picture.data[line * picture.stride()..][..picture.stride()]);
        }
        for (x, pixel) in (0..width).zip(row.as_chunks_mut::<N>().0) {
            let mut total = [0_u64; N];
            for column in covered(x, block.0, margin.0, picture.width) {
                for (total, &sum) in total.iter_mut().zip(&sums[column]) {
                    *total += u64::from(sum);
                }
            }
            *pixel = mean(total, pixels);
        }
    }
    reduced
}

/// The places along a side that become the one at `at`.
fn covered(at: u32, block: u32, margin: u32, side: u32) -> impl Iterator<Item = usize> {
    let start = (i64::from(at) - i64::from(margin)) * i64::from(block);
    (start..start + i64::from(block)).map(move |place| place.clamp(0, i64::from(side) - 1) as usize)
}

fn add<const N: usize>(sums: &mut [[u32; N]], line: &[u8]) {
    if N == 4 {
        // Plain products: a loop over the colours in here costs more.
        let sums = sums.as_flattened_mut().as_chunks_mut::<4>().0;
        for (sum, pixel) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
            let [red, green, blue, alpha] = pixel.map(u32::from);
            sum[0] += red * alpha;
            sum[1] += green * alpha;
            sum[2] += blue * alpha;
            sum[3] += alpha;
        }
    } else {
        for (sum, &sample) in sums.as_flattened_mut().iter_mut().zip(line) {
            *sum += u32::from(sample);
        }
    }
}

fn mean<const N: usize>(total: [u64; N], pixels: f64) -> [u8; N] {
    let rounded = |value: f64| (value + 0.5) as u8;
    let weight = if let [_, _, _, alpha] = total[..] { alpha as f64 } else { pixels };
    let mut mean = total.map(|sum| rounded(sum as f64 / weight.max(1.0)));
    if let [_, _, _, alpha] = &mut mean[..] {
        *alpha = rounded(weight / pixels);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: u32, height: u32, data: &[u8]) -> Picture {
        Picture { width, height, channels: Channels::Gray, data: data.to_vec() }
    }

    #[test]
    fn blocks_become_their_means_and_the_edge_goes_on() {
        let picture = gray(3, 2, &[10, 20, 60, 30, 40, 80]);

        assert_eq!(means(&picture, (2, 2), (0, 0)), gray(2, 1, &[25, 70]));
        assert_eq!(means(&picture, (2, 1), (1, 0)), gray(4, 2, &[10, 15, 60, 60, 30, 35, 80, 80]));
        assert_eq!(means(&picture, (1, 2), (0, 1)), gray(3, 3, &[10, 20, 60, 20, 30, 70, 30, 40, 80]));
    }

    #[test]
    fn a_block_may_be_as_long_as_it_goes() {
        let mut picture = Picture::blank(1, 3 * LONGEST_BLOCK, Channels::Rgba);
        picture.data.fill(255);

        let reduced = means(&picture, (1, LONGEST_BLOCK), (0, 0));

        assert_eq!((reduced.width, reduced.height), (1, 3));
        assert!(reduced.data.iter().all(|&sample| sample == 255));
    }

    #[test]
    fn colours_count_by_their_alpha() {
        let data = vec![200, 10, 10, 255, 0, 255, 0, 0, 7, 7, 7, 0, 9, 9, 9, 0];
        let picture = Picture { width: 4, height: 1, channels: Channels::Rgba, data };

        assert_eq!(means(&picture, (2, 1), (0, 0)).data, [200, 10, 10, 128, 0, 0, 0, 0]);
    }
}

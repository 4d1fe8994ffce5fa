//! The picture in memory, and the few things that are done to every pixel alike.

use super::error::{ErrorKind, ImageError};

/// The samples of one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// One sample: luma.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue and alpha, not premultiplied.
    Rgba,
}

impl Channels {
    /// Samples, and so bytes, to a pixel.
    pub const fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// A decoded picture: rows from the top, pixels interleaved, 8 bits a sample, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels to a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// What each pixel is made of.
    pub channels: Channels,
    /// `width × height × channels` bytes.
    pub data: Vec<u8>,
}

impl Picture {
    /// Makes a black (and, with alpha, transparent) picture.
    pub fn blank(width: u32, height: u32, channels: Channels) -> Self {
        let data = vec![0; width as usize * height as usize * channels.count()];
        Self { width, height, channels, data }
    }

    /// Bytes to a row.
    pub fn stride(&self) -> usize {
        self.width as usize * self.channels.count()
    }

    /// Cuts a rectangle out, which the caller has checked to lie inside.
    ///
    /// # Errors
    /// [`ErrorKind::BadOption`] if it does not.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self, ImageError> {
        let inside = |start: u32, length: u32, whole: u32| start.checked_add(length).is_some_and(|end| end <= whole);
        if width == 0 || height == 0 || !inside(x, width, self.width) || !inside(y, height, self.height) {
            let message = format!(
                "the rectangle {width}×{height} at {x},{y} does not lie inside the picture of {}×{}",
                self.width, self.height
            );
            return Err(ImageError::new(ErrorKind::BadOption, message));
        }
        let n = self.channels.count();
        let mut data = Vec::with_capacity(width as usize * height as usize * n);
        for row in self.data.chunks_exact(self.stride()).skip(y as usize).take(height as usize) {
            data.extend_from_slice(&row[x as usize * n..][..width as usize * n]);
        }
        Ok(Self { width, height, channels: self.channels, data })
    }

    /// Puts the picture on white, so that no alpha is left.
    pub fn on_white(self) -> Self {
        if self.channels != Channels::Rgba {
            return self;
        }
        let mut data = Vec::with_capacity(self.data.len() / 4 * 3);
        for pixel in self.data.as_chunks::<4>().0 {
            let alpha = u32::from(pixel[3]);
            let blend = |sample: u8| ((u32::from(sample) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
            data.extend_from_slice(&[blend(pixel[0]), blend(pixel[1]), blend(pixel[2])]);
        }
        Self { channels: Channels::Rgb, data, ..self }
    }

    /// Gives every pixel three samples: alpha is put on white, gray is repeated.
    pub fn into_rgb(self) -> Self {
        match self.channels {
            Channels::Rgb => self,
            Channels::Rgba => self.on_white(),
            Channels::Gray => {
                let data = self.data.iter().flat_map(|&v| [v; 3]).collect();
                Self { channels: Channels::Rgb, data, ..self }
            }
        }
    }

    /// Changes every sample but alpha by one table.
    pub fn map_samples(&mut self, table: &[u8; 256]) {
        match self.channels {
            Channels::Rgba => {
                for pixel in self.data.as_chunks_mut::<4>().0 {
                    for sample in &mut pixel[..3] {
                        *sample = table[usize::from(*sample)];
                    }
                }
            }
            Channels::Gray | Channels::Rgb => {
                for sample in &mut self.data {
                    *sample = table[usize::from(*sample)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_keeps_the_pixels_of_its_rectangle() {
        let picture = Picture { width: 3, height: 2, channels: Channels::Gray, data: vec![1, 2, 3, 4, 5, 6] };

        let cut = picture.crop(1, 0, 2, 2).unwrap();

        assert_eq!(cut.data, [2, 3, 5, 6]);
        assert_eq!(picture.crop(2, 0, 2, 2).unwrap_err().kind(), ErrorKind::BadOption);
        assert_eq!(picture.crop(u32::MAX, 0, 2, 2).unwrap_err().kind(), ErrorKind::BadOption);
    }

    #[test]
    fn alpha_is_put_on_white() {
        let data = vec![10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128];
        let picture = Picture { width: 3, height: 1, channels: Channels::Rgba, data };

        assert_eq!(picture.on_white().data, [10, 20, 30, 255, 255, 255, 127, 127, 127]);
    }
}

"""Makes what Pillow makes of the photos in examples/photos, for tasks/tests/image_references.rs.

    pip install pillow && python3 tests/references/make.py

All are small parts or small pictures, as WebP without loss. EXIF is applied, profiles are not (the test takes them off
the same way: it compares in the colours of the file).

  NAME.thumbnail.webp   thumbnail to 320 with Lanczos, decoded whole (reducing_gap=None)
  NAME.blur.webp        GaussianBlur(15) of the photo, its 160×160 pixels in the centre and, below them, those in the
                        upper left corner, where the edge shows
  NAME.network.webp     short side 256 by BICUBIC (long side rounded down), centre 224×224, as networks take it
"""
import json, pathlib
from PIL import Image, ImageFilter, ImageOps, __version__, features

HERE = pathlib.Path(__file__).parent
PHOTOS = HERE.parent.parent / "examples" / "photos"
SIDE = 160


def save(image, name):
    image.save(HERE / f"{name}.webp", lossless=True, quality=100, method=6, exact=True)


for path in sorted(PHOTOS.rglob("*.*")):
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    small = photo.copy()
    small.thumbnail((320, 320), Image.LANCZOS, reducing_gap=None)
    save(small, f"{path.stem}.thumbnail")

    blurred = photo.filter(ImageFilter.GaussianBlur(15))
    x, y = (photo.width - SIDE) // 2, (photo.height - SIDE) // 2
    both = Image.new("RGB", (SIDE, 2 * SIDE))
    both.paste(blurred.crop((x, y, x + SIDE, y + SIDE)), (0, 0))
    both.paste(blurred.crop((0, 0, SIDE, SIDE)), (0, SIDE))
    save(both, f"{path.stem}.blur")

    w, h = photo.size
    size = (256, 256 * h // w) if w <= h else (256 * w // h, 256)
    network = photo.resize(size, Image.BICUBIC)
    x, y = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    save(network.crop((x, y, x + 224, y + 224)), f"{path.stem}.network")

print("Pillow", __version__, "libjpeg-turbo", features.version("libjpeg_turbo"))
print(sum(f.stat().st_size for f in HERE.glob("*.webp")), "bytes")

"""Makes what Pillow makes of each step of image.transform, for tasks/tests/image_steps.rs.

    pip install pillow && python3 tests/references/steps.py

All begin with the same part of one photo, PART, and are saved as WebP without loss.
"""
import pathlib
from PIL import Image, ImageEnhance, ImageFilter, __version__

HERE = pathlib.Path(__file__).parent
PART = (180, 60, 180 + 120, 60 + 80)

photo = Image.open(HERE.parent.parent / "examples/photos/animals/chelsea.png").convert("RGB")
part = photo.crop(PART)
# Opaque on the left, clear on the right, and colours that must not bleed out of what is clear.
ramp = Image.linear_gradient("L").rotate(90).resize(part.size)
alpha = Image.merge("RGBA", (*part.split(), ramp))

STEPS = {
    "crop": part,
    "resize-bilinear": part.resize((47, 61), Image.BILINEAR),
    "resize-bicubic": part.resize((47, 61), Image.BICUBIC),
    "resize-lanczos3": part.resize((47, 61), Image.LANCZOS),
    "resize-larger": part.resize((200, 90), Image.LANCZOS),
    "rotate-90": part.transpose(Image.Transpose.ROTATE_270),  # Pillow counts the other way round
    "rotate-180": part.transpose(Image.Transpose.ROTATE_180),
    "rotate-270": part.transpose(Image.Transpose.ROTATE_90),
    "flip-horizontal": part.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip-vertical": part.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "grayscale": part.convert("L").convert("RGB"),
    "sharpen": part.filter(ImageFilter.UnsharpMask(radius=2, percent=150, threshold=0)),
    "brightness": ImageEnhance.Brightness(part).enhance(1.3),
    "darkness": ImageEnhance.Brightness(part).enhance(0.4),
    "contrast": ImageEnhance.Contrast(part).enhance(0.6),
    "more-contrast": ImageEnhance.Contrast(part).enhance(1.7),
    "alpha": alpha,
    "alpha-resize": alpha.resize((47, 61), Image.LANCZOS),
}
for name, image in STEPS.items():
    image.save(HERE / f"step.{name}.webp", lossless=True, quality=100, method=6, exact=True)
print("Pillow", __version__, sum(file.stat().st_size for file in HERE.glob("step.*.webp")), "bytes")

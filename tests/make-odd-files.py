"""Makes tests/odd-files: small files of every kind that a folder of pictures may hold, and what should come of each.

    pip install pillow && python3 tests/make-odd-files.py

The files are committed; the script shows where they come from. expected.json says for each: `error`, the kind of the
error, or `size`, `format`, and pixels as [x, y, [samples], tolerance] of the upright picture on white.
"""
import io, json, pathlib, struct, zlib
from PIL import Image

OUT = pathlib.Path(__file__).parent / "odd-files"
OUT.mkdir(exist_ok=True)
EXPECTED = {}


def put(name, data, **expected):
    assert len(data) < 20_000, name
    (OUT / name).write_bytes(data)
    EXPECTED[name] = expected


def save(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters(width=96, height=64):
    """Red, green / blue, yellow: a turned or mirrored picture is told by its corners."""
    image = Image.new("RGB", (width, height))
    for i, colour in enumerate([(230, 20, 20), (20, 200, 20), (20, 20, 230), (230, 230, 20)]):
        image.paste(colour, (i % 2 * width // 2, i // 2 * height // 2, (i % 2 + 1) * width // 2, (i // 2 + 1) * height // 2))
    return image


def corners(tolerance, width=96, height=64, order=(0, 1, 2, 3)):
    colours = [[230, 20, 20], [20, 200, 20], [20, 20, 230], [230, 230, 20]]
    places = [(8, 8), (width - 9, 8), (8, height - 9), (width - 9, height - 9)]
    return [[x, y, colours[i], tolerance] for (x, y), i in zip(places, order)]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


picture = quarters()
jpeg = save(picture, "JPEG", quality=90)
ok = dict(size=[96, 64], pixels=corners(6), format="jpeg")

put("empty.jpg", b"", error="empty")
put("text.png", b"This is a note, not a picture.\n", error="not_an_image")
put("truncated.jpg", jpeg[: len(jpeg) * 2 // 3], error="corrupt")
put("truncated.png", save(Image.effect_noise((64, 64), 90), "PNG")[:1500], error="corrupt")
header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(20_000), 9)) + chunk(b"IEND", b"")
put("bomb.png", bomb, error="too_large")
put("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), error="unsupported")

put("plain.jpg", jpeg, **ok)
put("ein schönes Bild 🌊.jpg", jpeg, **ok)
put("png-by-content.jpg", save(picture, "PNG"), size=[96, 64], pixels=corners(0), format="png")
put("progressive.jpg", save(picture, "JPEG", quality=90, progressive=True), **ok)
put("grayscale.jpg", save(Image.linear_gradient("L").resize((64, 64)), "JPEG", quality=90),
    size=[64, 64], pixels=[[10, 0, [2, 2, 2], 5], [10, 63, [253, 253, 253], 5]], format="jpeg")
cmyk = save(picture.convert("CMYK"), "JPEG", quality=90)
put("cmyk.jpg", cmyk, **ok)
put("garbage-after-end.jpg", jpeg + b"\0garbage\xff\xd9" * 20, **ok)
put("garbage-before-end.jpg", jpeg[:-2] + b"\x00" * 40 + b"\xff\xd9", **ok)

exif = Image.Exif()
exif[0x0112] = 6  # shown a quarter turn clockwise
turned = dict(size=[64, 96], pixels=corners(6, 64, 96, (2, 0, 3, 1)))
put("exif-turned.jpg", save(picture, "JPEG", quality=90, exif=exif), format="jpeg", **turned)
put("exif-turned.png", save(picture, "PNG", exif=exif), format="png", **turned)
put("exif-turned.webp", save(picture, "WEBP", lossless=True, exif=exif), format="webp", **turned)
for orientation, order in {2: (1, 0, 3, 2), 3: (3, 2, 1, 0), 4: (2, 3, 0, 1), 5: (0, 2, 1, 3), 7: (3, 1, 2, 0), 8: (1, 3, 0, 2)}.items():
    exif[0x0112] = orientation
    size = (96, 64) if orientation < 5 else (64, 96)
    put(f"exif-{orientation}.jpg", save(picture, "JPEG", quality=90, exif=exif),
        format="jpeg", size=list(size), pixels=corners(6, *size, order))

deep = Image.new("I;16", (32, 32), 40_000)
put("16-bit.png", save(deep, "PNG"), size=[32, 32], pixels=[[5, 5, [156, 156, 156], 1]], format="png")
clear = picture.convert("RGBA")
clear.paste((0, 0, 0, 0), (0, 0, 48, 32))
hole = [[8, 8, [255, 255, 255], 0]] + corners(0)[1:]
put("alpha.png", save(clear, "PNG"), size=[96, 64], pixels=hole, format="png")
palette = clear.quantize(8)
put("palette-alpha.png", save(palette, "PNG"), size=[96, 64], pixels=[p[:3] + [4] for p in hole], format="png")
put("gray-alpha.png", save(Image.merge("LA", [Image.new("L", (8, 8), 60), Image.new("L", (8, 8), 255)]), "PNG"),
    size=[8, 8], pixels=[[3, 3, [60, 60, 60], 0]], format="png")
put("one-bit.png", save(Image.new("1", (9, 7), 1), "PNG"), size=[9, 7], pixels=[[8, 6, [255, 255, 255], 0]], format="png")
put("one-pixel.png", save(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), size=[1, 1], pixels=[[0, 0, [1, 2, 3], 0]], format="png")
put("animated.gif", save(picture, "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64), (9, 9, 9))], duration=100),
    size=[96, 64], pixels=corners(6), format="gif")
put("lossy.webp", save(picture, "WEBP", quality=90), size=[96, 64], pixels=corners(8), format="webp")
put("alpha.webp", save(clear, "WEBP", lossless=True), size=[96, 64], pixels=hole, format="webp")
put("plain.bmp", save(quarters(60, 40), "BMP"), size=[60, 40], pixels=corners(0, 60, 40), format="bmp")
put("plain.tiff", save(quarters(60, 40), "TIFF"), size=[60, 40], pixels=corners(0, 60, 40), format="tiff")
put("lzw.tiff", save(picture, "TIFF", compression="tiff_lzw"), size=[96, 64], pixels=corners(0), format="tiff")

(OUT / "expected.json").write_text(json.dumps(EXPECTED, ensure_ascii=False, indent=1) + "\n")
print(len(EXPECTED), "files,", sum(f.stat().st_size for f in OUT.iterdir()), "bytes")

"""Fabricates the files that a real folder of photos contains sooner or later: odd kinds, damaged ones, traps.

Every builder writes one file below `folder` and returns its path. `GOOD` must decode, `BAD` must end in one
clear error. It knows nothing about how they are read.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

PHOTOS = Path(__file__).resolve().parent.parent / "photos"

Builder = Callable[[Path], Path]


def scene(width: int = 96, height: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: red top left, green top right, blue bottom left, white bottom right."""
    y, x = np.mgrid[0:height, 0:width]
    right, down = x / max(1, width - 1), y / max(1, height - 1)
    red = (1 - right) * (1 - down) + right * down
    green = right * (1 - down) + right * down
    blue = (1 - right) * down + right * down
    return np.stack([red, green, blue], -1).__mul__(255).round().astype(np.uint8)


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """`scene` as a Pillow image."""
    return Image.fromarray(scene(width, height))


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    """Write `image` as folder/name; Pillow chooses the format by the suffix unless `format` is given."""
    path = folder / name
    image.save(path, **options)
    return path


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    """The bytes of a file of the given Pillow format."""
    buffer = io.BytesIO()
    (image or picture(200, 160)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(folder: Path, width: int, height: int, name: str = "bomb.png") -> Path:
    """A valid black 1-bit PNG of any size in a few kilobytes, so that tests can afford it."""
    row = b"\0" + bytes((width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path = folder / name
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(
        signature + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    )
    return path


def jpeg_header_bomb(
    folder: Path, width: int, height: int, name: str = "bomb.jpg", *, progressive=False
) -> Path:
    """A small JPEG whose header claims another size than its data have."""
    data = bytearray(encoded("JPEG", progressive=progressive))
    marker = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[marker + 5 : marker + 9] = struct.pack(">HH", height, width)
    path = folder / name
    path.write_bytes(bytes(data))
    return path


def large_jpeg(folder: Path, width: int = 20_000, height: int = 20_000, name: str = "large.jpg") -> Path:
    """A valid baseline grey JPEG of any size: one row of blocks repeated, with restart markers between.

    Made without ever holding the picture: 400 megapixels are written in well under a second.
    """
    blocks = -(-width // 8)
    # Grey 128 everywhere: each block is coded as 'DC difference 0', 'end of block', so all rows are the same.
    small = encoded("JPEG", Image.new("L", (8 * min(blocks, 8000), 8), 128))
    start = small.index(b"\xff\xda")
    scan_at = start + 2 + struct.unpack(">H", small[start + 2 : start + 4])[0]
    if blocks > 8000:
        raise ValueError("at most 64,000 pixels wide")
    head = bytearray(small[:start])
    frame = head.index(b"\xff\xc0")
    head[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    row = small[scan_at:-2]
    restart = b"\xff\xdd" + struct.pack(">HH", 4, blocks)
    path = folder / name
    rows = -(-height // 8)
    with open(path, "wb") as file:
        file.write(bytes(head) + restart + small[start:scan_at])
        for index in range(rows):
            file.write(row)
            if index < rows - 1:
                file.write(bytes([0xFF, 0xD0 + index % 8]))
        file.write(b"\xff\xd9")
    return path


def rotated(folder: Path, orientation: int, kind: str = "JPEG", size: tuple[int, int] = (96, 64)) -> Path:
    """A file that shows `scene` upright once its EXIF orientation is applied."""
    upright = picture(*size)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    stored = upright if undo is None else upright.transpose(undo)
    return save(folder, f"turned{orientation}.{kind.lower()}", stored, exif=exif.tobytes(), **options)


def _gray16(folder: Path) -> Path:
    values = np.asarray(picture().convert("L"), np.uint16) * 257
    return save(folder, "sixteen.png", Image.fromarray(values))


def _float(folder: Path) -> Path:
    return save(folder, "float.tif", Image.fromarray(np.asarray(picture().convert("L"), np.float32) / 255))


def _animated(folder: Path) -> Path:
    return save(
        folder,
        "moving.gif",
        picture(),
        save_all=True,
        append_images=[Image.new("RGB", (96, 64), "black")] * 3,
    )


def _palette_alpha(folder: Path) -> Path:
    image = picture().quantize(32)
    return save(folder, "palette-alpha.png", image, transparency=0)


def _alpha(folder: Path) -> Path:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return save(folder, "alpha.png", image)


def _broken_profile(folder: Path) -> Path:
    return save(folder, "broken-profile.jpg", picture(), icc_profile=b"not a profile" * 50, quality=95)


def _foreign_profile(folder: Path) -> Path:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return save(folder, "foreign-profile.jpg", picture(), icc_profile=lab, quality=95)


def _broken_exif(folder: Path) -> Path:
    return save(
        folder, "broken-exif.jpg", picture(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage", quality=95
    )


def _wrong_suffix(folder: Path) -> Path:
    return save(folder, "really-a-png.jpg", picture(), format="PNG")


def _no_suffix(folder: Path) -> Path:
    return save(folder, "no suffix", picture(), format="JPEG", quality=95)


GOOD: dict[str, Builder] = {
    "jpeg": lambda f: save(f, "plain.jpg", picture(), quality=95),
    "progressive": lambda f: save(f, "progressive.jpg", picture(), progressive=True, quality=95),
    "jpeg-gray": lambda f: save(f, "gray.jpg", picture().convert("L"), quality=95),
    "cmyk": lambda f: save(f, "cmyk.jpg", picture().convert("CMYK"), quality=95),
    "cmyk-tiff": lambda f: save(f, "cmyk.tif", picture().convert("CMYK")),
    "lab-tiff": lambda f: save(
        f, "lab.tif", Image.merge("LAB", Image.new("LAB", (96, 64), (200, 0, 0)).split())
    ),
    "palette": lambda f: save(f, "palette.png", picture().quantize(64)),
    "palette-alpha": _palette_alpha,
    "alpha": _alpha,
    "gray-alpha": lambda f: save(f, "gray-alpha.png", picture().convert("LA")),
    "one-bit": lambda f: save(f, "one-bit.png", picture().convert("1")),
    "sixteen-bit": _gray16,
    "float": _float,
    "animated": _animated,
    "webp": lambda f: save(f, "picture.webp", picture(), lossless=True),
    "bmp": lambda f: save(f, "picture.bmp", picture()),
    "tga": lambda f: save(f, "picture.tga", picture()),
    "ppm": lambda f: save(f, "picture.ppm", picture()),
    "jpeg2000": lambda f: save(f, "picture.jp2", picture()),
    "one-pixel": lambda f: save(f, "one.png", Image.new("RGB", (1, 1), (10, 20, 30))),
    "thin": lambda f: save(f, "thin.png", picture(3000, 1)),
    "wrong-suffix": _wrong_suffix,
    "no-suffix": _no_suffix,
    "broken-profile": _broken_profile,
    "foreign-profile": _foreign_profile,
    "broken-exif": _broken_exif,
}
"""Files that decode; all but the smallest show `scene` more or less."""


def _bytes(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _cut(kind: str, name: str, **options) -> Builder:
    def build(folder: Path) -> Path:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8))
        data = encoded(kind, noise, **options)
        return _bytes(folder, name, data[: len(data) // 2])

    return build


def _folder(folder: Path) -> Path:
    path = folder / "a folder.jpg"
    path.mkdir()
    return path


def _fifo(folder: Path) -> Path:
    path = folder / "pipe.jpg"
    os.mkfifo(path)
    return path


def _socket(folder: Path) -> Path:
    path = folder / "s.jpg"
    before = os.getcwd()
    os.chdir(folder)  # a socket's path may have 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)
    return path


def _loop(folder: Path) -> Path:
    path = folder / "loop.jpg"
    path.symlink_to(path.name)
    return path


def _dangling(folder: Path) -> Path:
    path = folder / "dangling.jpg"
    path.symlink_to("nowhere.jpg")
    return path


BAD: dict[str, Builder] = {
    "empty": lambda f: _bytes(f, "empty.jpg", b""),
    "text": lambda f: _bytes(f, "text.jpg", b"this is no picture, although its name says so\n" * 20),
    "text-as-tga": lambda f: _bytes(f, "text.png", b"\0" * 200),
    "jpeg-start-only": lambda f: _bytes(f, "start.jpg", b"\xff\xd8\xff\xe0"),
    "png-start-only": lambda f: _bytes(f, "start.png", b"\x89PNG\r\n\x1a\n"),
    "truncated-jpeg": _cut("JPEG", "cut.jpg"),
    "truncated-progressive": _cut("JPEG", "cut-progressive.jpg", progressive=True),
    "truncated-png": _cut("PNG", "cut.png"),
    "truncated-gif": _cut("GIF", "cut.gif"),
    "truncated-webp": _cut("WEBP", "cut.webp"),
    "truncated-tiff": _cut("TIFF", "cut.tif"),
    "truncated-tiff-lzw": _cut("TIFF", "cut-lzw.tif", compression="tiff_lzw"),
    "truncated-bmp": _cut("BMP", "cut.bmp"),
    "truncated-jp2": _cut("JPEG2000", "cut.jp2"),
    "png-bomb": lambda f: png_bomb(f, 20_000, 20_000),
    "jpeg-bomb": lambda f: jpeg_header_bomb(f, 65_500, 65_500),
    "progressive-bomb": lambda f: jpeg_header_bomb(
        f, 30_000, 30_000, "progressive-bomb.jpg", progressive=True
    ),
    "gif-bomb": lambda f: _bytes(f, "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0"),
    "heic": lambda f: _bytes(f, "phone.heic", b"\0\0\0\x18ftypheic" + bytes(300)),
    "folder": _folder,
    "loop": _loop,
    "dangling": _dangling,
    **({"fifo": _fifo} if hasattr(os, "mkfifo") else {}),
    **({"socket": _socket} if hasattr(socket, "AF_UNIX") else {}),
}
"""Files that must end in one clear error, quickly and without noise."""


def ycck(folder: Path) -> Path:
    """`scene` as Photoshop writes CMYK to JPEG: inverted, turned to YCCK (Adobe marker, transform 2)."""
    cyan, magenta, yellow, black = picture().convert("CMYK").split()
    y, cb, cr = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    # Pillow inverts what it saves as CMYK; the first three are inverted beforehand to be stored as they are.
    planes = [plane.point(lambda v: 255 - v) for plane in (y, cb, cr)]
    data = bytearray(encoded("JPEG", Image.merge("CMYK", (*planes, black)), quality=98))
    marker = data.index(b"Adobe")
    data[marker + 11] = 2
    return _bytes(folder, "ycck.jpg", bytes(data))


DISPLAY_P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
"""Linear RGB → XYZ (D50) of the phones' colour space."""

_SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
_GAMMA = 2.2


def matrix_profile(primaries: np.ndarray) -> bytes:
    """A minimal ICC profile (version 2, RGB → XYZ, gamma 2.2) with the given matrix."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(v) for v in values)

    text = b"matrix\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(np.array([0.9642, 1.0, 0.8249])),
        **{name: xyz(primaries[:, k]) for k, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **{
            n: b"curv\0\0\0\0" + struct.pack(">IH", 1, round(_GAMMA * 256))
            for n in (b"rTRC", b"gTRC", b"bTRC")
        },
    }
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", at + len(body))
    header[8:12] = b"\x02\x10\0\0"
    header[12:24] = b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = b"".join(fixed(v) for v in (0.9642, 1.0, 0.8249))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


def to_srgb(colours: np.ndarray, primaries: np.ndarray) -> np.ndarray:
    """What `matrix_profile` colours are in sRGB, computed from the definition."""
    linear = (colours / 255.0) ** (round(_GAMMA * 256) / 256)
    out = (linear @ primaries.T @ np.linalg.inv(_SRGB).T).clip(0, 1)
    coded = np.where(out <= 0.0031308, 12.92 * out, 1.055 * out ** (1 / 2.4) - 0.055)
    return np.rint(coded * 255).astype(np.uint8)

"""Decodes one image file to upright RGB bytes, whatever the file is, or says in one line why it cannot.

It knows Pillow, colour modes, orientation and the ways in which files are broken. It knows nothing about
faces, models or rows; where the paths come from is the business of `aescli.data.finding`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import stat
import struct
import threading
import warnings
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from aescli.data import remote
from aescli.data.finding import Found as Found
from aescli.data.finding import find_images as find_images
from aescli.data.finding import printable
from aescli.errors import AesError

MAX_DECODED_PIXELS = 2 * (1024 * 1024 * 1024 // 4 // 3)
"""Most pixels (178,956,970) that one file may need in memory: the limit at which Pillow itself refuses.

For a baseline JPEG the pixels at the reduced scale count, for everything else (and for a progressive JPEG,
whose coefficients are all held before the first pixel comes) those of the whole picture."""

MAX_CODED_PIXELS = 1_000_000_000
"""Most pixels of a JPEG at its full size: even at 1/8 scale each one costs time (seconds at the limit)."""

_BIG = 40_000_000  # pixels; above this one decode at a time, so that workers do not add up their memory
_one_big_decode = threading.Lock()

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

_ORIENT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC = 262  # TIFF: 0 = white is 0

# Pillow warns about odd metadata on standard error, where a run of many files shows its progress; what
# matters becomes an ImageError. `warnings.catch_warnings` is not thread-safe, hence one narrow filter for
# good.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(AesError):
    """One file could not be read as a picture.

    `str(error)` is one printable line: the path, what is wrong, what to do. `reason` is the same without the
    path, for a row that has a column for it.
    """

    def __init__(self, path: str, reason: str):
        self.path = path
        self.reason = printable(reason)
        super().__init__(f"{printable(path)}: {self.reason}")

    def __reduce__(self):
        return ImageError, (self.path, self.reason)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture.

    pixels: (H, W, 3) uint8 RGB, upright, C-contiguous.
    scale: decoded size / original size, in (0, 1]; 1 where nothing was reduced.
    size: (width, height) in pixels of the upright original.
    """

    pixels: np.ndarray
    scale: float
    size: tuple[int, int]


def load_image(path: str | os.PathLike[str], target: int = 448) -> Decoded:
    """Decode `path` to upright RGB, reduced by 2, 4, 8, … as long as the short side stays ≥ 2·`target` px.

    A JPEG is reduced while it is decoded (DCT scaling, several times faster), anything else by box averaging
    afterwards. Twice the need is exact enough: for 12 megapixels brought to 256 px the reduced decode then
    agrees with the full one to 53.5 dB, and to 44.5 dB only when it is read at the need itself.

    The content decides the format, not the suffix. EXIF orientation and colour profiles are applied,
    transparency is laid on white, an animation gives its first frame, 16-bit values are divided by 257, and
    float or 32-bit values are scaled by the range they use (see `_to_8bit`).

    Raises ImageError for everything else, truncated files included. Safe to call from several threads.
    """
    path = os.fspath(path)
    if target < 1:
        raise ValueError(f"target must be at least 1 pixel, got {target}")
    try:
        with open_regular(path) as file:
            return _decode(path, file, target)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on a damaged file
        raise ImageError(path, _explain(error)) from error


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; ImageError for anything else. Never waits, whatever local `path` it is.

    An address (`aescli.data.remote`) is fetched whole.

    A FIFO without a writer would block `open` for ever, and a device may give bytes without end.
    """
    path = os.fspath(path)
    if remote.is_remote(path):
        try:
            return remote.fetch(path)
        except OSError as error:
            reason = explain_os_error(error) if error.errno else f"cannot be fetched: {error}"
            raise ImageError(path, reason) from error
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:
        raise ImageError(path, "a path cannot contain a NUL character; correct the list of paths") from error
    except OSError as error:
        raise ImageError(path, explain_os_error(error)) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise ImageError(path, "is a folder, not an image; give the folder itself to have it searched")
    raise ImageError(path, "is a pipe, socket or device, not a file; copy its content to a file first")


def explain_os_error(error: OSError) -> str:
    """One clause for a person: what the operating system refused and what to do."""
    advice = {
        errno.ENOENT: "the file does not exist (moved or deleted?)",
        errno.ENOTDIR: "the file does not exist (a part of its path is not a folder)",
        errno.EACCES: "permission denied; make the file readable",
        errno.EPERM: "permission denied; make the file readable",
        errno.ENAMETOOLONG: "the path is too long for this system; shorten it",
        errno.ELOOP: "the symbolic link leads back to itself; replace it by the file",
        errno.ENXIO: "is a pipe, socket or device, not a file; copy its content to a file first",
        errno.EISDIR: "is a folder, not an image; give the folder itself to have it searched",
        errno.EIO: "the disk reports a read error; copy the file again from its source",
        errno.EMFILE: "too many open files; use fewer workers or raise `ulimit -n`",
    }
    return advice.get(error.errno, f"cannot be read: {error.strerror or error}")


def _explain(error: Exception) -> str:
    """The reason for a failure inside Pillow."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return "not enough memory to decode it; make it smaller or use fewer workers"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"has more than {MAX_DECODED_PIXELS:,} pixels, which is refused as a possible decompression "
            "bomb; save a smaller copy"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return explain_os_error(error)
    if isinstance(error, struct.error):  # a header that ends too early; the text speaks of buffers
        text = "its header is incomplete"
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return f"the file is truncated ({text}); copy it again from its source"
    return (
        f"the file is damaged, truncated or of an unsupported kind ({text}); copy it again or save it as JPEG"
    )


def _decode(path: str, file: IO[bytes], target: int) -> Decoded:
    image = _open(path, file)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(path, "has no pixels (width or height is 0); save it again")
    reduced_by = 1
    held = width * height
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if held > MAX_CODED_PIXELS:
            raise _too_large(path, image.size, MAX_CODED_PIXELS)
        image.draft(None, (2 * target, 2 * target))
        reduced_by = image.decoderconfig[0] if image.decoderconfig else 1
        if not image.info.get("progressive"):
            held = image.size[0] * image.size[1]
    if held > MAX_DECODED_PIXELS:
        raise _too_large(path, (width, height), MAX_DECODED_PIXELS)
    if held > _BIG:
        with _one_big_decode:
            return _finish(image, target, reduced_by, (width, height))
    return _finish(image, target, reduced_by, (width, height))


def _too_large(path: str, size: tuple[int, int], limit: int) -> ImageError:
    return ImageError(
        path,
        f"is {size[0]:,} × {size[1]:,} pixels, more than the limit of {limit:,} (a possible decompression "
        "bomb); save a smaller copy, at best as a baseline JPEG",
    )


def _open(path: str, file: IO[bytes]) -> Image.Image:
    """Identify the file by its content. No pixel is decoded yet."""
    head = file.read(16)
    if not head:
        raise ImageError(path, "the file is empty (0 bytes); copy it again from its source")
    file.seek(0)
    if head[:3] == b"\xff\xd8\xff":
        # Not through Image.open: its size limit would refuse a picture that is harmless at reduced scale, and
        # an MPO (two pictures in one file) opened as JPEG is its first picture, which is what is wanted.
        try:
            return JpegImagePlugin.JpegImageFile(file)
        except (SyntaxError, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError(path, _broken_header("JPEG")) from error
    _load_plugins()
    suffix = os.path.splitext(path)[1].lower()
    # Formats without a signature (TGA and a few more) take nearly any bytes for a header: their suffix must
    # agree.
    formats = [
        name
        for name in Image.ID
        if (Image.OPEN[name][1] is not None or Image.registered_extensions().get(suffix) == name)
        and name != "EPS"  # Ghostscript would run what the file says, whatever it is called
    ]
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        claimed = [name for name in formats if Image.OPEN[name][1] and Image.OPEN[name][1](head) is True]
        if head[4:12] in _HEIC:
            reason = "HEIC pictures cannot be opened here; convert it to JPEG or PNG"
        elif head.startswith(b"%!PS") or head.startswith(b"\xc5\xd0\xd3\xc6"):
            reason = "PostScript is a program, which is not run here; convert it to JPEG or PNG"
        elif claimed:
            reason = _broken_header(claimed[0])
        else:
            reason = "not an image, or of a kind that Pillow does not know; convert it to JPEG or PNG"
        raise ImageError(path, reason) from error


_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))


def _broken_header(kind: str) -> str:
    return f"begins like a {kind} file, but is damaged or truncated; copy it again from its source"


_plugins_lock = threading.Lock()


def _load_plugins() -> None:
    with _plugins_lock:
        Image.init()


def _finish(image: Image.Image, target: int, reduced_by: int, size: tuple[int, int]) -> Decoded:
    """Pixels in memory from here on.

    size: of the stored original; reduced_by: what the decoder did already.
    """
    image.load()
    info, orientation = image.info, _orientation(image)
    image = _simple_mode(image)
    short = min(image.size)
    factor = 1
    while short // (2 * factor) >= 2 * target:
        factor *= 2
    if factor > 1:
        image = image.reduce(factor)
    image = _to_srgb(image, info.get("icc_profile"))
    if orientation in _ORIENT:
        image = image.transpose(_ORIENT[orientation])
        if orientation >= 5:
            size = (size[1], size[0])
    pixels = np.array(image, dtype=np.uint8)  # a copy: writable, and Pillow's own buffer can go
    return Decoded(pixels, 1.0 / (reduced_by * factor), size)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Asked after loading: a PNG may carry it at its end, a TIFF turns itself."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # metadata that cannot be parsed must not cost the picture
        return 1


def _simple_mode(image: Image.Image) -> Image.Image:
    """Any Pillow mode → L, RGB, CMYK or LAB with 8 bits, without transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8bit(np.asarray(image))
        # Pillow turns a TIFF whose white is 0 round for 8 bits only.
        white_is_zero = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        return Image.fromarray(255 - grey if white_is_zero else grey)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGB", image.size, BACKGROUND)
        page.paste(rgba, mask=rgba.getchannel("A"))
        return page
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGB")


def _to_8bit(values: np.ndarray) -> np.ndarray:
    """(H, W) of 16-bit, 32-bit or float values → uint8.

    Unsigned 16 bits: v/257, the whole range, so that exposure is kept. 32-bit integers and floats do not say
    what white is; the smallest usual range that holds all values is taken: for floats 0..1, then for both 0..255 and
    0..65535, and otherwise the smallest value becomes black and the largest white. Values that are not finite
    become black.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    real = values.astype(np.float32)
    finite = np.isfinite(real)
    if not finite.all():
        real = np.where(finite, real, np.nan)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(np.nanmin(real)), float(np.nanmax(real))
    whites = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    white = next((w for w in whites if low >= 0 and high <= w), None)
    if white is None:
        real = real.astype(np.float64)  # the difference of two floats may not be one
        scaled = (real - low) * (255.0 / (high - low)) if high > low else np.zeros_like(real)
    else:
        scaled = real * (255.0 / white)
    return np.nan_to_num(np.rint(scaled), nan=0.0).clip(0, 255).astype(np.uint8)


_transforms = threading.local()  # a cache per thread: littleCMS transforms are not promised to be thread-safe


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, CMYK or LAB → RGB in sRGB, through the embedded profile where there is a usable one."""
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_transform())
    if profile:
        transform = _profile_transform(image.mode, profile)
        if transform is not None:
            return ImageCms.applyTransform(image, transform)
    return image.convert("RGB")


def _cache() -> dict:
    if not hasattr(_transforms, "by_key"):
        _transforms.by_key = {}
    return _transforms.by_key


def _lab_transform() -> ImageCms.ImageCmsTransform:
    cache = _cache()
    if "LAB" not in cache:
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        cache["LAB"] = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    return cache["LAB"]


def _profile_transform(mode: str, profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """To sRGB; None where the profile is broken, of another colour space or changes nothing."""
    cache = _cache()
    key = (mode, hashlib.sha256(profile).digest())
    if key not in cache:
        if len(cache) >= 32:  # a folder has a handful of cameras; hostile input must not fill the memory
            cache.clear()
        cache[key] = _build_transform(mode, profile)
    return cache[key]


def _build_transform(mode: str, profile: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        # Nearly every profile met in photos is sRGB again; those cost nothing more than this probe of a
        # colour cube.
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        if mode == "L":
            probe = Image.fromarray(steps[None])
        else:
            probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
        before = np.asarray(probe.convert("RGB"), np.int16)
        after = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
        return None if np.abs(after - before).max() <= 2 else transform
    except Exception:  # a broken profile must not cost the picture
        return None

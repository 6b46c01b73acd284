import os
import pickle
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from aescli.data import images
from aescli.data.finding import printable
from aescli.data.hashing import content_hash, perceptual_hash
from aescli.data.images import ImageError, load_image
from aescli.errors import AesError

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest undoes the filter under test
QUICK = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Files whose pixels are not (close to) the RGB scene that they were made from, and what is expected instead.
GRAY = {"jpeg-gray", "gray-alpha", "sixteen-bit", "float"}
OTHER = {"lab-tiff", "alpha", "palette-alpha", "one-bit", "one-pixel", "thin"}


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, 2)


@pytest.mark.parametrize("name", hostile.GOOD)
def test_every_kind_decodes_to_upright_rgb(name, tmp_path):
    decoded = load_image(hostile.GOOD[name](tmp_path))
    pixels = decoded.pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags["C_CONTIGUOUS"]
    assert pixels.flags["WRITEABLE"]
    assert decoded.size == pixels.shape[1::-1]
    assert decoded.scale == 1
    if name not in OTHER:
        expected = gray(hostile.scene()) if name in GRAY else hostile.scene()
        # 64 colours of a palette and the JPEG of smooth colours are the coarsest.
        assert mean_difference(pixels, expected) < (14 if name in ("palette", "animated") else 3)


@pytest.mark.parametrize("name", hostile.BAD)
def test_every_bad_file_gives_one_clear_line_quickly(name, tmp_path):
    path = hostile.BAD[name](tmp_path)
    begin = time.monotonic()
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert time.monotonic() - begin < 5
    message = str(caught.value)
    assert message.isprintable()
    assert message == f"{printable(str(path))}: {caught.value.reason}"
    assert ";" in message or "(" in message  # says what to do, or where it may have gone
    if name.startswith("truncated"):
        assert "truncated" in message
    if name.endswith("bomb") and name != "gif-bomb":
        assert "decompression bomb" in message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ImageError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_reading_is_silent(tmp_path):
    """Neither warnings nor messages of the C libraries below Pillow reach standard error."""
    for build in (*hostile.GOOD.values(), *hostile.BAD.values()):
        build(tmp_path)
    hostile.png_bomb(tmp_path, 12_000, 9_000, "warns.png")  # 108 MP: Pillow warns and goes on
    code = (
        "import sys\nfrom aescli.data.images import ImageError, find_images, load_image\n"
        "n = 0\nfor found in find_images(sys.argv[1:]):\n"
        "    try: load_image(found.path); n += 1\n    except ImageError: pass\nprint(n)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert done.stderr == ""
    assert int(done.stdout) >= len(hostile.GOOD) - 1  # the file without a suffix is not found in a folder


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind, tmp_path):
    decoded = load_image(hostile.rotated(tmp_path, orientation, kind))
    assert decoded.size == (96, 64)
    # webp is stored with loss here
    assert mean_difference(decoded.pixels, hostile.scene()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_at_reduced_scale_too(orientation, tmp_path):
    decoded = load_image(hostile.rotated(tmp_path, orientation, size=(960, 640)), target=40)
    assert decoded.size == (960, 640)
    assert decoded.pixels.shape == (80, 120, 3)
    assert decoded.scale == 1 / 8
    assert mean_difference(decoded.pixels, hostile.scene(120, 80)) < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@QUICK
@given(width=st.integers(1, 700), height=st.integers(1, 700), target=st.integers(1, 200))
def test_the_short_side_stays_at_twice_the_target(kind, width, height, target, tmp_path):
    path = hostile.save(tmp_path, f"x.{kind.lower()}", hostile.picture(width, height), format=kind)
    decoded = load_image(path, target)
    short = min(decoded.pixels.shape[:2])
    assert decoded.size == (width, height)
    assert short >= min(2 * target, width, height)
    assert short <= max(4 * target + 1, 1) or decoded.scale == 1
    assert decoded.scale == 1 or short < 4 * target + 2
    assert decoded.pixels.shape[1] == -(-width * decoded.scale // 1)
    assert decoded.pixels.shape[0] == -(-height * decoded.scale // 1)


def test_a_reduced_jpeg_agrees_with_the_full_one(tmp_path):
    """Read at twice the need and brought to the need: 45 dB or better against the full decode."""
    photo = Image.open(hostile.PHOTOS / "portrait.jpg").convert("RGB").resize((2048, 2048))
    path = hostile.save(tmp_path, "p.jpg", photo, quality=92)
    reduced, full = load_image(path, 256), load_image(path, 2048)
    assert (reduced.scale, full.scale) == (0.25, 1)
    small = [
        np.asarray(Image.fromarray(d.pixels).resize((256, 256), Image.Resampling.BICUBIC), float)
        for d in (reduced, full)
    ]
    error = np.sqrt(((small[0] - small[1]) ** 2).mean())
    assert 20 * np.log10(255 / error) > 45


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of memory is read from /proc")
def test_400_megapixels_of_baseline_jpeg_are_read_in_little_memory(tmp_path):
    path = hostile.large_jpeg(tmp_path)
    code = (
        "import sys\nfrom aescli.data.images import load_image\nd = load_image(sys.argv[1])\n"
        "print(d.pixels.shape, d.size, d.pixels.min(), d.pixels.max())\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    shape, kilobytes = done.stdout.splitlines()
    assert shape == "(1250, 1250, 3) (20000, 20000) 128 128"
    assert int(kilobytes) < 300_000  # decoded in full it takes 400 MB as grey, 1.6 GB as colours


def test_the_pixel_guard_leaves_pillow_as_it_was(tmp_path, monkeypatch):
    before = Image.MAX_IMAGE_PIXELS
    load_image(hostile.large_jpeg(tmp_path, 8000, 8000))
    with pytest.raises(ImageError):
        load_image(hostile.png_bomb(tmp_path, 20_000, 20_000))
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # somebody else took Pillow's guard away: ours stays
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(tmp_path / "bomb.png")


def test_large_decodes_take_turns(tmp_path, monkeypatch):
    """The workers' memory does not add up: above the limit one file at a time is in memory."""
    monkeypatch.setattr(images, "_BIG", 1000)
    inside, most, guard = 0, 0, threading.Lock()
    finish = images._finish

    def counting(*arguments):
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        try:
            return finish(*arguments)
        finally:
            with guard:
                inside -= 1

    monkeypatch.setattr(images, "_finish", counting)
    path = hostile.save(tmp_path, "a.png", hostile.picture())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_image(path), range(12)))
    assert most == 1


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (20, 10), (255, 0, 0, 128))
    image.paste((0, 0, 255, 0), (0, 0, 10, 10))
    pixels = load_image(hostile.save(tmp_path, "a.png", image)).pixels
    assert pixels[5, 2].tolist() == [255, 255, 255]
    assert pixels[5, 15].tolist() == [255, 127, 127]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    pixels = load_image(hostile.save(tmp_path, "p.png", palette, transparency=0)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [40, 50, 60]


def test_reducing_a_transparent_picture_lets_no_hidden_colour_through(tmp_path):
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 0))  # invisible green
    image.paste((255, 255, 255, 255), (0, 0, 64, 33))
    pixels = load_image(hostile.save(tmp_path, "a.png", image), target=4).pixels
    assert (pixels == 255).all()


@pytest.mark.parametrize("order", ["<", ">"])
@QUICK
@given(values=st.lists(st.integers(0, 65535), min_size=12, max_size=12))
def test_sixteen_bits_keep_their_exposure(order, values, tmp_path):
    array = np.array(values, np.uint16).reshape(3, 4)
    mode = "I;16" if order == "<" else "I;16B"
    image = Image.frombytes(mode, (4, 3), array.astype(order + "u2").tobytes())
    pixels = load_image(hostile.save(tmp_path, "x.tif", image)).pixels
    expected = np.floor(array / 257 + 0.5)
    assert (pixels == expected[..., None]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([0.0, float("inf"), 1.0], [0, 0, 255]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([1e30, 1e30, 1e30], [0, 0, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_by_the_range_they_use(values, expected, tmp_path):
    image = Image.fromarray(np.array([values], np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = load_image(hostile.save(tmp_path, "x.tif", image)).pixels
    assert pixels[0, :, 0].tolist() == expected


def test_32_bit_integers(tmp_path):
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.int32))
    assert load_image(hostile.save(tmp_path, "x.tif", image)).pixels[0, :, 1].tolist() == [0, 100, 255]
    image = Image.fromarray(np.array([[0, 100, 255]], np.int32))
    assert load_image(hostile.save(tmp_path, "x.tif", image)).pixels[0, :, 1].tolist() == [0, 100, 255]
    image = Image.fromarray(np.array([[-1000, 0, 1000]], np.int32))
    assert load_image(hostile.save(tmp_path, "x.tif", image)).pixels[0, :, 1].tolist() == [0, 128, 255]


def test_ycck_as_photoshop_writes_it(tmp_path):
    pixels = load_image(hostile.ycck(tmp_path)).pixels
    assert mean_difference(pixels, hostile.scene()) < 3


def test_a_wide_gamut_profile_is_converted_to_srgb(tmp_path):
    primaries = hostile.DISPLAY_P3
    colours = np.array([[[200, 150, 130], [90, 60, 50], [128, 128, 128], [60, 120, 180]]], np.uint8)
    path = hostile.save(
        tmp_path, "p3.png", Image.fromarray(colours), icc_profile=hostile.matrix_profile(primaries)
    )
    expected = hostile.to_srgb(colours, primaries)
    assert np.abs(expected.astype(int) - colours)[0, 0].max() > 5  # skin would come out paler
    assert np.abs(load_image(path).pixels.astype(int) - expected).max() <= 2


def test_an_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = hostile.save(tmp_path, "a.png", hostile.picture(), icc_profile=profile)
    assert (load_image(with_profile).pixels == hostile.scene()).all()


@QUICK
@given(data=st.data())
def test_damaged_files_never_do_anything_but_decode_or_raise_imageerror(data, tmp_path):
    kind = data.draw(
        st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "ICO"])
    )
    whole = bytearray(hostile.encoded(kind, hostile.picture(40, 30)))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(bytes(whole))
    try:
        outcome = load_image(path).pixels.ndim
    except ImageError as error:
        outcome = str(error).isprintable() and 3
    assert outcome == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000"])
def test_no_cut_of_a_file_passes_as_a_whole_picture(kind, tmp_path):
    """A file cut anywhere before its pixels end is an error, never a picture that is grey from there on."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    whole = hostile.encoded(kind, noise)
    path = tmp_path / "cut.bin"
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ImageError):
            load_image(path)


def test_threads_see_what_one_thread_sees(tmp_path):
    paths = [build(tmp_path) for build in hostile.GOOD.values()]
    alone = [load_image(p).pixels for p in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda p: load_image(p).pixels, paths * 6))
    for one, many in zip(alone * 6, together, strict=True):
        assert np.array_equal(one, many)


@pytest.mark.parametrize(
    "name",
    [
        "new\nline.jpg",
        "smile 😀 é.jpg",
        "tab\t.jpg",
        "a" * 240 + ".jpg",
        "-.jpg",
        "@x.jpg",
        "[1].jpg",
        " .jpg",
    ],
)
def test_odd_names(name, tmp_path):
    path = tmp_path / name
    hostile.picture().save(path, "JPEG")
    assert load_image(path).size == (96, 64)
    path.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="the file system takes only valid Unicode names"
)
def test_a_name_that_is_no_unicode(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(path)).write_bytes(hostile.encoded("JPEG"))
    (found,) = images.find_images([tmp_path])
    assert os.fsencode(found.path) == path
    assert load_image(found.path).size == (200, 160)
    Path(found.path).write_bytes(b"x")
    with pytest.raises(ImageError) as caught:
        load_image(found.path)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300 + ".jpg", "too long"),
        ("/".join(["y" * 200] * 30), "too long"),
        ("nul\0.jpg", "NUL"),
        ("missing.jpg", "does not exist"),
        ("plain.txt/below.jpg", "does not exist"),
    ],
)
def test_impossible_paths(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").write_text("x")
    with pytest.raises(ImageError, match=says):
        load_image(path)
    with pytest.raises(ImageError, match=says):
        content_hash(path)


def test_permission_denied_is_said(tmp_path, monkeypatch):
    """Root may read everything, so the system's answer is played."""
    path = hostile.save(tmp_path, "a.jpg", hostile.picture())

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.os, "open", refuse)
    with pytest.raises(ImageError, match="permission denied; make the file readable"):
        load_image(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_by_the_system(tmp_path):
    path = hostile.save(tmp_path, "a.jpg", hostile.picture())
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ImageError, match="permission denied"):
        load_image(path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
def test_devices_are_refused():
    for device in ("/dev/zero", "/dev/null", "/dev/tty"):
        if os.path.exists(device):
            with pytest.raises(ImageError):
                load_image(device)


def test_a_read_error_of_the_disk_is_said(tmp_path, monkeypatch):
    path = hostile.save(tmp_path, "a.png", hostile.picture())

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(images, "_open", broken)
    with pytest.raises(ImageError, match="read error"):
        load_image(path)


def test_out_of_memory_is_said(tmp_path, monkeypatch):
    path = hostile.save(tmp_path, "a.png", hostile.picture())

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_finish", full)
    with pytest.raises(ImageError, match="not enough memory"):
        load_image(path)


def test_wrong_target(tmp_path):
    with pytest.raises(ValueError, match="target"):
        load_image(tmp_path / "x.jpg", 0)


def test_image_errors_are_errors_for_people():
    assert issubclass(ImageError, AesError)


def test_no_file_stays_open(tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files cannot be counted here")
    paths = [build(tmp_path) for build in (*hostile.GOOD.values(), *hostile.BAD.values())]
    load_image(paths[0])
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        try:
            load_image(path)
        except ImageError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_content_hash(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert content_hash(path) == "ba7816bf8f01cfea"
    with pytest.raises(ImageError, match="folder"):
        content_hash(tmp_path)


def bits(a: np.uint64, b: np.uint64) -> int:
    return (int(a) ^ int(b)).bit_count()


def test_perceptual_hash_knows_near_duplicates_and_tells_photos_apart(tmp_path):
    photos = {p.stem: load_image(p) for p in sorted(hostile.PHOTOS.glob("*.jpg"))}
    assert len(photos) == 4
    hashes = {name: perceptual_hash(p.pixels) for name, p in photos.items()}
    for name, photo in photos.items():
        assert hashes[name].dtype == np.uint64
        image = Image.fromarray(photo.pixels)
        path = hostile.save(tmp_path, "again.jpg", image.resize((200, 160)), quality=40)
        assert bits(perceptual_hash(load_image(path).pixels), hashes[name]) <= 6
        darker = (photo.pixels * 0.7).astype(np.uint8)
        assert bits(perceptual_hash(darker), hashes[name]) <= 4
        for other in photos:
            if other != name:
                assert bits(hashes[name], hashes[other]) > 16


def test_perceptual_hash_of_degenerate_pictures():
    for level in (0, 127, 255):
        assert perceptual_hash(np.full((7, 9, 3), level, np.uint8)) == 0
    assert perceptual_hash(np.zeros((1, 1, 3), np.uint8)) == 0
    with pytest.raises(ValueError, match="uint8"):
        perceptual_hash(np.zeros((4, 4), np.uint8))


def test_a_tiff_whose_white_is_zero(tmp_path):
    grey = np.arange(0, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(65535 - grey * 257).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "x.tif").tag_v2[262] == 0
    np.testing.assert_array_equal(load_image(tmp_path / "x.tif", 16).pixels[..., 0], grey)


@pytest.mark.parametrize("name", ["holiday.jpg", "drawing.eps"])
def test_postscript_is_never_run(tmp_path, monkeypatch, name):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\nexit 1\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(ImageError, match="PostScript is a program, which is not run here"):
        load_image(tmp_path / name, 32)
    assert not (tmp_path / "was-run").exists()

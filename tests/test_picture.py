import contextlib
import io
import os
import pathlib
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms

from vitrail.errors import PictureError, UsageError, VitrailError
from vitrail.picture import Picture, read, save, to_image
from vitrail.storage import write_file

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/">é</x:xmpmeta>'.encode()


def profile(space: bytes) -> bytes:
    return ICC[:16] + space + ICC[20:]


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker", {0x9003: "2020:01:01 00:00:00"}
    return exif.tobytes()


EXIF = exif_block()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(depth: int, kind: int, row: bytes, size: tuple[int, int], transparent: bytes = b"") -> bytes:
    """A PNG of one row, of bit depths that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + key + data + chunk(b"IEND", b"")


# --- modes ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_8_bit_modes_come_back_as_they_were(mode):
    image = Image.fromarray(noise(5, 7, 4)).convert(mode)
    picture = read(encoded(image))
    assert picture.warnings == ()
    assert picture.pixels.shape == (5, 7, 3)
    assert picture.gray == (mode in ("1", "L", "LA"))
    decoded = to_image(picture)
    assert decoded.mode == image.mode.replace("1", "L")
    np.testing.assert_array_equal(decoded, image.convert(decoded.mode))


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_of_pillow_is_read(mode):
    picture = read(Image.new(mode, (3, 2)))
    assert picture.pixels.shape == (2, 3, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.writeable
    assert picture.pixels.flags.c_contiguous
    assert picture.gray == (mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"))
    assert bool(picture.warnings) == (mode in ("CMYK", "YCbCr", "LAB", "HSV", "F") or mode.startswith("I"))


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_undone(mode):
    picture = read(Image.new(mode.upper(), (1, 1), (200, 50) if mode == "La" else (200, 200, 200, 50)).convert(mode))
    assert abs(int(picture.pixels[0, 0, 0]) - 200) <= 3
    assert picture.alpha[0, 0] == 50


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128])])
def test_palettes(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    picture = read(encoded(image, **({} if transparency is None else {"transparency": transparency})))
    np.testing.assert_array_equal(picture.pixels, [[[10, 20, 30], [40, 50, 60]]])
    assert not picture.gray
    expected = {None: None, 1: [[255, 0]], b"\0\x80": [[0, 128]]}[transparency]
    assert (picture.alpha is None) if expected is None else (picture.alpha.tolist() == expected)


def test_palette_with_alpha_of_its_own():
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30, 40], "RGBA")
    assert read(image).alpha.tolist() == [[40]]


@pytest.mark.parametrize(
    ("data", "alpha"),
    [
        (png(1, 0, b"\x40", (2, 1), b"\0\1"), [[255, 0]]),
        (png(2, 0, b"\x30", (2, 1), b"\0\3"), [[255, 0]]),
        (png(4, 0, b"\x5f", (2, 1), b"\0\x0f"), [[255, 0]]),
        (png(8, 0, b"\x5f\x0f", (2, 1), b"\0\x0f"), [[255, 0]]),
        (png(16, 0, b"\x12\x34\x12\x35", (2, 1), b"\x12\x35"), [[255, 0]]),
        (png(8, 2, b"abcdef", (2, 1), b"\0d\0e\0f"), [[255, 0]]),
        (png(16, 2, b"aabbccddeeff", (2, 1), b"ddeeff"), [[255, 0]]),
        (png(16, 4, b"\x80\x80\x10\x10", (1, 1)), [[16]]),
    ],
)
def test_transparent_colours_become_alpha(data, alpha):
    assert read(data).alpha.tolist() == alpha


def test_opaque_alpha_is_dropped():
    assert read(Image.new("RGBA", (2, 2), (1, 2, 3, 255))).alpha is None
    assert read(np.full((2, 2, 4), 255, np.uint8)).alpha is None


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I"])
def test_16_bit_samples_are_divided_by_257(mode):
    values = [0, 128, 129, 257, 32768, 65535]
    image = Image.new(mode, (6, 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    picture = read(image)
    assert picture.pixels[0, :, 1].tolist() == [round(value / 257) for value in values]
    assert picture.gray
    assert picture.warnings == (f"Samples of mode {mode} become 8 bits: 0..65535 is mapped to 0..255.",)


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (np.array([[-5, 0, 5]], np.int32), [0, 128, 255], "its own range, -5..5,"),
        (np.array([[7, 7]], np.int32), [0, 0], "0..65535"),
        (np.array([[-7, -7]], np.int32), [0, 0], "its own range"),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255], "0..1 is"),
        (np.array([[0, 2, 255]], np.float32), [0, 2, 255], "0..255 is"),
        (np.array([[0, 512, 1024]], np.float32), [0, 128, 255], "its own range, 0..1024,"),
        (np.array([[-3e38, 3e38]], np.float32), [0, 255], "its own range"),
    ],
)
def test_32_bit_samples_say_how_they_are_mapped(values, expected, said):
    picture = read(Image.fromarray(values))
    assert picture.pixels[0, :, 0].tolist() == expected
    assert said in picture.warnings[0]


def test_samples_that_are_not_finite_are_refused():
    with pytest.raises(PictureError, match="not a number"):
        read(Image.fromarray(np.array([[0, np.nan]], np.float32)))


@pytest.mark.parametrize(
    "data",
    [
        png(16, 2, b"aabbcc", (1, 1)),
        png(16, 6, b"aabbccdd", (1, 1)),
        b"P6 1 1 65535\naabbcc",
        b"P3 1 1 1023\n1000 2 3\n",
    ],
)
def test_16_bit_colours_are_said_to_be_cut(data):
    assert read(data).warnings == ("Samples of more than 8 bits become 8 bits.",)


def test_plain_netpbm_has_nothing_to_say():
    assert read(b"P3 1 1 255\n1 2 3\n").warnings == ()
    assert read(b"P1 1 1\n1\n").warnings == ()


def test_gray_with_16_bit_alpha_stays_gray():
    assert read(png(16, 4, b"\x80\x80\x10\x10", (1, 1))).gray


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colour_spaces_are_converted_aloud(mode):
    image = Image.new(mode, (2, 2), (60, 130, 120, 10)[: len(mode) if mode != "YCbCr" else 3])
    picture = read(image)
    assert picture.warnings == (f"Mode {mode} becomes RGB: colours may change.",)
    np.testing.assert_array_equal(picture.pixels, image.convert("RGB"))


def test_only_the_first_frame_is_kept():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "lime", "blue")]
    for format_ in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        picture = read(encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options))
        assert picture.pixels[0, 0].tolist() == [255, 0, 0]
        assert any("3 frames" in warning for warning in picture.warnings), format_


def test_texts_are_said_to_be_lost():
    assert "'comment'" in read(encoded(Image.new("RGB", (8, 8)), "JPEG", comment=b"hello")).warnings[0]


# --- metadata ---


@pytest.mark.parametrize("space", [b"RGB ", b"GRAY", b"CMYK"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
def test_profiles_that_do_not_fit_are_dropped_aloud(mode, space):
    image = Image.new(mode, (2, 2))
    image.info["icc_profile"] = profile(space)
    kept = (space == b"RGB ") if mode == "CMYK" else (mode == "L" or space != b"GRAY")
    picture = read(image)
    assert picture.icc == (profile(space) if kept else None)
    assert any("ICC" in warning for warning in picture.warnings) != kept


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_metadata_survives_savers(format_, gray):
    picture = Picture(np.zeros((8, 8, 3), np.uint8), gray, None, ICC, EXIF, XMP)
    buffer = io.BytesIO()
    save(to_image(picture), buffer, format_)
    again = read(buffer.getvalue())
    assert (again.icc, again.xmp, again.warnings) == (ICC, XMP, ())
    assert again.exif == (EXIF.removeprefix(b"Exif\0\0") if format_ == "WEBP" else EXIF)
    assert Image.open(buffer).getexif()[0x0112] == 6


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_exif_block_without_jpegs_head_is_saved_too(format_):
    image = to_image(Picture(np.zeros((8, 8, 3), np.uint8), False, exif=EXIF.removeprefix(b"Exif\0\0")))
    buffer = io.BytesIO()
    save(image, buffer, format_)
    assert Image.open(buffer).getexif()[0x010F] == "maker"


def test_tiff_keeps_exif_without_its_own_storage_tags():
    buffer = io.BytesIO()
    save(to_image(Picture(noise(8, 6, 3), False, None, ICC, EXIF, XMP)), buffer, "TIFF")
    picture = read(buffer.getvalue())
    assert (picture.icc, picture.xmp) == (ICC, XMP)
    exif = Image.Exif()
    exif.load(picture.exif)
    assert exif[0x010F] == "maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    assert set(exif) == {0x010F, 0x8769}
    assert picture.pixels.shape == (6, 8, 3)  # Pillow turns TIFF upright, and says so in its EXIF


def test_exif_set_by_hand_and_xmp_as_text_are_read():
    image = Image.new("RGB", (2, 2))
    image.getexif()[0x010F] = "maker"
    image.info["XML:com.adobe.xmp"] = XMP.decode()
    picture = read(image)
    assert b"maker" in picture.exif
    assert picture.xmp == XMP


def test_orientation_is_kept_and_not_applied():
    picture = read(encoded(Image.new("RGB", (6, 4)), exif=EXIF))
    assert picture.pixels.shape == (4, 6, 3)
    assert picture.exif == EXIF
    assert to_image(picture).info["exif"] == EXIF


# --- sources ---


def test_all_kinds_of_sources_give_the_same(tmp_path):
    pixels = noise(5, 7, 3)
    image = Image.fromarray(pixels)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image, pixels):
        np.testing.assert_array_equal(read(source).pixels, pixels)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(read(stream).pixels, pixels)


def test_a_pillow_image_stays_usable(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        read(image)
        image.getpixel((0, 0))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays(shape):
    array = noise(*shape)
    picture = read(array)
    planes = array.reshape(4, 5, -1)
    assert picture.gray == (planes.shape[2] == 1)
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(planes[..., :3], (4, 5, 3)))
    if shape[2:] == (4,):
        np.testing.assert_array_equal(picture.alpha, array[..., 3])
    before = picture.pixels.copy()
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3)),
        np.zeros((4, 5), bool),
        np.zeros((4, 5), np.uint16),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 0, 4), np.uint8),
        np.zeros((1, 65536), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(PictureError):
        read(array)


def one_line(error: pytest.ExceptionInfo[VitrailError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    for source, words in [
        (tmp_path / "missing.png", "missing.png: cannot be read: No such file"),
        (tmp_path, "Is a directory"),
        (b"", "no picture that Pillow can read; give a PNG"),
        (b"hello", "no picture that Pillow can read"),
        ("nul\0", "null"),
        (io.StringIO("text"), "type str; give a path"),
        (5, "type int"),
        (Image.new("RGB", (0, 3)), "0 x 3 pixels"),
    ]:
        with pytest.raises(PictureError) as error:
            read(source)
        assert words in one_line(error)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_truncated_files_are_refused_or_read(format_):
    data = encoded(Image.fromarray(noise(9, 9, 3)), format_)
    with pytest.raises(PictureError):
        read(data[: len(data) // 2])
    for length in range(0, len(data), 7):
        with contextlib.suppress(PictureError):
            assert read(data[:length]).pixels.shape == (9, 9, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(8193, 8192), (10000, 10000), (60000, 60000), (2**31 - 1, 1), (65536, 1)])
def test_too_large_pictures_are_refused_before_they_are_decoded(size, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(PictureError, match="scale it down") as error:
        read(png(8, 2, b"", size))
    one_line(error)


# --- saving ---


def test_saving_by_extension_replaces_whole_files(tmp_path):
    pixels = noise(8, 8, 4)
    for name in ("a.png", "b.WebP", "c.tiff", "d.tga", "e.jp2"):
        path = tmp_path / name
        path.write_bytes(b"older")
        save(Image.fromarray(pixels), path)
        np.testing.assert_array_equal(Image.open(path), pixels)
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["a.jpg", "a.ppm", "a.bmp", "a.avif"])
def test_opaque_pictures_fit_other_formats(tmp_path, mode, name):
    save(Image.new(mode, (8, 8), 77), tmp_path / name)
    assert abs(int(read(tmp_path / name).pixels[0, 0, 0]) - 77) <= 2


def test_what_cannot_be_saved_is_said_and_leaves_nothing(tmp_path):
    rgb, rgba = Image.new("RGB", (2, 2)), Image.new("RGBA", (2, 2))
    long_xmp = to_image(replace(read(rgb), xmp=bytes(70000)))
    (tmp_path / "folder.png").mkdir()
    for image, target, format_, words in [
        (
            rgba,
            tmp_path / "a.jpg",
            None,
            "JPEG cannot hold a picture of mode RGBA, only L, RGB; save it as PNG",
        ),
        (Image.new("LA", (2, 2)), tmp_path / "a.bmp", None, "mode LA"),
        (
            Image.new("CMYK", (2, 2)),
            tmp_path / "a.png",
            None,
            "mode CMYK, only L, LA, RGB, RGBA; convert it first",
        ),
        (rgb, tmp_path / "a.xyz", None, "cannot write format of extension '.xyz'; take one of PNG"),
        (rgb, tmp_path / "a", None, "of extension ''"),
        (rgb, tmp_path / "a.gif", None, "cannot write format GIF"),
        (rgb, io.BytesIO(), None, "say the format"),
        (rgb, io.BytesIO(), "HEIC", "cannot write format HEIC"),
        (long_xmp, tmp_path / "a.jpg", None, "too long; save it as PNG"),
        (Image.new("L", (16384, 1)), tmp_path / "a.webp", None, "WEBP cannot hold this picture"),
        (rgb, tmp_path / "missing" / "a.png", None, "cannot write"),
        (rgb, tmp_path / "folder.png", None, "not a regular file"),
    ]:
        with pytest.raises(VitrailError) as error:
            save(image, target, format_)
        assert words in one_line(error)
    assert os.listdir(tmp_path) == ["folder.png"]


def test_files_are_written_through_links_and_never_in_part(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_file(tmp_path / "file", b"newer")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_unequal_channels_of_a_gray_picture_become_luma():
    pixels = np.array([[[255, 0, 0], [7, 7, 7]]], np.uint8)
    assert np.array(to_image(Picture(pixels, True))).tolist() == [[76, 7]]


def test_formats_without_metadata_say_what_they_lose(tmp_path: pathlib.Path) -> None:
    image = Image.new("RGB", (4, 4))
    image.info["icc_profile"] = b"profile"
    assert save(image, tmp_path / "a.png") == ()
    (said,) = save(image, tmp_path / "a.bmp")
    assert "ICC" in said


def test_a_gamma_is_not_lost_silently() -> None:
    image = Image.new("RGB", (4, 4))
    image.info["gamma"] = 1.0
    assert "gamma" in read(image).warnings[0]
    image.info["gamma"] = 0.45455
    assert read(image).warnings == ()

import contextlib
import io
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitrail import container
from vitrail.container import VtlFile, read, write
from vitrail.errors import FormatError, UsageError

PLAIN = VtlFile(b"\x01\x02\x03\x04", 7, 5, 60, False, False, 0xDEADBEEF, b"eight by")
FULL = replace(
    PLAIN,
    gray=True,
    alpha=np.arange(35, dtype=np.uint8).reshape(5, 7),
    icc=b"profile",
    exif=b"Exif\0\0MM",
    xmp=b"<x/>",
)
HEADER_SIZE = 15


def assert_same(a: VtlFile, b: VtlFile) -> None:
    first, second = asdict(a), asdict(b)
    np.testing.assert_equal(first.pop("alpha"), second.pop("alpha"))
    assert first == second


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def chunk(name: bytes, payload: bytes = b"") -> bytes:
    return name + struct.pack("<I", len(payload)) + payload


def changed(at: int, value: bytes) -> bytes:
    """PLAIN with other bytes at an offset and a checksum that fits them."""
    body = write(PLAIN)[:-4]
    return sealed(body[:at] + value + body[at + len(value) :])


LATS = chunk(b"LATS", bytes(4))


def with_chunks(*chunks: bytes) -> bytes:
    return sealed(write(PLAIN)[:HEADER_SIZE] + b"".join(chunks))


optional_bytes = st.none() | st.binary(max_size=40)


@st.composite
def files(draw: st.DrawFn) -> VtlFile:
    width, height = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    alpha = draw(st.none() | st.binary(min_size=width * height, max_size=width * height))
    return VtlFile(
        model_id=draw(st.binary(min_size=4, max_size=4)),
        width=width,
        height=height,
        quality=draw(st.integers(1, 100)),
        gray=draw(st.booleans()),
        research=draw(st.booleans()),
        symbols_crc=draw(st.integers(0, 2**32 - 1)),
        latents=draw(st.binary(max_size=100)),
        alpha=None if alpha is None else np.frombuffer(alpha, np.uint8).reshape(height, width),
        icc=draw(optional_bytes),
        exif=draw(optional_bytes),
        xmp=draw(optional_bytes),
    )


@given(files())
def test_a_file_comes_back_as_it_was(file):
    assert_same(read(write(file)), file)


def test_a_plain_picture_costs_31_bytes():
    assert len(write(PLAIN)) == len(PLAIN.latents) + 31


def test_the_layout_is_the_documented_one():
    assert write(PLAIN)[:-4] == (
        b"\x89VTL" b"\x01" b"\x01\x02\x03\x04" b"\x07\0" b"\x05\0" b"\x3c" b"\0"
        b"LATS" b"\x0c\0\0\0" b"\xef\xbe\xad\xde" b"eight by"
    )  # fmt: skip
    assert write(FULL)[14] == 1
    assert write(replace(PLAIN, research=True))[14] == 2


def test_the_table_stands_in_the_docs():
    rows, offset = [], 0
    for field in container.HEADER:
        size = struct.calcsize("<" + field.code)
        rows.append(f"| {offset} | {size} | {field.name} | {field.meaning} |\n")
        offset += size
    text = (Path(__file__).parents[1] / "docs/format.md").read_text()
    assert "".join(rows) in text
    for limit in (container.MAX_SIDE, container.MAX_PIXELS, container.MAX_METADATA):
        assert str(limit) in text


def test_every_truncation_is_refused():
    data = write(FULL)
    for length in range(len(data)):
        with pytest.raises(FormatError, match="not a .vtl" if length < 4 else "truncated"):
            read(data[:length])


def test_every_flipped_bit_is_refused():
    data = write(FULL)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            read(bytes(damaged))


@given(st.data())
def test_damage_under_a_fitting_checksum_is_refused_or_read(data):
    """The checksum hides the parser's own checks, so here it is made to fit."""
    body = bytearray(write(FULL)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(5, len(body) - 1))
        end = at + data.draw(st.integers(0, 3))
        body[at:end] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(FormatError):
        file = read(sealed(bytes(body)))
        assert_same(read(write(file)), file)


@given(st.binary(max_size=60))
def test_anything_after_the_header_is_refused_or_read(rest):
    with contextlib.suppress(FormatError):
        read(sealed(write(PLAIN)[:HEADER_SIZE] + rest))


@given(st.binary(max_size=60).filter(lambda data: not data.startswith(b"\x89VTL")))
def test_anything_else_is_not_a_vtl_file(data):
    with pytest.raises(FormatError, match=r"not a \.vtl file"):
        read(data)


def test_a_newer_version_is_told_from_damage():
    with pytest.raises(FormatError, match=r"newer Vitrail \(format 2\); update"):
        read(b"\x89VTL\x02 laid out otherwise")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(4, b"\0"), "format 0"),
        (changed(9, b"\0\0"), "0 x 5 pixels"),
        (changed(11, b"\0\0"), "7 x 0 pixels"),
        (changed(9, b"\xff\xff\xff\xff"), "65535 x 65535 pixels are more than 67108864"),
        (changed(13, b"\0"), "quality 0"),
        (changed(13, b"\x65"), "quality 101"),
        (changed(14, b"\x04"), "unknown flags"),
        (with_chunks(), "no latents"),
        (with_chunks(chunk(b"LATS", b"abc")), "no latents"),
        (with_chunks(LATS, LATS), "two chunks LATS"),
        (with_chunks(LATS, chunk(b"exif"), chunk(b"exif")), "two chunks exif"),
        (with_chunks(chunk(b"exif"), LATS), "begins with chunk exif"),
        (with_chunks(chunk(b"abcd"), LATS), "begins with chunk abcd"),
        (with_chunks(LATS, chunk(b"Wxyz")), "needs its chunk Wxyz, unknown here; update"),
        (with_chunks(LATS, chunk(b"ab\n1")), "not four letters"),
        (with_chunks(LATS, b"exif\xff\xff\xff\xff"), "says 4294967295 bytes, but 0 are left"),
        (with_chunks(LATS, b"exif"), "4 bytes too many"),
        (with_chunks(LATS, chunk(b"exif", bytes(2**24 + 1))), "more than 16777216"),
        (with_chunks(LATS, chunk(b"ALPH", b"no PNG")), "alpha plane of the .vtl file is damaged"),
    ],
)
def test_what_a_reader_must_refuse(data, message):
    with pytest.raises(FormatError, match=message):
        read(data)


def test_unknown_optional_chunks_are_skipped():
    other = chunk(b"abcd", b"whatever")
    assert_same(
        read(with_chunks(LATS, other, chunk(b"xmpd", b"<x/>"), other)),
        replace(PLAIN, symbols_crc=0, latents=b"", xmp=b"<x/>"),
    )


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.new("L", (7, 6)), "PNG"),
        (Image.new("L", (9000, 9000)), "PNG"),
        (Image.new("RGB", (7, 5)), "PNG"),
        (Image.new("I;16", (7, 5)), "PNG"),
        (Image.new("L", (7, 5)), "GIF"),
    ],
)
def test_alpha_of_another_size_or_kind_is_not_decoded(image, format, monkeypatch):  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format)
    data = with_chunks(LATS, chunk(b"ALPH", buffer.getvalue()))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(FormatError, match="alpha plane"):
        read(data)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model_id": b"123"}, "model id"),
        ({"symbols_crc": 2**32}, "CRC-32"),
        ({"width": 0}, "0 x 5"),
        ({"height": 65536}, "a side has 1 to 65535"),
        ({"width": 2**13, "height": 2**13 + 1}, "more than 67108864"),
        ({"quality": 0}, "1 to 100"),
        ({"alpha": np.zeros((7, 5), np.uint8)}, r"\(7, 5\); give uint8 of \(5, 7\)"),
        ({"alpha": np.zeros((5, 7))}, "float64"),
        ({"icc": bytes(2**24 + 1)}, "ICC data of 16777217 bytes"),
    ],
)
def test_the_writer_refuses_what_does_not_fit(wrong, message):
    with pytest.raises(UsageError, match=message):
        write(replace(PLAIN, **wrong))

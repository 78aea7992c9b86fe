"""Stores of photographs worth training on: what is scaled, what is dropped, and a build that is cut off."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageFilter

from vitrail.cli import main
from vitrail.errors import UsageError
from vitrail.training import curation
from vitrail.training.store import DroppedError, Store, build


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def large(photo: Image.Image) -> Image.Image:
    """The photograph and its mirror image, 1536 x 1024: as sharp as the photograph."""
    sheet = Image.new("RGB", (1536, 1024))
    for column, half in enumerate((photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        sheet.paste(half, (768 * column, 0))
        sheet.paste(half.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (768 * column, 512))
    return sheet


@pytest.mark.parametrize(("quality", "width"), [(95, 878), (88, 768), (80, 614), (50, 512)])
def test_jpegs_are_scaled_down_by_their_tables(large: Image.Image, quality: int, width: int) -> None:
    data = encoded(large, "JPEG", quality=quality)
    assert curation.jpeg_quality(data) == pytest.approx(quality, abs=1)
    assert curation.Curator().prepare(data).shape[1] == width


def test_what_is_sharp_and_lossless_stays(photo: Image.Image) -> None:
    assert np.array_equal(curation.Curator().prepare(encoded(photo)), np.asarray(photo))
    assert curation.Curator(longest=600).prepare(encoded(photo)).shape == (400, 600, 3)


def test_soft_pictures_are_scaled_down_until_sharp(large: Image.Image) -> None:
    soft = np.asarray(large.filter(ImageFilter.GaussianBlur(1.5)))
    prepared = curation.Curator().prepare(encoded(Image.fromarray(soft)))
    assert prepared.shape[0] < soft.shape[0]
    assert curation.sharpness(prepared) > curation.sharpness(soft)


def test_what_is_dropped(photo: Image.Image) -> None:
    curator = curation.Curator()
    for image, reason in (
        (photo.filter(ImageFilter.GaussianBlur(8)), "blurred"),
        (Image.linear_gradient("L").resize((512, 512)).convert("RGB"), "flat"),
        (photo.crop((0, 0, 300, 200)), "smaller"),
    ):
        with pytest.raises(DroppedError, match=reason):
            curator.prepare(encoded(image))
    with pytest.raises(DroppedError, match="no picture"):
        curator.prepare(b"text")


def test_the_same_scene_is_taken_once_and_tests_never(photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    other = np.asarray(photo.resize((700, 470)))
    curator = curation.Curator()
    curator.admit(pixels)
    curator.admit(np.asarray(photo.rotate(180)))
    with pytest.raises(DroppedError, match="close to another"):
        curator.admit(other)
    with pytest.raises(DroppedError, match="test picture"):
        curation.Curator([other]).admit(pixels)


def test_a_store_from_the_command_line(tmp_path: Path, photo: Image.Image) -> None:
    source, tests, out = tmp_path / "source", tmp_path / "tests", tmp_path / "store"
    source.mkdir()
    tests.mkdir()
    photo.save(source / "a.png")
    photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tests / "test.png")
    with tarfile.open(source / "shard-000.tar", "w") as archive:
        for name, content in {
            "0.png": encoded(photo.resize((760, 500))),
            "0.json": b"{}",
            "1.png": encoded(photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
            "2.png": encoded(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    arguments = ["data", "build", str(source), "--out", str(out), "--without", str(tests)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.split("\n")[:-1] == [
        "       2 kept",
        "       1 close to another",
        "       1 close to a test picture",
    ]
    opened = Store(out, torch.device("cpu"))
    assert np.array_equal(opened.picture(1).numpy(), np.asarray(photo)[:, ::-1])
    assert CliRunner().invoke(main, arguments).stdout == result.stdout  # a finished store stays as it is
    other = CliRunner().invoke(main, [*arguments, "--longest", "512"])
    assert other.exit_code == 1
    assert "longest side 512" in other.stderr
    nowhere = CliRunner().invoke(main, ["data", "build", str(source), "--out", str(source / "a.png" / "x")])
    assert nowhere.exit_code == 1
    assert "Not a directory" in nowhere.stderr


def test_a_build_that_was_cut_off_goes_on(tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "source"
    source.mkdir()
    turned = (photo, photo.rotate(180), photo.resize((600, 420)), photo.transpose(Image.Transpose.ROTATE_90))
    for number, image in enumerate(turned):
        image.save(source / f"{number}.png")
    build([source], tmp_path / "whole", curation.Curator())
    read: list[bytes] = []

    class CutOff(curation.Curator):
        def admit(self, pixels: curation.Pixels) -> None:
            if self.kept.count == 2:
                raise KeyboardInterrupt
            super().admit(pixels)

    class Watched(curation.Curator):
        def prepare(self, data: bytes) -> curation.Pixels:
            read.append(data)
            return super().prepare(data)

    with pytest.raises(KeyboardInterrupt):
        build([source], tmp_path / "cut", CutOff())
    with open(tmp_path / "cut" / "pixels.bin", "ab") as pixels:
        pixels.write(b"half a picture")
    with open(tmp_path / "cut" / "journal.part", "a") as journal:
        journal.write('{"name": "half a li')
    build([source], tmp_path / "cut", Watched())
    assert len(read) == 2  # the third and the fourth
    # Cut off after the last picture: no index yet, and a journal that is ahead of the samples.
    shutil.copytree(tmp_path / "whole", tmp_path / "late")
    index = json.loads((tmp_path / "late" / "index.json").read_text())
    (tmp_path / "late" / "index.json").unlink()
    lines = [{key: index[key] for key in ("sources", "selection")}, *index["pictures"]]
    (tmp_path / "late" / "journal.part").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with open(tmp_path / "late" / "pixels.bin", "r+b") as samples:
        samples.truncate(3 * 768 * 512 + 1000)
    build([source], tmp_path / "late", curation.Curator())
    assert (tmp_path / "late" / "pixels.bin").read_bytes() == (tmp_path / "whole" / "pixels.bin").read_bytes()
    for name in ("index.json", "pixels.bin"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [entry["dropped"] for entry in json.loads((tmp_path / "cut" / "index.json").read_text())["dropped"]] == [
        "close to another"
    ]


def test_another_set_of_test_pictures_is_another_store(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    build([tmp_path / "a.png"], tmp_path / "store", curation.Curator([np.asarray(photo.rotate(90))]))
    with pytest.raises(UsageError, match="made of"):
        build([tmp_path / "a.png"], tmp_path / "store", curation.Curator([np.asarray(photo)]))


def test_archives_and_stores_that_are_none(tmp_path: Path, photo: Image.Image) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    with pytest.raises(UsageError, match="no photograph"):
        build([tmp_path / "links.tar"], tmp_path / "store", curation.Curator())
    photo.save(tmp_path / "a.png")
    assert build([tmp_path / "a.png"], tmp_path / "store", curation.Curator())["kept"] == 1  # nothing was left behind
    (tmp_path / "bad.tar.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\3garbage")
    with pytest.raises(UsageError, match="not a whole tar"):
        build([tmp_path / "bad.tar.gz"], tmp_path / "other", curation.Curator())
    (tmp_path / "store" / "index.json").write_text('{"pictures": []}')
    with pytest.raises(UsageError, match="no store of this version"):
        Store(tmp_path / "store", torch.device("cpu"))

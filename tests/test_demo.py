import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("demo")


def test_the_demo_prints_a_table_and_writes_a_page_with_its_pictures(demo, tmp_path, capsys):
    source, out = tmp_path / "<script>.png", tmp_path / "new" / "demo"
    crop = Image.open(EXAMPLES / "photo.webp").crop((300, 60, 492, 188))
    crop.save(source)
    demo.main(source, out, qualities=(30, 70))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "<script>.png, 192 x 128 pixels"
    named = [line.split() for line in lines if line.startswith(tuple(demo.CODECS))]
    assert [words[0] for words in named] == 2 * list(demo.CODECS)

    page = (out / "index.html").read_text("utf-8")
    content = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert (content["name"], content["width"], content["height"]) == (source.name, 192, 128)
    assert [group[0]["quality"] for group in content["groups"]] == [30, 70]
    rows = [row for group in content["groups"] for row in group]
    for words, row in zip(named, rows, strict=True):
        assert words[1:3] == [str(row["quality"]), f"{row['bytes']:,}"]
        assert row["bpp"] == pytest.approx(8 * row["bytes"] / (192 * 128))
        assert Image.open(out / row["picture"]).size == (192, 128)
    for group in content["groups"]:
        vtl = out / group[0]["picture"].replace(".webp", ".vtl")
        assert vtl.stat().st_size == group[0]["bytes"]
    assert np.array_equal(np.asarray(Image.open(out / "original.webp")), np.asarray(crop))


def test_a_file_that_cannot_be_small_enough_is_noted(demo, tmp_path, capsys, monkeypatch):
    class Tiny:
        def encode(self, image, quality):
            self.image = image
            return b"tiny", None

        def decode(self, data):
            return self.image, None

    codec = demo.codec
    monkeypatch.setattr(demo, "codec", lambda name: Tiny() if name == demo.zoo.DEFAULT else codec(name))
    Image.effect_noise((32, 32), 50).save(tmp_path / "noise.png")
    demo.main(tmp_path / "noise.png", tmp_path, qualities=(50,))
    lines = capsys.readouterr().out.splitlines()
    noted = [line for line in lines if line.endswith("larger even at its lowest quality")]
    assert [line.split()[:2] for line in noted] == [["JPEG", "0"], ["WebP", "0"], ["AVIF", "0"]]

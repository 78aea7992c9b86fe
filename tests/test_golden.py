"""Golden files decode, for ever and everywhere, to the same symbols and the same latents."""

import json
from pathlib import Path

import pytest
from golden.make import CASES, hashes

import vitrail
from vitrail import zoo

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", CASES)
def test_golden_file(name: str) -> None:
    data = (GOLDEN / f"{name}.vtl").read_bytes()
    expected = json.loads((GOLDEN / "expected.json").read_text())
    (left, top, right, bottom), mode, _, model = CASES[name]
    assert hashes(data, vitrail.load_model(model)) == expected[name]
    image = vitrail.decompress(data)
    assert image.size == (right - left, bottom - top)
    assert image.mode == mode


@pytest.mark.parametrize("name", zoo.names())
def test_documents_name_the_weights_that_are_shipped(name: str) -> None:
    identity = zoo.identity(zoo.locate(name).read_bytes()).hex()
    for document in ("docs/models.md", "docs/results.md", "CHANGELOG.md"):
        assert identity in (ROOT / document).read_text(), document

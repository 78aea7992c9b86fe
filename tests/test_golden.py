"""Golden files decode, for ever and everywhere, to the same symbols and the same latents."""

import json
from pathlib import Path

import pytest
from golden.make import CASES, hashes

import vitrail

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", CASES)
def test_golden_file(name: str) -> None:
    data = (GOLDEN / f"{name}.vtl").read_bytes()
    expected = json.loads((GOLDEN / "expected.json").read_text())
    (left, top, right, bottom), mode, _, model = CASES[name]
    assert hashes(data, vitrail.load_model(model)) == expected[name]
    image = vitrail.decompress(data)
    assert image.size == (right - left, bottom - top)
    assert image.mode == mode

"""Pictures to files and back: exactness, sizes, rates, damage."""

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, wake
from PIL import Image

import vitrail
from vitrail import codec, container, picture, weights, zoo
from vitrail.coding import Estimator
from vitrail.config import CONFIGS
from vitrail.model import Latents, Model

SIZES = [(1, 1), (17, 1), (1, 17), (16, 15), (65, 63), (33, 130), (200, 120)]


def tensor(source: picture.Picture) -> torch.Tensor:
    return torch.from_numpy(source.pixels).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.fixture(scope="module", params=["tiny", "tiny_mcdh"])
def model(request: pytest.FixtureRequest) -> Model:
    return weights.load(str(request.getfixturevalue(request.param)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [1, 37, 100])
def test_any_size_returns_as_the_encoder_saw_it(
    model: Model, photo: Image.Image, size: tuple[int, int], quality: int
) -> None:
    source = picture.read(photo.crop((100, 100, 100 + size[0], 100 + size[1])))
    x = tensor(source)
    expected = codec.reconstruct(model, model.latents(x, quality), source.pixels.shape[:2], quality)
    decoded = codec.decode(codec.encode(source, model, quality).data, model).image
    assert decoded.size == size
    assert np.array_equal(np.asarray(decoded), expected)


def test_the_file_is_as_long_as_its_tables_say(model: Model, photo: Image.Image) -> None:
    source = picture.read(photo.crop((0, 0, 384, 256)))
    estimator = Estimator()
    model.traverse(estimator, (256, 384), 60, model.latents(tensor(source), 60))
    coded = len(codec.encode(source, model, 60).data)
    assert abs(coded - 31 - estimator.bits / 8) < 0.002 * coded + 8


def test_the_usual_methods_of_the_field(model: Model, photo: Image.Image) -> None:
    x = torch.from_numpy(np.array(photo.crop((0, 0, 80, 64)))).permute(2, 0, 1)[None].float() / 255
    x = torch.cat([x, x.flip(3)])
    with torch.no_grad():
        output = model(x, 70)
    compressed = model.compress(x, 70)
    decoded = model.decompress(**compressed)["x_hat"]
    assert torch.allclose(decoded, output.x_hat.clamp(0, 1), atol=1e-5)
    assert output.likelihoods.y.shape == (2, 32, 4, 5)
    assert 0 < float(output.likelihoods.z.min()) <= 1


@torch.no_grad()
def test_optimisations_of_the_walk_change_no_byte(photo: Image.Image) -> None:
    torch.manual_seed(0)
    first = Model(replace(TINY, exact=True))
    wake(first)
    x = torch.from_numpy(np.array(photo.crop((200, 100, 340, 190)))).permute(2, 0, 1)[None].float() / 255
    files, decoded = [], []
    for egr, cache in [(True, True), (True, False), (False, False)]:
        context = replace(TINY.context, egr=egr, cache=cache)  # type: ignore[type-var]
        other = Model(replace(TINY, exact=True, context=context)).eval()
        other.load_state_dict(first.state_dict())
        other.freeze()
        files.append(other.compress(x, 80)["strings"])
        decoded.append(other.decompress(files[0], (90, 140), 80)["x_hat"])
    assert files[0] == files[1] == files[2]
    assert len(files[0][0]) > 100
    assert torch.equal(decoded[0], decoded[1])
    assert torch.equal(decoded[0], decoded[2])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_mode_and_metadata_return(tiny: Path, photo: Image.Image, mode: str) -> None:
    image = photo.crop((0, 0, 40, 30)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    image.info["xmp"] = b"<x:xmpmeta/>"
    model = vitrail.load_model(str(tiny))
    decoded = codec.decode(vitrail.compress(image, 80, model), model).image
    assert decoded.mode == mode
    assert decoded.info["exif"] == image.info["exif"]
    assert decoded.info["xmp"] == image.info["xmp"]
    if "A" in mode:
        assert np.array_equal(np.asarray(decoded.getchannel("A")), np.asarray(image.getchannel("A")))


def test_losses_are_said(tiny: Path, photo: Image.Image) -> None:
    with pytest.warns(UserWarning, match="CMYK"):
        vitrail.compress(photo.crop((0, 0, 20, 20)).convert("CMYK"), 50, str(tiny))


def test_a_forged_file_is_refused(model: Model, photo: Image.Image) -> None:
    data = codec.encode(picture.read(photo.crop((0, 0, 64, 64))), model, 50).data
    file = container.read(data)
    random = np.random.default_rng(0)
    for length in (0, 4, 64, 4096):
        forged = container.write(replace(file, latents=random.bytes(length)))
        with pytest.raises(vitrail.FormatError, match="damaged"):
            codec.decode(forged, model)
    with pytest.raises(vitrail.FormatError, match="for research"):
        codec.decode(container.write(replace(file, symbols_crc=file.symbols_crc ^ 1)), model)


def test_a_file_of_replaced_weights_names_them(model: Model, photo: Image.Image) -> None:
    file = container.read(codec.encode(picture.read(photo.crop((0, 0, 64, 64))), model, 20).data)
    with pytest.raises(vitrail.ModelError, match=r"ce2f5ef9 \(econtextformer-s of .*does not ship"):
        vitrail.decompress(container.write(replace(file, model_id=bytes.fromhex("ce2f5ef9"))))


def test_other_weights_are_refused(model: Model, tiny: Path, tmp_path: Path, photo: Image.Image) -> None:
    data = codec.encode(picture.read(photo.crop((0, 0, 16, 16))), model, 50).data
    with pytest.raises(vitrail.ModelError, match=r"id [0-9a-f]{8}, which this version does not ship"):
        vitrail.decompress(data)
    other = tmp_path / "other.safetensors"
    weights.save(model, other, {"training": "one byte more"})
    with pytest.raises(vitrail.ModelError, match=f"{model.config.name} has"):
        codec.decode(data, weights.load(str(other)))


def test_the_checksum_is_that_of_the_format(model: Model) -> None:
    latents = Latents(np.array([[[1, -2]]], np.int32), np.array([[[3]]], np.int32))
    assert codec.checksum(latents) == zlib.crc32(b"\x03\0\x01\0\xfe\xff")


@pytest.mark.parametrize("quality", [0, 101, 50.5])
def test_qualities_out_of_range(model: Model, photo: Image.Image, quality: int) -> None:
    with pytest.raises(vitrail.UsageError, match="1 to 100"):
        vitrail.compress(photo, quality, model)


def test_a_model_that_was_never_saved() -> None:
    with pytest.raises(vitrail.UsageError, match="save it"):
        vitrail.compress(np.zeros((4, 4, 3), np.uint8), 50, Model(CONFIGS["hyperprior-s"]))


@pytest.mark.parametrize("content", [b"", b"not weights", b'\x10\0\0\0\0\0\0\0{"a":1}'])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(vitrail.ModelError, match="weights file"):
        vitrail.load_model(str(path))


def test_unknown_model() -> None:
    with pytest.raises(vitrail.ModelError, match="econtextformer-s"):
        vitrail.load_model("nothing")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_codes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = Model(CONFIGS[name])
    wake(built)
    weights.save(built, tmp_path / "w.safetensors", {})
    model = weights.load(str(tmp_path / "w.safetensors"))
    assert model.config == CONFIGS[name]
    source = picture.read(np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8))
    data = codec.encode(source, model, 50).data
    assert codec.decode(data, model).image.size == (70, 40)


@pytest.mark.parametrize("name", zoo.names())
class TestShipped:
    """The models of the package."""

    def test_it_is_small_and_named(self, name: str) -> None:
        assert {name, zoo.DEFAULT} <= set(vitrail.models())
        assert zoo.locate(name).stat().st_size <= (30 if name.endswith("-m") else 12) * 1_000_000

    def test_a_photograph(self, name: str, photo: Image.Image) -> None:
        crop = photo.crop((0, 0, 384, 256))
        sizes, errors = [], []
        for quality in (10, 50, 90):
            data = vitrail.compress(crop, quality, name)
            decoded = vitrail.decompress(data)
            sizes.append(len(data))
            errors.append(np.square(np.asarray(crop, np.float32) - np.asarray(decoded, np.float32)).mean())
        assert sizes == sorted(sizes)
        assert errors == sorted(errors, reverse=True)
        assert sizes[-1] < 384 * 256 * 3 / 8
        assert errors[-1] < 40

    @pytest.mark.parametrize(
        ("size", "quality"),
        [((768, 512), 10), ((768, 512), 50), ((768, 512), 100), ((384, 256), 50), ((384, 256), 100)],
    )
    def test_the_file_is_as_long_as_the_forward_pass_says(
        self, name: str, photo: Image.Image, size: tuple[int, int], quality: int
    ) -> None:
        source = picture.read(photo.crop((0, 0, *size)))
        model = vitrail.load_model(name)
        x, own = tensor(source), Estimator()
        if model.post_filter is not None:
            model.post_filter.code(own, model.with_filter(x, model.latents(x, quality), quality).filter)
        rounding = Model(replace(model.config, trellis=None)).eval()
        rounding.load_state_dict(model.state_dict(), strict=False)
        # By tables as files have them, and by the density that training follows, which rounds.
        for differentiable, each in ((False, model), (True, rounding)):
            with torch.set_grad_enabled(differentiable):
                output = model(x, quality)
            estimate = (float((output.y_bits.sum() + output.z_bits.sum()).detach()) + own.bits) / 8
            length = len(each.compress(x, quality)["strings"][0])
            assert abs(length - estimate) < 0.01 * estimate + 32


def test_a_short_file_of_a_large_picture_is_refused_before_it_costs(model: Model, photo: Image.Image) -> None:
    file = container.read(codec.encode(picture.read(photo.crop((0, 0, 16, 16))), model, 50).data)
    forged = container.write(replace(file, width=8000, height=8000, latents=b""))
    with pytest.raises(vitrail.FormatError, match="too short"):
        codec.decode(forged, model)


def test_a_trained_model_does_not_pass_for_its_file(tiny: Path, photo: Image.Image) -> None:
    loaded = vitrail.load_model(tiny)
    assert loaded is not vitrail.load_model(tiny)
    loaded.train()
    with pytest.raises(vitrail.UsageError, match="load that"):
        vitrail.compress(photo.crop((0, 0, 16, 16)), 50, loaded.eval())


@pytest.mark.parametrize(
    "call",
    [
        lambda: vitrail.decompress("x.vtl"),  # type: ignore[arg-type]
        lambda: vitrail.compress(np.zeros((4, 4), np.uint8), 50, None),  # type: ignore[arg-type]
        lambda: vitrail.load_model(None),  # type: ignore[arg-type]
        lambda: vitrail.compress(None),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_told(call: Callable[[], object]) -> None:
    with pytest.raises(vitrail.VitrailError):
        call()


def test_threads_do_not_disturb_each_other(model: Model, photo: Image.Image) -> None:
    source = picture.read(photo.crop((0, 0, 64, 64)))
    data = codec.encode(source, model, 50).data
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda _: np.asarray(codec.decode(data, model).image), range(12)))
    assert all(np.array_equal(decoded[0], other) for other in decoded)

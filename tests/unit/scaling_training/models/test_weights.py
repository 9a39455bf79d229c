from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.weights import fit, weights_fingerprint


def built(weights: Any = None, *, channels: int = 1, classes: int = 4, seed: int = 0, **fields: Any) -> nn.Module:
    spec = ModelSpec.model_validate({"name": "small-cnn", "width": 0.125, "weights": weights, **fields})
    return build_task(spec, input_shape=(channels, 8, 8), classes=classes, seed=seed).model


def assert_equal(found: dict[str, Any], expected: dict[str, Any], *, but: tuple[str, ...] = ()) -> None:
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == list(but)


@pytest.mark.parametrize(
    "form",
    [
        "safetensors",
        "torch",
        "state_dict",
        "model_state_dict",
        "net",
        "a key of one's own",
        "a DDP replica",
        "Lightning",
        "a compiled DDP replica in a trainer",
    ],
)
def test_a_file_is_loaded(form: str, tmp_path: Path) -> None:
    source = built(seed=1).state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    match form:
        case "safetensors":
            save_file({name: value.contiguous() for name, value in source.items()}, path)
        case "torch":
            torch.save(source, path)
        case "state_dict" | "model_state_dict" | "net":
            # What training scripts keep beside the weights: an optimizer's state has tensors further down.
            optimizer = torch.optim.Adam(built().parameters()).state_dict()
            torch.save({"epoch": 3, form: source, "optimizer": optimizer}, path)
        case "a key of one's own":
            torch.save({"epoch": 3, "classifier": source, "optimizer": {"state": {0: torch.ones(1)}}}, path)
        case "a DDP replica":
            torch.save({f"module.{name}": value for name, value in source.items()}, path)
        case "Lightning":
            torch.save({"state_dict": {f"net.{name}": value for name, value in source.items()}, "epoch": 3}, path)
        case _:
            tensors = {f"module._orig_mod.{name}": value for name, value in source.items()}
            torch.save({"trainer": {"model": {"state_dict": tensors}}, "model": {"state_dict": tensors}}, path)

    assert_equal(built({"uri": str(path)}).state_dict(), source)
    assert_equal(built({"uri": f"file://{path}"}).state_dict(), source)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    torch.save(built(seed=1).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_a_head_for_other_classes_keeps_its_new_weights(stored: Path) -> None:
    source, new = built(seed=1).state_dict(), built(classes=6).state_dict()
    found = built({"uri": str(stored)}, classes=6).state_dict()
    assert_equal(found, source | {name: found[name] for name in ("15.weight", "15.bias")})
    assert_equal({name: found[name] for name in ("15.weight", "15.bias")}, {"15.weight": new["15.weight"]})


def test_what_was_done_is_told(stored: Path) -> None:
    model = built(classes=6)
    loaded = fit(torch.load(stored, weights_only=True), model, head="15", source="w.pt")
    assert loaded.reinitialised == ("15.bias", "15.weight")
    assert loaded.sentence == (
        "The model starts from 20 tensors of w.pt; new ones for 15.bias, 15.weight; "
        "15.weight, 15.bias of the file not taken"
    )


def test_of_several_models_in_a_file_the_one_that_is_taken_is_named(tmp_path: Path) -> None:
    path, notes = tmp_path / "w.pt", list[str]()
    torch.save({"model": built(seed=1).state_dict(), "model_ema": built(seed=2).state_dict()}, path)
    spec = ModelSpec.model_validate({"name": "small-cnn", "width": 0.125, "weights": {"uri": str(path)}})
    build_task(spec, input_shape=(1, 8, 8), classes=4, seed=0, note=notes.append)
    assert notes == [f"The model starts from 22 tensors of model.weights.uri {path} (model)"]


def test_weights_that_are_no_numbers_are_refused(stored: Path) -> None:
    tensors = torch.load(stored, weights_only=True)
    tensors["4.weight"][0] = float("nan")
    torch.save(tensors, stored)
    with pytest.raises(UserError, match=r"w.pt: tensor 4.weight holds values that are no numbers"):
        built({"uri": str(stored)})


def test_heads_of_the_original_recipe_are_named_as_left(stored: Path) -> None:
    tensors = {**torch.load(stored, weights_only=True), "AuxLogits.fc.weight": torch.zeros(1)}
    loaded = fit(tensors, built(), head="15", source="w.pt")
    assert loaded.left == ("AuxLogits.fc.weight",)


def test_the_first_convolution_is_fitted_to_the_channels(stored: Path) -> None:
    source = built(seed=1).state_dict()
    found = built({"uri": str(stored)}, channels=2).state_dict()
    assert_equal(found, source | {"0.weight": source["0.weight"].repeat(1, 2, 1, 1) / 2})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda tensors: tensors.update({"4.weight": torch.zeros(3, 3)}),
            r"4.weight has the shape 3x3, .* needs 8x4x3x3",
        ),
        (lambda tensors: tensors.pop("4.weight"), "has no tensor 4.weight, which the model needs"),
        (lambda tensors: tensors.update({"9.extra": torch.zeros(1)}), "has a tensor 9.extra, which the model has not"),
    ],
    ids=["another shape", "missing", "unknown"],
)
def test_tensors_that_do_not_fit_are_named(change: Any, sentence: str, stored: Path) -> None:
    tensors = torch.load(stored, weights_only=True)
    change(tensors)
    torch.save(tensors, stored)
    with pytest.raises(UserError, match=sentence):
        built({"uri": str(stored)})


def test_weights_of_another_width_are_refused(stored: Path) -> None:
    with pytest.raises(UserError, match=r"tensor 0.weight has the shape 4x1x3x3, and the model needs 8x1x3x3"):
        built({"uri": str(stored)}, width=0.25)


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    "content",
    [
        {"a": {"x": torch.ones(1)}, "b": {"x": torch.ones(1)}},
        b"",
        b"no weights at all",
        (100).to_bytes(8, "little") + b"{not json",
        _Harmful(),
        {"a": 1},
        nn.Linear(1, 1),
    ],
    ids=["two models", "empty", "text", "broken safetensors", "code", "numbers", "a module"],
)
def test_files_of_something_else_are_refused(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"w.pt (is neither safetensors|does not hold tensors)"):
        built({"uri": str(path)})
    assert not (tmp_path / "harm").exists()


def test_another_content_than_the_digest_says_is_refused(stored: Path) -> None:
    digest = hashlib.sha256(stored.read_bytes()).hexdigest()
    built({"uri": str(stored), "sha256": digest})
    with pytest.raises(UserError, match=f"has the SHA-256 {digest}, not {'0' * 64}"):
        built({"uri": str(stored), "sha256": "0" * 64})
    with pytest.raises(UserError, match=r"model.weights.uri .*nowhere.pt is not there"):
        built({"uri": str(stored.parent / "nowhere.pt")})


def test_the_fingerprint_is_of_the_content(stored: Path) -> None:
    spec = ModelSpec.model_validate({"name": "small-cnn", "weights": {"uri": str(stored)}})
    before = weights_fingerprint(spec)
    assert before == hashlib.sha256(stored.read_bytes()).hexdigest()
    torch.save({}, stored)
    assert weights_fingerprint(spec) != before
    assert weights_fingerprint(ModelSpec(name="small-cnn")) == ""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of downloaded files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _mobilenet(weights: str | None, seed: int) -> nn.Module:
    given = {"name": weights} if weights else None
    spec = ModelSpec.model_validate({"name": "mobilenet_v2", "weights": given})
    return build_task(spec, input_shape=(1, 32, 32), classes=4, seed=seed).model


def test_torchvisions_weights_are_taken_from_its_cache(cache: Path) -> None:
    from torchvision import models

    torch.manual_seed(3)
    original = models.mobilenet_v2()
    torch.save(original.state_dict(), cache / models.MobileNet_V2_Weights.IMAGENET1K_V2.url.rpartition("/")[2])

    found, new = _mobilenet("IMAGENET1K_V2", 0).state_dict(), _mobilenet(None, 0).state_dict()
    expected = original.state_dict()
    expected["features.0.0.weight"] = expected["features.0.0.weight"].sum(dim=1, keepdim=True)
    expected |= {name: new[name] for name in ("classifier.1.weight", "classifier.1.bias")}
    assert_equal(found, expected)


def test_the_positions_of_a_transformer_are_interpolated(cache: Path) -> None:
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    spec = ModelSpec.model_validate({"name": "vit_b_32", "width": 0.125, "weights": {"uri": str(cache / "vit.pt")}})
    shape = {"patch_size": 32, "num_layers": 12, "num_heads": 2, "hidden_dim": 128, "mlp_dim": 512}
    original = models.VisionTransformer(image_size=96, **shape)
    torch.nn.init.normal_(original.encoder.pos_embedding)
    torch.save(original.state_dict(), cache / "vit.pt")

    model = build_task(spec, input_shape=(3, 64, 64), classes=4, seed=0).model
    expected = interpolate_embeddings(64, 32, original.state_dict())["encoder.pos_embedding"]
    assert expected.shape == (1, 5, 128)
    assert torch.equal(model.get_parameter("encoder.pos_embedding"), expected)


def test_weights_that_torchvision_has_not_are_refused_with_those_that_it_has(cache: Path) -> None:
    with pytest.raises(UserError, match="no such weights of mobilenet_v2; it has IMAGENET1K_V1, IMAGENET1K_V2"):
        _mobilenet("IMAGENET1K_V7", 0)


def test_without_network_the_place_for_the_file_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        UserError, match=rf"cannot be downloaded \(no route to host\); put the file at {cache}/mobilenet"
    ):
        _mobilenet("IMAGENET1K_V2", 0)

from __future__ import annotations

from pathlib import Path

import pytest

from scaling_training.errors import UserError
from scaling_training.factory import call, resolve

NUMBER = 5


def double(value: int) -> int:
    return 2 * value


def user_error() -> None:
    raise UserError("mend it")


def test_a_function_is_found_and_called() -> None:
    assert resolve("os.path:join", field="f")("a", "b") == "a/b"
    assert resolve("pathlib:Path.home", field="f") == Path.home
    assert call(f"{__name__}:double", field="f", value=4) == 8


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        pytest.param("flowers", "model.factory flowers is not package.module:function", id="no colon"),
        pytest.param(
            "flowers.data:load", "there is no module flowers; put it into the image or onto PYTHONPATH", id="no module"
        ),
        pytest.param("os.nothing:load", "there is no module os.nothing", id="no submodule"),
        pytest.param("os:nothing", "module os has no nothing", id="no attribute"),
        pytest.param(f"{__name__}:NUMBER", "is no function but a int", id="no function"),
        pytest.param(f"{__name__}:double", r"raised TypeError: double\(\) missing 1 required", id="wrong arguments"),
        pytest.param(f"{__name__}:user_error", "^mend it$", id="a sentence of its own"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_field(path: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call(path, field="model.factory")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        pytest.param(
            "import not_installed", "broken imports not_installed, which is not installed", id="a missing package"
        ),
        pytest.param("1 / 0", "importing broken raised ZeroDivisionError: division by zero", id="an error"),
        pytest.param("(", "importing broken raised SyntaxError", id="a syntax error"),
    ],
)
def test_a_module_that_fails_to_import_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=sentence):
        resolve("broken:load", field="f")

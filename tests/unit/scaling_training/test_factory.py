from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from scaling_training.errors import UserError
from scaling_training.factory import call, note_place, place_of, resolve, user_code

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
        pytest.param(
            "import math\n1 / 0",
            "importing broken raised ZeroDivisionError: division by zero, at broken.py:2$",
            id="an error",
        ),
        pytest.param("(", r"importing broken raised SyntaxError: .*broken.py, line 1", id="a syntax error"),
        pytest.param(
            "import sys\nsys.exit('no licence')", r"called sys.exit\('no licence'\), at broken.py:2$", id="an exit"
        ),
    ],
)
def test_a_module_that_fails_to_import_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=sentence):
        resolve("broken:load", field="f")


def test_the_line_is_of_the_users_code_and_not_of_a_library_that_it_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "layers.py").write_text("import json\n\n\ndef build():\n    return json.loads('{')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"model.factory speech.layers:build raised JSONDecodeError: .*, at speech"
    ) as told:
        call("speech.layers:build", field="model.factory")
    assert str(told.value).endswith(", at speech/layers.py:5")


def test_code_of_the_users_that_is_installed_as_a_library_counts_when_it_is_named() -> None:
    import iniconfig

    with pytest.raises(iniconfig.ParseError) as raised:
        iniconfig.IniConfig("", data="nonsense")
    assert place_of(raised.value) == place_of(raised.value, modules=["tests"])
    assert str(place_of(raised.value, modules=["iniconfig:IniConfig"])).startswith("iniconfig/")


def test_a_lack_of_memory_is_no_mistake_of_the_code() -> None:
    with pytest.raises(MemoryError), user_code("f"):
        raise MemoryError


def test_the_place_crosses_processes() -> None:
    error = ValueError("no such layer")
    assert place_of(error) is None
    try:
        raise error
    except ValueError:
        note_place(error)
    place = place_of(error)
    assert place is not None
    assert "test_factory.py:" in place
    note_place(error)
    there = pickle.loads(pickle.dumps(error))
    assert there.__traceback__ is None
    assert place_of(there) == place
    assert len(there.__notes__) == 1

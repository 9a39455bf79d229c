from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from scaling_cli.main import COMMANDS, main

_HEAVY = ("ray", "torch", "kubernetes", "scaling_operator", "scaling_training", "pydantic", "yaml")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command.name in text and command.summary in text for command in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom scaling_cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {_HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train"])
    assert end.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"scalingjob {version('scalingjob')}\n"


def test_an_interrupt_while_a_command_is_imported_is_no_error() -> None:
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == sys.argv[1]: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from scaling_cli.main import main\n"
        "sys.exit(main(['validate', 'nothing.yaml']))\n"
    )
    for name in ("scaling_cli.validate", "scaling_api.spec"):
        result = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (130, ""), name

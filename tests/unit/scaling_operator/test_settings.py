from __future__ import annotations

import pytest

from scaling_operator.settings import Settings, parse_settings


def test_the_defaults_are_those_of_the_manifests() -> None:
    assert parse_settings([], {}) == Settings()


def test_a_flag_beats_the_environment_and_that_beats_the_default() -> None:
    environment = {"SCALING_OPERATOR_WORKERS": "3", "SCALING_OPERATOR_RUNTIME_IMAGE": "from-environment"}
    settings = parse_settings(["--runtime-image", "from-flag", "--leader-election", "false"], environment)
    assert settings.runtime_image == "from-flag"
    assert settings.workers == 3
    assert settings.leader_election is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--workers", "0"], "--workers is '0'; it must be a whole number", id="too small"),
        pytest.param(["--https-port", "http"], "--https-port is 'http'", id="no number"),
        pytest.param(["--leader-election", "maybe"], "must be true or false", id="no boolean"),
        pytest.param(["--log-format", "xml"], "must be one of auto, json, text", id="unknown format"),
        pytest.param(["--log-level", "LOUD"], "must be one of DEBUG, INFO", id="unknown level"),
        pytest.param(["--colour"], "unrecognized arguments: --colour", id="unknown flag"),
    ],
)
def test_a_wrong_value_ends_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments, {})
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_drivers_reach_the_service_unless_told_otherwise() -> None:
    path = "/v1/namespaces/team/scalingjobs/mnist/progress"
    assert Settings().driver_url("team", "mnist") == f"https://scaling-operator.scaling-system.svc:443{path}"
    assert Settings(progress_url="https://10.0.0.1:8443/").driver_url("team", "mnist") == f"https://10.0.0.1:8443{path}"


def test_the_certificate_covers_the_name_that_drivers_use() -> None:
    settings = Settings(namespace="elsewhere", service_name="operator")
    assert "operator.elsewhere.svc" in settings.dns_names()

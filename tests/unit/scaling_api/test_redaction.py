from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scaling_api.redaction import redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("s3://bucket/data", "s3://bucket/data", id="nothing to hide"),
        pytest.param("/mnt/data?x=1@host", "/mnt/data?x=1@host", id="a path"),
        pytest.param("https://me:pass@host/a", "https://***@host/a", id="a password"),
        pytest.param("https://me:p@ss@host/a", "https://***@host/a", id="a password with an at sign"),
        pytest.param("https://token@host", "https://***@host", id="a token for a user"),
        pytest.param("s3://bucket/v1@2/a", "s3://bucket/v1@2/a", id="an at sign in a path"),
        pytest.param("abfs://photos@acc.dfs/a", "abfs://photos@acc.dfs/a", id="Azure's container"),
        pytest.param("abfs://photos:key@acc.dfs/a", "abfs://***@acc.dfs/a", id="a key beside Azure's container"),
        pytest.param("https://h/a?sig=ab%2Fc%3D", "https://h/a?sig=***", id="a signature"),
        pytest.param(
            "https://h/a.pt?X-Amz-Date=1&X-Amz-Signature=ff#t=1",
            "https://h/a.pt?X-Amz-Date=***&X-Amz-Signature=***#t=***",
            id="a presigned URL",
        ),
        pytest.param("https://h/a?sig=ab=c==", "https://h/a?sig=***", id="a value with equal signs"),
        pytest.param("https://h/a?ghp_token", "https://h/a?***", id="a query that is a token"),
        pytest.param("https://h/a#access_token=x", "https://h/a#access_token=***", id="a fragment"),
        pytest.param("https://me:p@h?sig=1/2", "https://***@h?sig=***", id="no path"),
        pytest.param("https://h:8080/a?b=c", "https://h:8080/a?b=***", id="a port"),
        pytest.param("zip://a.csv::https://u:p@h/x.zip?s=1", "zip://a.csv::https://***@h/x.zip?s=***", id="a chain"),
        pytest.param(
            "dataset.uri https://u:p@h/a?sig=x, of s3://b?k=v; correct it",
            "dataset.uri https://***@h/a?sig=***, of s3://b?k=***; correct it",
            id="a sentence with two",
        ),
        pytest.param("url='https://h/?sig=x', b", "url='https://h/?sig=***', b", id="in quotation marks"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


_SECRET = some.text("abcXYZ019%+-_~.!*,;:$()", min_size=8, max_size=30).map(lambda text: f"q{text}q")


@given(user=_SECRET, password=_SECRET, value=_SECRET, scheme=some.sampled_from(["https", "s3", "ftp", "smb", "abfs"]))
def test_no_secret_survives_in_a_sentence(user: str, password: str, value: str, scheme: str) -> None:
    text = f"storage {scheme}://{user}:{password}@host/folder?sig={value} is full ({scheme}://h/?a=1&token={value})."
    assert redacted(text) == f"storage {scheme}://***@host/folder?sig=*** is full ({scheme}://h/?a=***&token=***)."

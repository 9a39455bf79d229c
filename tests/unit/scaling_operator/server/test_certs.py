from __future__ import annotations

import contextlib
import ssl
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.connection import ConfigurationError
from scaling_operator.server.certs import (
    CA_LIFETIME,
    CA_SECRET,
    LEAF_LIFETIME,
    Authority,
    ServingCertificate,
    ensure_authority,
)
from tests.unit.scaling_operator.runtime.scripted_server import ScriptedServer, answer, failure

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOSTS = ["scaling-operator.scaling-system.svc", "localhost"]
SECRETS = "/api/v1/namespaces/system/secrets"
SECRET = f"{SECRETS}/{CA_SECRET}"


def verify(bundle: str, chain: str, host: str, at: datetime) -> None:
    leaf, *intermediates = x509.load_pem_x509_certificates(chain.encode())
    trusted = Store(x509.load_pem_x509_certificates(bundle.encode()))
    PolicyBuilder().store(trusted).time(at).build_server_verifier(x509.DNSName(host)).verify(leaf, intermediates)


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_trusts_the_bundle_accepts_the_leaf(host: str) -> None:
    authority = Authority.create(NOW)
    leaf = authority.issue(HOSTS, NOW)
    verify(authority.bundle, leaf.chain, host, NOW)
    verify(authority.bundle, leaf.chain, host, NOW - timedelta(minutes=4))
    verify(authority.bundle, leaf.chain, host, NOW + LEAF_LIFETIME - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("host", "at"),
    [
        pytest.param("other.svc", NOW, id="another name"),
        pytest.param(HOSTS[0], NOW + LEAF_LIFETIME + timedelta(seconds=1), id="expired"),
        pytest.param(HOSTS[0], NOW - timedelta(minutes=6), id="from the future"),
    ],
)
def test_a_client_refuses_the_leaf_otherwise(host: str, at: datetime) -> None:
    authority = Authority.create(NOW)
    with pytest.raises(VerificationError):
        verify(authority.bundle, authority.issue(HOSTS, NOW).chain, host, at)


def test_a_client_of_another_authority_refuses_the_leaf() -> None:
    with pytest.raises(VerificationError):
        verify(Authority.create(NOW).bundle, Authority.create(NOW).issue(HOSTS, NOW).chain, HOSTS[0], NOW)


def test_leaves_can_be_issued_for_most_of_the_authoritys_life() -> None:
    authority = Authority.create(NOW)
    late = NOW + CA_LIFETIME - LEAF_LIFETIME
    verify(authority.bundle, authority.issue(HOSTS, late).chain, HOSTS[0], late)


def test_a_bundle_of_two_lets_clients_trust_the_next_authority_early() -> None:
    old, new = Authority.create(NOW), Authority.create(NOW)
    bundle = old.bundle + new.bundle
    for authority in (old, new):
        verify(bundle, authority.issue(HOSTS, NOW).chain, HOSTS[0], NOW)


def test_an_authority_survives_its_secret() -> None:
    authority = Authority.create(NOW)
    read = Authority.from_secret(authority.to_secret("system"))
    assert read.bundle == authority.bundle
    verify(authority.bundle, read.issue(HOSTS, NOW).chain, HOSTS[0], NOW)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"tls.key": None}, "no usable CA", id="no key"),
        pytest.param({"tls.crt": "not PEM"}, "no usable CA", id="no certificate"),
        pytest.param({"tls.key": Authority.create(NOW).to_secret("x")["data"]["tls.key"]}, "not the", id="other key"),
        pytest.param({"ca.crt": Authority.create(NOW).to_secret("x")["data"]["ca.crt"]}, "not among", id="not trusted"),
    ],
)
def test_a_secret_that_holds_no_usable_authority_is_named(changes: dict[str, str | None], sentence: str) -> None:
    secret = Authority.create(NOW).to_secret("system")
    for key, value in changes.items():
        if value is None:
            del secret["data"][key]
        else:
            secret["data"][key] = value if len(value) > 100 else b64encode(value.encode()).decode()
    with pytest.raises(ConfigurationError, match=f"system/{CA_SECRET}.*{sentence}"):
        Authority.from_secret(secret)


async def test_the_first_replica_makes_the_authority_and_the_second_reads_it() -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", SECRET, failure(404, "NotFound"))
        server.on("POST", SECRETS, answer({}))
        made = await ensure_authority(client, "system")
        (create,) = server.requests("POST")
        server.on("GET", SECRET, answer(create.body))
        assert (await ensure_authority(client, "system")).bundle == made.bundle
        assert len(server.requests("POST")) == 1


async def test_a_deleted_authority_is_put_back_because_running_drivers_trust_no_other() -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", SECRET, failure(404, "NotFound"))
        server.on("POST", SECRETS, answer({}))
        certificate = ServingCertificate(lambda known: ensure_authority(client, "system", known=known), ["localhost"])
        await certificate.look()
        bundle, first = certificate.bundle, _serial(certificate)
        assert not await certificate.look()
        assert (certificate.bundle, _serial(certificate)) == (bundle, first)
        created, again = server.requests("POST")
        assert again.body == created.body


async def test_of_two_replicas_that_start_together_one_yields() -> None:
    other = Authority.create(NOW)
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", SECRET, failure(404, "NotFound"), answer(other.to_secret("system")))
        server.on("POST", SECRETS, failure(409, "AlreadyExists"))
        assert (await ensure_authority(client, "system")).bundle == other.bundle


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


async def test_new_connections_get_the_renewed_certificate_without_a_restart() -> None:
    clock = Clock()
    clock.now -= timedelta(days=20, seconds=1)
    authority = Authority.create(clock.now)

    async def load(known: Authority | None) -> Authority:
        return authority

    certificate = ServingCertificate(load, ["localhost"], clock=clock)
    assert certificate.problem() is not None
    assert await certificate.look()
    assert certificate.bundle == authority.bundle
    first = _serial(certificate)
    assert not await certificate.look(), "nothing has changed"
    assert _serial(certificate) == first
    clock.now += timedelta(days=20, seconds=1)
    assert await certificate.look()
    assert _serial(certificate) != first


async def test_another_authority_takes_effect_when_the_secret_is_read_again_within_a_minute() -> None:
    clock, old, new = Clock(), Authority.create(datetime.now(UTC)), Authority.create(datetime.now(UTC))
    held = [old]

    async def load(known: Authority | None) -> Authority:
        return held[-1]

    certificate = ServingCertificate(load, ["localhost"], clock=clock)
    await certificate.look()
    first = _serial(certificate)
    # The first step of a rotation: attempts that begin from now on trust both; nothing else changes.
    both = old.bundle + new.bundle
    held.append(Authority(both, old.certificate, old.key))
    assert certificate.look_in_s() <= 60
    assert not await certificate.look()
    assert certificate.bundle == both
    assert _serial(certificate) == first
    # The second: the new one signs.
    held.append(Authority(both, new.certificate, new.key))
    assert await certificate.look()
    assert _serial(certificate) != first
    assert _issuer_key(certificate) == new.certificate.public_key()


async def test_a_secret_that_is_broken_later_leaves_the_certificate_as_it_is() -> None:
    authority = Authority.create(datetime.now(UTC))
    answers: list[Authority | None] = [authority, None]

    async def load(known: Authority | None) -> Authority:
        if (found := answers.pop(0)) is None:
            raise ConfigurationError("the Secret holds no CA")
        return found

    certificate = ServingCertificate(load, ["localhost"])
    await certificate.look()
    first = _serial(certificate)
    with pytest.raises(ConfigurationError):
        await certificate.look()
    assert (certificate.bundle, _serial(certificate), certificate.problem()) == (authority.bundle, first, None)


async def test_the_leaf_is_due_at_two_thirds_of_its_life() -> None:
    clock, authority = Clock(), Authority.create(datetime.now(UTC))

    async def load(known: Authority | None) -> Authority:
        return authority

    certificate = ServingCertificate(load, ["localhost"], clock=clock)
    assert certificate.renew_in_s() == certificate.look_in_s() == 0
    await certificate.look()
    assert certificate.renew_in_s() == timedelta(days=20).total_seconds()
    clock.now += timedelta(days=20, seconds=1)
    assert certificate.renew_in_s() == certificate.look_in_s() == 0
    assert certificate.problem() is None
    clock.now += timedelta(days=10)
    assert certificate.problem() == "the certificate has expired"


async def test_an_unusable_authority_ends_the_process_at_the_start() -> None:
    async def load(known: Authority | None) -> Authority:
        raise ConfigurationError("the Secret holds no CA")

    with pytest.raises(ConfigurationError, match="holds no CA"):
        await ServingCertificate(load, ["localhost"]).run()


def _serial(served: ServingCertificate) -> Any:
    """The serial number of the certificate that a new connection is shown."""
    return _shown(served).serial_number


def _issuer_key(served: ServingCertificate) -> Any:
    """The key of the authority that signed it."""
    trusted = x509.load_pem_x509_certificates(served.bundle.encode())
    for authority in trusted:
        with contextlib.suppress(InvalidSignature, ValueError):
            _shown(served).verify_directly_issued_by(authority)
            return authority.public_key()
    return None


def _shown(served: ServingCertificate) -> x509.Certificate:
    """The certificate that a new connection is shown; both of its ends are here."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl.create_default_context(cadata=served.bundle)
    client = trust.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = served.context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)

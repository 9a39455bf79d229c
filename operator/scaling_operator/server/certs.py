"""Certificates of the HTTPS endpoint, without any other component to install.

The operator has a CA of its own. Whichever replica is first makes it and stores it in a Secret; the others read
it. Each replica then issues itself a short-lived leaf, in memory, and replaces it at two thirds of its life
without a restart. Drivers trust the CA's certificate, which lies in their attempt's Secret.

To replace the CA, append the new certificate to the Secret's `ca.crt`; when the attempts that know only the old
one have ended, put the new pair into `tls.crt` and `tls.key`. Every replica reads the Secret again within a minute, and
attempts that begin then know what it holds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..runtime.client import ApiClient, resource_path
from ..runtime.connection import ConfigurationError
from ..runtime.errors import AlreadyExistsError, ApiError, NotFoundError
from ..runtime.objects import Object

logger = logging.getLogger(__name__)

CA_SECRET = "scaling-operator-ca"
CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=30)
# Clocks of nodes differ a little; a certificate must not come from the future.
CLOCK_SKEW = timedelta(minutes=5)
# How often the Secret is read: so soon what somebody put there takes effect.
RELOAD_S = 60.0
RETRY_S = 60.0
FIRST_RETRY_S = 1.0

_BUNDLE = "ca.crt"
_CERTIFICATE = "tls.crt"
_KEY = "tls.key"

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of everything here, unless a test has another."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: `bundle` is what others trust (PEM, one or several certificates), the pair is what signs."""

    bundle: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, now: datetime) -> Authority:
        """A new self-signed CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scaling-operator-ca")])
        certificate = (
            _builder(subject, subject, key.public_key(), now, CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), certificate, key)

    @classmethod
    def from_secret(cls, secret: Object) -> Authority:
        """The CA that the Secret holds. Raises ConfigurationError with a sentence when it holds none."""
        name = f"Secret {secret['metadata'].get('namespace')}/{secret['metadata']['name']}"
        try:
            data = {key: b64decode(secret["data"][key], validate=True) for key in (_BUNDLE, _CERTIFICATE, _KEY)}
            certificate = x509.load_pem_x509_certificate(data[_CERTIFICATE])
            key = serialization.load_pem_private_key(data[_KEY], password=None)
            trusted = x509.load_pem_x509_certificates(data[_BUNDLE])
        except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise ConfigurationError(
                f"{name} holds no usable CA ({type(exc).__name__}); delete it to have a new one made"
            ) from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(f"{name}: tls.key is not the elliptic-curve key of tls.crt")
        if certificate not in trusted:
            raise ConfigurationError(f"{name}: tls.crt is not among the certificates of ca.crt, so no driver trusts it")
        return cls(data[_BUNDLE].decode(), certificate, key)

    def to_secret(self, namespace: str) -> Object:
        """The Secret that holds this CA."""
        values = {_BUNDLE: self.bundle, _CERTIFICATE: _pem(self.certificate), _KEY: _key_pem(self.key)}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": CA_SECRET, "namespace": namespace},
            "data": {key: b64encode(value.encode()).decode() for key, value in values.items()},
        }

    def issue(self, host_names: Sequence[str], now: datetime) -> Leaf:
        """A new server certificate for these names (or IP addresses) with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_names[0][:64])])
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), now, LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in host_names]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return Leaf(_pem(certificate) + _pem(self.certificate), _key_pem(key), now, now + LEAF_LIFETIME)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server certificate with its chain and key (PEM)."""

    chain: str
    key: str
    issued_at: datetime
    expires_at: datetime

    @property
    def renew_at(self) -> datetime:
        """Two thirds of its life."""
        return self.issued_at + (self.expires_at - self.issued_at) * 2 / 3


async def ensure_authority(
    client: ApiClient, namespace: str, *, known: Authority | None = None, clock: Clock = utc_now
) -> Authority:
    """The CA in the operator's namespace, made if there is none yet.

    Where it was deleted, ``known`` is put back: running drivers trust no other one until their attempt ends.

    Raises ConfigurationError when the Secret holds something else, ApiError when the API server does not help.
    """
    collection = resource_path("v1", "secrets", namespace)
    path = f"{collection}/{CA_SECRET}"
    try:
        return Authority.from_secret(await client.get(path))
    except NotFoundError:
        pass
    created = known or Authority.create(clock())
    try:
        await client.create(collection, created.to_secret(namespace))
    except AlreadyExistsError:
        return Authority.from_secret(await client.get(path))
    done = "put back the CA, whose Secret was deleted" if known else "made a CA for the HTTPS endpoint"
    logger.info(done, extra={"secret": f"{namespace}/{CA_SECRET}"})
    return created


class ServingCertificate:
    """The TLS context of the HTTPS port, whose certificate renews itself.

    `load` reads the CA, and is given the one that is known. `context` stays the same object; new connections get the
    new certificate. `ready` is set once there is one.
    """

    def __init__(
        self,
        load: Callable[[Authority | None], Awaitable[Authority]],
        host_names: Sequence[str],
        *,
        clock: Clock = utc_now,
    ) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ready = asyncio.Event()
        self._load = load
        self._host_names = list(host_names)
        self._clock = clock
        self._authority: Authority | None = None
        self._leaf: Leaf | None = None

    @property
    def bundle(self) -> str:
        """What drivers have to trust (PEM). Raises RuntimeError before the first `look`."""
        if self._authority is None:
            raise RuntimeError("the CA has not been read yet")
        return self._authority.bundle

    async def look(self) -> bool:
        """Read the CA; issue a new leaf if it has changed or the leaf is due, and tell. Raises what `load` raises."""
        authority = await self._load(self._authority)
        known, self._authority = self._authority, authority
        is_new = known is None or known.certificate != authority.certificate
        if not is_new and self.renew_in_s() > 0:
            return False
        self._leaf = authority.issue(self._host_names, self._clock())
        _use(self.context, self._leaf)
        self.ready.set()
        return True

    async def wait_ready(self) -> None:
        """Return once there is a certificate, and `bundle` can be read."""
        await self.ready.wait()

    async def run(self) -> None:
        """Get the first certificate, then renew it in time and whenever the CA changes, until cancelled.

        An API server that does not answer is asked again. Raises ConfigurationError when there is no usable CA
        to begin with; later the old certificate goes on.
        """
        while True:
            await asyncio.sleep(self.look_in_s())
            try:
                renewed = await self.look()
            except (ApiError, ConfigurationError) as exc:
                if isinstance(exc, ConfigurationError) and not self.ready.is_set():
                    raise
                logger.warning("cannot read the CA of the HTTPS endpoint: %s", exc)
                await asyncio.sleep(RETRY_S if self.ready.is_set() else FIRST_RETRY_S)
            else:
                if renewed:
                    logger.info("the HTTPS endpoint has a new certificate")

    def look_in_s(self) -> float:
        """Seconds until the Secret is read again, or for the first time."""
        return min(RELOAD_S, self.renew_in_s())

    def renew_in_s(self) -> float:
        """Seconds until the leaf is due; 0 when it is."""
        if self._leaf is None:
            return 0.0
        return max(0.0, (self._leaf.renew_at - self._clock()).total_seconds())

    def problem(self) -> str | None:
        """For a readiness check: None while the certificate is good."""
        if self._leaf is None:
            return "there is no certificate yet"
        return None if self._clock() < self._leaf.expires_at else "the certificate has expired"


def _use(context: ssl.SSLContext, leaf: Leaf) -> None:
    # OpenSSL reads certificates from files only; this one is gone a moment later.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(leaf.key + leaf.chain)
        file.flush()
        context.load_cert_chain(file.name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

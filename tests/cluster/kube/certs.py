"""Certificates and kubeconfig files of one cluster.

Everything is made anew for each cluster and lies in its folder: an authority of its own, so a stale kubeconfig can
never reach a later cluster by mistake. Elliptic curve keys take a millisecond each where RSA takes a second.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=30)
_CLOCK_SLACK = dt.timedelta(minutes=10)


@dataclass(frozen=True)
class Identity:
    """Who a certificate says its holder is: user name and, for Kubernetes, group."""

    user: str
    group: str | None = None


ADMIN = Identity("admin", "system:masters")
CLIENTS = {
    "admin": ADMIN,
    "controller-manager": Identity("system:kube-controller-manager"),
    "scheduler": Identity("system:kube-scheduler"),
    "proxy": Identity("system:kube-proxy"),
    "coredns": Identity("coredns", "system:masters"),
    "kwok": Identity("kwok", "system:masters"),
    "apiserver-to-kubelet": Identity("apiserver-to-kubelet", "system:masters"),
}


class Authority:
    """A certificate authority that lies in `folder` and signs into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-cluster")])
        builder = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        usage = x509.KeyUsage(True, False, True, False, False, True, False, False, False)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self._write("ca", self._key, self._certificate)

    @property
    def certificate_path(self) -> Path:
        return self.folder / "ca.crt"

    def issue(self, name: str, identity: Identity, *, serves: tuple[str, ...] = ()) -> None:
        """Write NAME.crt and NAME.key; `serves` are the host names and addresses of a server certificate."""
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, identity.user)]
        if identity.group:
            subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = self._builder(x509.Name(subject), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if serves:
            names = x509.SubjectAlternativeName([_general_name(text) for text in serves])
            builder = builder.add_extension(names, critical=False)
        self._write(name, key, builder.sign(self._key, hashes.SHA256()))

    def issue_key_pair(self, name: str) -> None:
        """Write NAME.key and NAME.pub, a bare key pair (service account tokens)."""
        key = ec.generate_private_key(ec.SECP256R1())
        _write_private(self.folder / f"{name}.key", key)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / f"{name}.pub").write_bytes(public)

    def write_kubeconfig(self, name: str, server: str, path: Path) -> None:
        """Write a kubeconfig that presents certificate NAME to `server`, all data inside the one file."""

        def data(file: str) -> str:
            return base64.b64encode((self.folder / file).read_bytes()).decode()

        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": server, "certificate-authority-data": data("ca.crt")},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": data(f"{name}.crt"),
                        "client-key-data": data(f"{name}.key"),
                    },
                }
            ],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SLACK)
            .not_valid_after(now + _LIFETIME)
        )

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        _write_private(self.folder / f"{name}.key", key)
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)

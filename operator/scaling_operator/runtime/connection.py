"""Where the API server is and how to prove who we are: address, TLS, credentials that renew themselves.

In a pod the token file is read here directly: that takes a few lines, while importing the Kubernetes client
library costs 22 MiB and 0.3 s of CPU. Kubeconfig files, with their exec plugins and cloud providers, are left
to `kubernetes.aio.config`, imported only then. Credentials are looked at again at most once a minute
(service-account tokens rotate hourly) and at once after a 401.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REFRESH_PERIOD_S = 60.0
_MIN_REFRESH_S = 1.0


class ConfigurationError(Exception):
    """No usable way to reach an API server was found; the message says what was looked for."""


class Connection:
    """A server address with fixed headers; subclasses renew their credentials in `refresh`."""

    def __init__(
        self,
        server: str,
        *,
        authorization: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        proxy: str | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.authorization = authorization
        self.ssl_context = ssl_context
        self.server_hostname = server_hostname
        self.proxy = proxy

    async def refresh(self, *, rejected: bool = False) -> None:
        """Renew credentials that are due; `rejected` says that the server has just refused them."""


class InClusterConnection(Connection):
    """The pod's own service account. Raises ConfigurationError outside a pod."""

    def __init__(
        self,
        *,
        directory: Path = SERVICE_ACCOUNT_DIR,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host = environ.get("KUBERNETES_SERVICE_HOST")
        port = environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ConfigurationError("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod")
        if not (directory / "token").is_file():
            raise ConfigurationError(f"{directory}/token is missing: the pod needs automountServiceAccountToken: true")
        host = f"[{host}]" if ":" in host else host
        super().__init__(f"https://{host}:{port}", ssl_context=_client_context(cafile=str(directory / "ca.crt")))
        self._token_file = directory / "token"
        self._clock = clock
        self._read_token()

    async def refresh(self, *, rejected: bool = False) -> None:
        if rejected or self._clock() - self._read_at >= REFRESH_PERIOD_S:
            self._read_token()

    def _read_token(self) -> None:
        self.authorization = f"Bearer {self._token_file.read_text().strip()}"
        self._read_at = self._clock()


class KubeconfigConnection(Connection):
    """A context of a kubeconfig file; make one with `await KubeconfigConnection.load(path)`."""

    def __init__(self, loader: Any, configuration: Any) -> None:
        super().__init__(configuration.host)
        self._loader = loader
        self._configuration = configuration
        self._tls_inputs: tuple[Any, ...] | None = None
        self._refreshing = asyncio.Lock()
        self._apply()

    @classmethod
    async def load(cls, path: str) -> KubeconfigConnection:
        """Read the current context of the kubeconfig at `path` (several, joined as in $KUBECONFIG, merge)."""
        # Late: 22 MiB that a pod with its service account never needs.
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException, load_kube_config

        configuration = Configuration()
        try:
            loader = await load_kube_config(config_file=path, client_configuration=configuration, persist_config=False)
        except (ConfigException, OSError, TypeError) as exc:
            raise ConfigurationError(f"kubeconfig {path} is not usable: {exc}") from exc
        return cls(loader, configuration)

    async def refresh(self, *, rejected: bool = False) -> None:
        if not self._is_due(rejected):
            return
        async with self._refreshing:
            # Requests that were refused together need one new credential, not one each.
            if not self._is_due(rejected):
                return
            self._loaded_at = time.monotonic()
            if rejected:
                self._loader.__dict__.pop("exec_plugin_expiry", None)
            try:
                await self._loader.load_and_set(self._configuration)
                self._apply()
            except Exception as exc:  # plugins and cloud providers raise what they like
                # The old credential may live on for a while; if not, the server says so.
                logger.warning("credentials could not be renewed: %s", exc)

    def _is_due(self, rejected: bool) -> bool:
        age_s = time.monotonic() - self._loaded_at
        if rejected:
            return age_s >= _MIN_REFRESH_S
        # An exec plugin that names no expiry is asked again only when its credential is refused.
        if self._runs_plugin and not hasattr(self._loader, "exec_plugin_expiry"):
            return False
        return age_s >= REFRESH_PERIOD_S

    @property
    def _runs_plugin(self) -> bool:
        user = self._loader._user
        return user is not None and "exec" in user

    def _apply(self) -> None:
        configuration = self._configuration
        self._loaded_at = time.monotonic()
        self.server = configuration.host.rstrip("/")
        self.authorization = _canonical(configuration.api_key.get("BearerToken"))
        self.server_hostname = configuration.tls_server_name
        self.proxy = configuration.proxy
        inputs = (
            _stamp(configuration.ssl_ca_cert),
            _stamp(configuration.cert_file),
            _stamp(configuration.key_file),
            configuration.verify_ssl,
        )
        if inputs != self._tls_inputs:
            self._tls_inputs = inputs
            self.ssl_context = _client_context(
                cafile=configuration.ssl_ca_cert,
                certfile=configuration.cert_file,
                keyfile=configuration.key_file,
                verify=configuration.verify_ssl,
            )


async def find_connection(kubeconfig: str | None = None) -> Connection:
    """The given kubeconfig; else $KUBECONFIG; else the pod's service account; else ~/.kube/config.

    Raises ConfigurationError when none of them is there or the chosen one is unusable.
    """
    chosen = kubeconfig or os.environ.get("KUBECONFIG")
    if chosen:
        return await KubeconfigConnection.load(chosen)
    try:
        return InClusterConnection()
    except ConfigurationError as exc:
        home = _home_kubeconfig()
        if home is not None:
            return await KubeconfigConnection.load(home)
        raise ConfigurationError(
            f"no API server: give a kubeconfig, set KUBECONFIG, create ~/.kube/config, or run in a pod ({exc})"
        ) from exc


def _home_kubeconfig() -> str | None:
    path = Path.home() / ".kube" / "config"
    return str(path) if path.exists() else None


def _canonical(authorization: str | None) -> str | None:
    """The header value with the scheme's usual spelling; some proxies insist on it."""
    if authorization and authorization.startswith("bearer "):
        return "Bearer " + authorization.removeprefix("bearer ").strip()
    return authorization


def _stamp(path: str | None) -> tuple[str, int] | None:
    return (path, os.stat(path).st_mtime_ns) if path else None


def _client_context(
    *, cafile: str | None, certfile: str | None = None, keyfile: str | None = None, verify: bool = True
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cafile)
    # Python 3.13 turned strict RFC 5280 checks on; the CAs of many clusters lack the extensions it wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

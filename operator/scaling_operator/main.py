"""`scaling-operator`: builds everything, connects it, and runs it until it is told to stop.

Every replica mirrors jobs and pods, serves progress reports and answers probes; the leader alone reconciles.
Nothing is imported before the arguments are understood, so `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .settings import Settings, parse_settings

if TYPE_CHECKING:
    from .runtime.client import ApiClient
    from .runtime.manager import Manager

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_CONFIGURATION = 78  # sysexits.h EX_CONFIG
LEASE_NAME = "scaling-operator"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    settings = parse_settings(sys.argv[1:] if argv is None else argv)
    from .runtime.connection import ConfigurationError
    from .runtime.leader import LeadershipLostError
    from .runtime.logs import configure_logging

    configure_logging(settings.log_level, log_format=settings.log_format)
    try:
        asyncio.run(run(settings))
    except Exception as exc:
        causes = _causes(exc)
        for cause in causes:
            # A sentence for what its reader can put right, a traceback for a bug.
            expected = isinstance(cause, ConfigurationError | LeadershipLostError | OSError)
            logger.critical("%s", cause, exc_info=None if expected else cause)
        return EXIT_CONFIGURATION if any(isinstance(cause, ConfigurationError) for cause in causes) else EXIT_FAILED
    return 0


async def run(settings: Settings) -> None:
    """Run the operator until a signal. Raises ConfigurationError for what only an administrator can put right."""
    from .runtime.client import ApiClient

    async with await ApiClient.load(settings.kubeconfig) as client, client.separate(request_timeout_s=5.0) as leases:
        await check_installed(client)
        manager = build_manager(client, leases, settings)
        logger.info("starting", extra={"namespace": settings.namespace, "runtime_image": settings.runtime_image})
        await manager.run()


async def check_installed(client: ApiClient) -> None:
    """Raise ConfigurationError with a sentence when the CRD is missing.

    Nothing is raised when the server cannot be asked: what follows waits for it anyway.
    """
    from scaling_api import API_VERSION, KIND, PLURAL

    from .runtime.connection import ConfigurationError
    from .runtime.errors import ApiError, NotFoundError

    try:
        group = await client.get(f"/apis/{API_VERSION}")
        served = [resource["name"] for resource in group.get("resources") or []]
    except NotFoundError:
        served = []
    except ApiError as exc:
        logger.warning("cannot see whether the CRD is installed: %s", exc)
        return
    if PLURAL not in served:
        raise ConfigurationError(
            f"this cluster has no {KIND} of {API_VERSION}: install the CRD with `kubectl apply -k manifests/`"
        )


def build_manager(client: ApiClient, leases: ApiClient, settings: Settings) -> Manager:
    """Connect the parts; nothing is sent yet. `leases` is a client for leader election alone."""
    from scaling_api.driver import TOKEN_AUDIENCE

    from .events import EventRecorder
    from .job_controller import JobController
    from .job_metrics import JobMetrics
    from .mirrors import build_mirrors
    from .runtime.health import HealthServer
    from .runtime.leader import LeaderElector
    from .runtime.manager import Manager
    from .server.certs import ServingCertificate, ensure_authority
    from .server.https import HttpsServer
    from .server.progress import ProgressEndpoint
    from .server.tokens import TokenReviewer

    elector = LeaderElector(leases, namespace=settings.namespace, name=LEASE_NAME) if settings.leader_election else None
    health = HealthServer(port=settings.metrics_port)
    manager = Manager(health=health, elector=elector)

    mirrors = build_mirrors(client)
    for reflector in mirrors.reflectors:
        manager.add_reflector(reflector)
    JobMetrics(mirrors.jobs, is_leading=lambda: manager.is_leading)

    certificate = ServingCertificate(
        lambda known: ensure_authority(client, settings.namespace, known=known), settings.dns_names()
    )
    endpoint = ProgressEndpoint(client, TokenReviewer(client, TOKEN_AUDIENCE), jobs=mirrors.jobs, pods=mirrors.pods)
    https = HttpsServer(endpoint.routes(), certificate.context, port=settings.https_port)
    health.readiness |= {"certificate": certificate.problem, "https": https.problem}
    manager.add_task("certificate", certificate.run)
    manager.add_task("https", https.run)

    # Events are sent by the guarded client too: a leader that was replaced has nothing to say.
    leader_client = client.guarded(elector.check) if elector is not None else client
    recorder = EventRecorder(leader_client, instance=elector.identity if elector is not None else "scaling-operator")
    manager.add_task("events", recorder.run, leader_only=True)
    # A driver needs the CA that vouches for us.
    manager.on_started_leading(certificate.wait_ready)
    controller = JobController(leader_client, mirrors, recorder, settings, ca_bundle=lambda: certificate.bundle)
    manager.add_controller(controller.build())
    return manager


def _causes(exc: BaseException) -> list[BaseException]:
    """The exceptions inside of nested groups."""
    if isinstance(exc, BaseExceptionGroup):
        return [cause for inner in exc.exceptions for cause in _causes(inner)]
    return [exc]


if __name__ == "__main__":
    sys.exit(main())

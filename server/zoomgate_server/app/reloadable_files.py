"""The callers file and the certificate, and their reload: on SIGHUP together with the key file, and when they change."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from zoomgate_server import file_system
from zoomgate_server.audit.event import ZOOMGATE, AuditEvent, AuditSink
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import server as rpc_server
from zoomgate_server.rpc.middleware.authentication import CallerKeys
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

_log = logs.get("zoomgate.app")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of reloads, in seconds.

    Attributes:
        poll_interval: Time between two checks of the callers file.
    """

    poll_interval: float = 2.0


class ReloadableFiles:
    """The content of the callers file and of the certificate files.

    Args:
        extra_keys: Callers by the SHA-256 of their keys, in addition to those of the callers file.

    Raises:
        StartError: A file is invalid.

    Attributes:
        callers: The callers.
        certificate: The certificate and its key, or None without TLS.
    """

    def __init__(
        self,
        settings: Settings,
        extra_keys: Mapping[str, Principal],
        metrics: Metrics,
        timing: Timing = Timing(),
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._timing = timing
        self._callers_version: object = None
        self._callers_problem = ""
        self._extra_keys = extra_keys
        self.callers = CallerKeys(self._load_callers())
        self.certificate = rpc_server.certificate(settings.tls, settings.names)

    async def reload_on_request(
        self, requested: asyncio.Event, key_ring: ReloadingKeyRing, audit: AuditSink
    ) -> None:
        """Reload all files whenever the event is set, and log the result. Runs until canceled.

        An unusable file leaves its previous content in use.
        """
        while True:
            await requested.wait()
            requested.clear()
            results = {"keys": key_ring.reload()}
            if self._settings.callers is not None:
                results["callers"] = self._reload_callers(audit)
            if self.certificate is not None:
                results["certificate"] = self.certificate.reload()
            loaded = [name for name, problem in results.items() if not problem]
            problems = [problem for problem in results.values() if problem]
            if problems:
                _log.warning("files.reload_failed", loaded=loaded, problems=problems)
            else:
                _log.info("files.reloaded", loaded=loaded)

    async def watch_callers(self, audit: AuditSink) -> None:
        """Reload the callers file when it changes, and log the result. Runs until canceled.

        A changed file is read once two checks have seen the same version, since some editors write files in place.
        """
        seen = self._callers_version
        while self._settings.callers is not None:
            await asyncio.sleep(self._timing.poll_interval)
            previous, seen = seen, file_system.version(self._settings.callers)
            known_problem = self._callers_problem
            if seen != previous or (seen == self._callers_version and not known_problem):
                continue
            problem = self._reload_callers(audit)
            if not problem:
                _log.info("files.reloaded", loaded=["callers"])
            elif problem != known_problem:
                _log.warning("files.reload_failed", loaded=[], problems=[problem])

    def _load_callers(self) -> dict[str, Principal]:
        if self._settings.callers is not None:
            self._callers_version = file_system.version(self._settings.callers)
        from_file = rpc_server.caller_keys(self._settings.callers, self._settings.names["callers"])
        if self._settings.callers is not None and not from_file:
            _log.warning("callers_file.empty", file=str(self._settings.callers))
        return {**from_file, **self._extra_keys}

    def _reload_callers(self, audit: AuditSink) -> str:
        try:
            keys = self._load_callers()
        except StartError as error:
            self._callers_problem = str(error)
            self._metrics.callers_file_invalid.set(1)
            return self._callers_problem
        self._callers_problem = ""
        self._metrics.callers_file_invalid.set(0)
        self.callers.replace(keys)
        details: dict[str, str | int] = {"callers": len(self.callers), "file": str(self._settings.callers)}
        audit(AuditEvent("callers.reloaded", "ok", "", ZOOMGATE, details=details))
        return ""

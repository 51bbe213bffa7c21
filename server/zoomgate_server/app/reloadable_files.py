"""The callers file and the certificate, and their reload on SIGHUP, together with the key file."""

import asyncio
from collections.abc import Mapping

from zoomgate_server.audit.event import ZOOMGATE, AuditEvent, AuditSink
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import server as rpc_server
from zoomgate_server.rpc.middleware.authentication import CallerKeys
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.app")


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

    def __init__(self, settings: Settings, extra_keys: Mapping[str, Principal]) -> None:
        self._settings = settings
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

    def _load_callers(self) -> dict[str, Principal]:
        from_file = rpc_server.caller_keys(self._settings.callers, self._settings.names["callers"])
        return {**from_file, **self._extra_keys}

    def _reload_callers(self, audit: AuditSink) -> str:
        try:
            keys = self._load_callers()
        except StartError as error:
            return str(error)
        self.callers.replace(keys)
        details: dict[str, str | int] = {"callers": len(keys), "file": str(self._settings.callers)}
        audit(AuditEvent("callers.reloaded", "ok", "", ZOOMGATE, details=details))
        return ""

"""The certificate of the gRPC server: read, checked, and read again when its files change."""

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

MAX_BYTES = 256 * 1024
"""Of a file; a chain of certificates needs a few thousand."""

RETRY_SECONDS = 10.0
"""How long a pair that could not be used is left alone while its files stay as they are."""


class TlsError(Exception):
    """Certificate or key cannot be used. The text is one sentence with the setting, without the key."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate with its chain, and its key, as PEM.

    Attributes:
        chain: The server's certificate first.
        names: Host names and addresses that it is for.
        not_after: When it expires.
    """

    key: bytes
    chain: bytes
    names: tuple[str, ...]
    not_after: datetime

    def __repr__(self) -> str:
        return f"CertificatePair(names={self.names}, not_after={self.not_after})"


def load(cert_path: Path, key_path: Path, now: datetime | None = None) -> CertificatePair:
    """Read and check a pair.

    Raises:
        TlsError: A file cannot be read or holds something else, the two do not belong together, the key is open to everybody or has a
            passphrase, or the certificate is not valid now.
    """
    chain, _ = _read("ZOOMGATE_TLS_CERT", cert_path)
    key, key_mode = _read("ZOOMGATE_TLS_KEY", key_path)
    if key_mode & 0o007:
        raise TlsError(f"ZOOMGATE_TLS_KEY: {key_path} is open to everybody: run chmod o-rwx on it")
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise TlsError(
            f"ZOOMGATE_TLS_CERT: {cert_path} holds no PEM certificate: give the chain, the server's own first"
        ) from None
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise TlsError(f"ZOOMGATE_TLS_KEY: {key_path} has a passphrase: give it without one") from None
    except Exception:  # noqa: BLE001 - the library has many; its words could quote the file
        raise TlsError(f"ZOOMGATE_TLS_KEY: {key_path} holds no PEM private key") from None
    if _public(private.public_key()) != _public(certificate.public_key()):
        raise TlsError(
            f"ZOOMGATE_TLS_KEY: {key_path} is not the key of {cert_path}: give the pair that belongs together"
        )
    moment = now or datetime.now(UTC)
    if moment >= certificate.not_valid_after_utc:
        raise TlsError(
            f"ZOOMGATE_TLS_CERT: {cert_path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it"
        )
    if moment < certificate.not_valid_before_utc:
        raise TlsError(
            f"ZOOMGATE_TLS_CERT: {cert_path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on: look at the clock"
        )
    return CertificatePair(key, chain, _names(certificate), certificate.not_valid_after_utc)


class ReloadingCertificate:
    """A pair that follows its files. Safe to ask from any thread, at every handshake.

    A changed pair that cannot be used leaves the one before in place: files are often written one after the other. It is tried again
    after a while even if they stay as they are: it may have become valid, or readable.

    Args:
        cert_path: Where the certificate is.
        key_path: Where its key is.
        on_change: Called with None after a new pair was taken, or with why it was not, once per change of the files and per reason.
        now: The time.

    Raises:
        TlsError: The pair cannot be used at the start.
    """

    def __init__(
        self,
        cert_path: Path,
        key_path: Path,
        on_change: Callable[[str | None], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._paths = (cert_path, key_path)
        self._on_change = on_change
        self._now = now
        self._lock = threading.Lock()
        self._seen = self._marks()
        self._retry_at: datetime | None = None
        self._problem = ""
        self.current = load(cert_path, key_path, now())

    def changed(self) -> CertificatePair | None:
        """Give a new pair if the files hold one since the last time, else None."""
        marks = self._marks()
        if not self._is_due(marks):
            return None
        with self._lock:
            if not self._is_due(marks):
                return None
            now = self._now()
            try:
                fresh = load(*self._paths, now)
            except TlsError as error:
                if marks != self._seen or str(error) != self._problem:
                    self._on_change(str(error))
                self._seen, self._problem = marks, str(error)
                self._retry_at = now + timedelta(seconds=RETRY_SECONDS)
                return None
            self._seen, self._problem, self._retry_at = marks, "", None
            if fresh == self.current:
                return None
            self.current = fresh
            self._on_change(None)
            return fresh

    def _is_due(self, marks: tuple[object, ...]) -> bool:
        return marks != self._seen or (self._retry_at is not None and self._now() >= self._retry_at)

    def _marks(self) -> tuple[object, ...]:
        return tuple(_mark(path) for path in self._paths)


def _mark(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _read(setting: str, path: Path) -> tuple[bytes, int]:
    """Give content and mode of one and the same file: the path may lead to another at any time."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_size > MAX_BYTES:
                raise TlsError(f"{setting}: {path} is larger than {MAX_BYTES} bytes: give a PEM file")
            return file.read(MAX_BYTES), stat.S_IMODE(found.st_mode)
    except OSError as error:
        raise TlsError(
            f"{setting}: {path} cannot be read ({error.strerror}): check path, owner and mode"
        ) from None


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return (
        *found.get_values_for_type(x509.DNSName),
        *(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )

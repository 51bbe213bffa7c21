"""Loading, validation and automatic reloading of the gRPC server's TLS certificate."""

import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from zoomgate_server import file_system

MAX_BYTES = 256 * 1024
"""Maximum size of a certificate or key file. A certificate chain usually takes a few thousand bytes."""

RETRY_SECONDS = 10.0
"""Delay before an unusable pair is read again although its files have not changed."""


class TlsError(Exception):
    """An error for an unusable certificate or key. The message names the setting and never contains the key."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate chain, which starts with the server's own certificate, and its private key, both in PEM format."""

    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    names: tuple[str, ...]
    not_after: datetime


def load(
    cert_path: Path, key_path: Path, names: Mapping[str, str], now: datetime | None = None
) -> CertificatePair:
    """Read and validate a certificate and its key.

    Args:
        names: How the operator knows the settings `tls_cert` and `tls_key`, for errors.

    Raises:
        TlsError: A file cannot be read or parsed; the key does not match the certificate, is accessible to all users or has a passphrase;
            or the certificate is expired or not valid yet.
    """
    chain, _ = _read(names["tls_cert"], cert_path)
    key, key_mode = _read(names["tls_key"], key_path)
    if key_mode & 0o007:
        raise TlsError(f"{names['tls_key']}: {key_path} is accessible to all users; run chmod o-rwx on it")
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise TlsError(
            f"{names['tls_cert']}: {cert_path} contains no PEM certificate; specify a chain that starts with the server's certificate"
        ) from None
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise TlsError(
            f"{names['tls_key']}: {key_path} has a passphrase; specify a key without a passphrase"
        ) from None
    except Exception:  # noqa: BLE001 - the library raises many types, and their texts could quote the file
        raise TlsError(f"{names['tls_key']}: {key_path} contains no PEM private key") from None
    if _public(private.public_key()) != _public(certificate.public_key()):
        raise TlsError(
            f"{names['tls_key']}: {key_path} is not the key of {cert_path}; specify a matching certificate and key"
        )
    now_utc = now or datetime.now(UTC)
    if now_utc >= certificate.not_valid_after_utc:
        raise TlsError(
            f"{names['tls_cert']}: {cert_path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew the certificate"
        )
    if now_utc < certificate.not_valid_before_utc:
        raise TlsError(
            f"{names['tls_cert']}: {cert_path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; check the clock"
        )
    return CertificatePair(key, chain, _names(certificate), certificate.not_valid_after_utc)


class ReloadingCertificate:
    """A certificate and key that are reloaded when their files change. Thread-safe, and fast enough to be used on every handshake.

    If a changed pair is unusable, the previous pair remains in use, because the two files are often written one after the other.
    An unusable pair with unchanged files is read again after `RETRY_SECONDS`, since it may have become valid or readable.

    Args:
        on_change: Called with None after a new pair was loaded, or with the reason why the pair is unusable. A reason is reported once per
            change of the files.

    Raises:
        TlsError: The initial pair cannot be used.
    """

    def __init__(
        self,
        cert_path: Path,
        key_path: Path,
        names: Mapping[str, str],
        on_change: Callable[[str | None], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._paths = (cert_path, key_path)
        self._names = names
        self._on_change = on_change
        self._now = now
        self._lock = threading.Lock()
        self._last_file_states = self._file_states()
        self._retry_at: datetime | None = None
        self._problem = ""
        self.current = self._presented = load(cert_path, key_path, names, now())

    def changed(self) -> CertificatePair | None:
        """Return the current pair if it was loaded after the previous call, or None if the previous pair remains in use."""
        file_states = self._file_states()
        if not self._is_due(file_states) and self._presented is self.current:
            return None
        with self._lock:
            if self._is_due(file_states):
                self._load(file_states)
            if self._presented is self.current:
                return None
            self._presented = self.current
            return self.current

    def reload(self) -> str:
        """Load the files now. Return the reason why they are unusable, or an empty string."""
        with self._lock:
            self._load(self._file_states())
            return self._problem

    def _load(self, file_states: tuple[object, ...]) -> None:
        now = self._now()
        try:
            pair = load(*self._paths, self._names, now)
        except TlsError as error:
            if file_states != self._last_file_states or str(error) != self._problem:
                self._on_change(str(error))
            self._problem, self._retry_at = str(error), now + timedelta(seconds=RETRY_SECONDS)
        else:
            self._problem, self._retry_at = "", None
            if pair != self.current:
                self.current = pair
                self._on_change(None)
        self._last_file_states = file_states

    def _is_due(self, file_states: tuple[object, ...]) -> bool:
        return file_states != self._last_file_states or (
            self._retry_at is not None and self._now() >= self._retry_at
        )

    def _file_states(self) -> tuple[object, ...]:
        return tuple(map(file_system.version, self._paths))


def _read(setting: str, path: Path) -> tuple[bytes, int]:
    """Return a file's content and mode. Both are read from the same file descriptor, since the path may be replaced at any time."""
    try:
        with file_system.open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_BYTES:
                raise TlsError(f"{setting}: {path} is larger than {MAX_BYTES} bytes; specify a PEM file")
            return file.read(MAX_BYTES), stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise TlsError(
            f"{setting}: {path} cannot be read ({error.strerror}); check its path, owner and permissions"
        ) from None


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )

"""Self-signed certificates for the tests."""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)


def write_pair(
    folder: Path, *, begins: int = -1, ends: int = 30, passphrase: bytes = b""
) -> tuple[Path, Path, bytes]:
    """Write a self-signed certificate for localhost and its key, and return their paths and the certificate.

    Args:
        folder: The directory for the files.
        begins: The start of the validity, in days from now.
        ends: The end of the validity, in days from now.
        passphrase: The passphrase of the key, or empty for none.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "zoomgate")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    paths = folder / "cert.pem", folder / "key.pem"
    replace_file(paths[0], pem)
    replace_file(paths[1], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return *paths, pem


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically, as certificate renewal tools do."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o600)
    os.replace(temporary, path)  # noqa: PTH105 - the explicit name of the operation

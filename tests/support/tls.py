"""A certificate authority of a test's own, and a nats-server with a certificate of it. Needs the program `openssl`."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from callboard.bus.embedded import HOST, EmbeddedNats
from callboard.bus.server import give

if TYPE_CHECKING:
    from pathlib import Path

    from callboard.bus.child import Account

_EXTENSIONS = f"""
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:{HOST}
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into `directory`, valid for two days."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "openssl.cnf").write_text(_EXTENSIONS)
        self._own = self._issue("authority")
        self.ca = self._own.certificate
        self.server = self._issue("server", by=self._own)
        self.client = self._issue("client", by=self._own)

    def _issue(self, name: str, *, by: Certificate | None = None) -> Certificate:
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        issuer: list[str | Path] = [] if by is None else ["-CA", by.certificate, "-CAkey", by.key]
        subprocess.run(
            [  # noqa: S607 - wherever the machine has it
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
                "-config", self._directory / "openssl.cnf", "-extensions", name, "-subj", f"/CN=test {name}",
                "-days", "2", "-keyout", made.key, "-out", made.certificate, *issuer,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        return made


class TlsNats(EmbeddedNats):
    """A nats-server with a certificate of `authority`.

    Args:
        token: what clients must present.
        optional: whether it also takes clients that do not encrypt.
        verify: whether clients must show a certificate of the authority, too.
    """

    def __init__(
        self, directory: Path, authority: Authority, *, token: str, optional: bool = False, verify: bool = False
    ) -> None:
        super().__init__(directory, token=token, jetstream=False)
        self._authority = authority
        self._more = {"allow_non_tls": optional}
        self._verify = verify

    def _write_configuration(self, account: Account | None) -> None:
        super()._write_configuration(account)
        pair = self._authority.server
        for name, source in (
            ("server.pem", pair.certificate),
            ("server.key", pair.key),
            ("ca.pem", self._authority.ca),
        ):
            (self.data / name).write_bytes(source.read_bytes())
            give(self.data / name, account)
        tls = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem", "verify": self._verify}
        file = self.data / "nats.conf"
        file.write_text(json.dumps(json.loads(file.read_bytes()) | {"tls": tls} | self._more))

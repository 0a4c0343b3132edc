"""The command line's side of `Admin`: a bundle directory, a channel, and errors a person can act on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from distillnet.cloud.fleet.errors import FleetError
from distillnet.cloud.fleet.files import write_private
from distillnet.cloud.fleet.pki import key_pem, request_for
from distillnet.proto.archive import digest
from distillnet.proto.v1 import admin_pb2, admin_pb2_grpc

_PIECE_BYTES = 256 << 10


@dataclass(frozen=True)
class Access:
    """Where the service is, and how to be let in."""

    address: str
    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes

    @classmethod
    def read(cls, bundle: Path, server: str | None = None) -> "Access":
        """Read a bundle directory (`ca.pem`, `cert.pem`, `key.pem`, `server.json`); `server` overrides the address.

        Raises:
            FleetError: there is none, or it is not whole.

        """
        try:
            address = server or str(json.loads((bundle / "server.json").read_text())["address"])
            files = [(bundle / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")]
        except (OSError, ValueError, KeyError) as exc:
            raise FleetError(
                f"{bundle}: is no access bundle ({exc}): start `distillnet serve --data DIR` and give --data DIR here, "
                "or --admin with a bundle made by `distillnet access grant`"
            ) from exc
        return cls(address, *files)


@contextmanager
def admin(access: Access) -> Iterator[Any]:
    """Open an `Admin` stub; gRPC errors become `FleetError` with the service's own message.

    Raises:
        FleetError: the service is away or refuses.

    """
    credentials = grpc.ssl_channel_credentials(access.ca_pem, access.key_pem, access.certificate_pem)
    try:
        with grpc.secure_channel(access.address, credentials) as channel:
            yield admin_pb2_grpc.AdminStub(channel)
    except grpc.RpcError as exc:
        if exc.code() == grpc.StatusCode.UNAVAILABLE:
            raise FleetError(
                f"{access.address}: the service does not answer, or does not accept this certificate: {exc.details()}"
            ) from exc
        raise FleetError(f"{access.address}: {exc.details()} ({exc.code().name})") from exc


def grant(access: Access, name: str, role: str, out: Path, days: float) -> None:
    """Make a key here, have it signed for `name`, and write the bundle directory `out`.

    Raises:
        FleetError: refused, or `out` holds a bundle already.

    """
    if (out / "key.pem").exists():
        raise FleetError(f"{out}: holds a bundle already; choose another directory")
    key = ec.generate_private_key(ec.SECP256R1())
    request = admin_pb2.GrantAccessRequest(name=name, role=role, csr_pem=request_for(key), ttl_s=days * 86400.0)
    with admin(access) as stub:
        response = stub.GrantAccess(request, timeout=30.0)
    write_private(out / "key.pem", key_pem(key))
    write_private(out / "cert.pem", response.certificate_pem)
    write_private(out / "ca.pem", response.ca_pem)
    write_private(out / "server.json", json.dumps({"address": access.address, "name": name}).encode())


def upload(application: str, data: bytes, *, hold: bool = False) -> Iterator[admin_pb2.PublishRequest]:
    """Cut a student into the messages of `Admin.Publish`."""
    header = admin_pb2.PublishHeader(application=application, size_bytes=len(data), digest=digest(data), hold=hold)
    yield admin_pb2.PublishRequest(header=header)
    for start in range(0, len(data), _PIECE_BYTES):
        yield admin_pb2.PublishRequest(data=data[start : start + _PIECE_BYTES])

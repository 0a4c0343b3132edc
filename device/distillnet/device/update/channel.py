"""gRPC channels: mutually authenticated to the fleet, and pinned by a fingerprint for the first call ever."""

import contextlib
import hashlib
import socket
import ssl
from typing import Any

import grpc

from distillnet.device.update.errors import TransientError, UpdateError
from distillnet.device.update.identity import DeviceIdentity
from distillnet.device.update.keys import channel_credentials
from distillnet.proto.identity import EnrollmentToken

MAX_MESSAGE_BYTES = 1 << 20
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 15_000),  # the time a handshake may take, not a delay
    ("grpc.max_reconnect_backoff_ms", 30_000),
    # What the transport reads ahead is lost when the line breaks: little of it, and never grown.
    ("grpc.http2.lookahead_bytes", 32 << 10),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6
_MAX_PUSHBACK_S = 3600.0
_PEM_HEADER = "-----BEGIN CERTIFICATE-----"


def fleet_channel(identity: DeviceIdentity, address: str = "") -> grpc.Channel:
    """Open a channel to the fleet with the board's certificate; `address` overrides the enrolled one."""
    credentials = channel_credentials(identity.key_place, identity.key_pem, identity.certificate_pem, identity.ca_pem)
    return grpc.secure_channel(address or identity.fleet_address, credentials, options=_OPTIONS)


def pinned_channel(address: str, token: EnrollmentToken, timeout_s: float) -> grpc.Channel:
    """Open a channel that trusts only the CA named by the token.

    Raises:
        TransientError: the server does not answer.
        UpdateError: it shows another CA, or the address is wrong.

    """
    authority = pinned_authority(address, token, timeout_s)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates=authority), options=_OPTIONS)


def pinned_authority(address: str, token: EnrollmentToken, timeout_s: float) -> bytes:
    """Fetch the server's chain unverified and return, as PEM, the one certificate the token vouches for."""
    host, port = split_address(address)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            chain = _chain(secure)
    except OSError as exc:
        raise TransientError(f"{address}: no TLS server answers: {exc}") from exc
    for certificate in chain:
        if hashlib.sha256(certificate).digest() == token.ca_sha256:
            return ssl.DER_cert_to_PEM_cert(certificate).encode()
    raise UpdateError(
        f"{address}: is not the server this token is for: none of its {len(chain)} certificates is the CA the token "
        "names. Check the address; if it is right, somebody is in between."
    )


def split_address(address: str) -> tuple[str, int]:
    """Take `host:port` or `[v6]:port` apart.

    Raises:
        UpdateError: it is neither.

    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UpdateError(f"{address!r} is no address: expected HOST:PORT")
    return host.strip("[]"), int(port)


def reason_of(error: grpc.RpcError) -> str:
    """Return what a failed call says, in one line."""
    code: Any = None
    details = ""
    with contextlib.suppress(AttributeError):
        code, details = error.code(), error.details() or ""
    name = code.name.lower().replace("_", "-") if code is not None else type(error).__name__
    return f"{name}: {details}" if details else name


def pushback_s(error: grpc.RpcError) -> float | None:
    """Return how many seconds a server that ended a call asks to be left alone, an hour at most; None = it does not."""
    trailing: Any = ()
    with contextlib.suppress(AttributeError):
        trailing = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == _PUSHBACK and str(value).isdecimal():
            return min(int(value) / 1e3, _MAX_PUSHBACK_S) or None
    return None


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    if hasattr(secure, "get_unverified_chain"):  # Python 3.13
        return [bytes(certificate) for certificate in secure.get_unverified_chain()]
    inner: Any = secure._sslobj  # type: ignore[attr-defined]
    return [
        ssl.PEM_cert_to_DER_cert(pem[pem.index(_PEM_HEADER) :])
        for pem in (certificate.public_bytes() for certificate in inner.get_unverified_chain())
    ]

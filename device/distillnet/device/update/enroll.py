"""Enrolment and renewal: a one-time token and a key made here become a certificate."""

import logging
from dataclasses import replace
from pathlib import Path

import grpc
from cryptography import x509
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from distillnet.device.update.channel import pinned_channel, reason_of, split_address
from distillnet.device.update.errors import TransientError, UpdateError
from distillnet.device.update.files import Files
from distillnet.device.update.identity import (
    DeviceIdentity,
    certificate_request,
    check_pair,
    key_pem,
    new_key,
    pending_key,
    readable_pem,
    save_identity,
)
from distillnet.device.update.keys import IN_FILE, check_place, load_key
from distillnet.proto.identity import EnrollmentToken, Identity, IdentityError
from distillnet.proto.v1 import enrollment_pb2, enrollment_pb2_grpc

log = logging.getLogger(__name__)

_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def enroll(
    state_dir: Path,
    server: str,
    token_text: str,
    *,
    device: str = "",
    key_place: str = IN_FILE,
    capabilities: enrollment_pb2.Capabilities | None = None,
    timeout_s: float = 20.0,
    files: Files | None = None,
) -> DeviceIdentity:
    """Enrol this board and keep its identity under `state_dir`; `key_place` is as in `keys.py`.

    Raises:
        TransientError: the server does not answer; try again with the same token.
        UpdateError: the token, the server's CA or the answer is not acceptable.

    """
    try:
        token = EnrollmentToken.decode(token_text)
    except IdentityError as exc:
        raise UpdateError(str(exc)) from exc
    check_place(key_place)
    key = pending_key(state_dir, files) if key_place == IN_FILE else load_key(key_place, make=True)
    request = enrollment_pb2.EnrollRequest(
        token=token_text.strip(),
        csr_pem=certificate_request(key, device),
        device=device,
        capabilities=capabilities,
    )
    with pinned_channel(server, token, timeout_s) as channel:
        try:
            answer = enrollment_pb2_grpc.EnrollmentStub(channel).Enroll(request, timeout=timeout_s)
        except grpc.RpcError as exc:
            text = f"{server}: enrolment was refused: {reason_of(exc)}"
            raise (TransientError(text) if exc.code() in _RETRYABLE else UpdateError(text)) from exc
    if answer is None:  # gRPC's word for an answer that is no message of this type
        raise UpdateError(f"{server}: the answer is not readable")
    check_pair(key, answer.certificate_pem)
    _check_trust(server, answer)
    identity = DeviceIdentity(
        device=answer.device,
        key_pem=key_pem(key) if key_place == IN_FILE else readable_pem(key_place),
        certificate_pem=answer.certificate_pem,
        ca_pem=answer.ca_pem,
        tuf_root=answer.tuf_root,
        fleet_address=answer.fleet_address,
        key_place=key_place,
    )
    save_identity(state_dir, identity, files)
    return identity


def renew(
    state_dir: Path,
    identity: DeviceIdentity,
    channel: grpc.Channel,
    *,
    timeout_s: float = 20.0,
    files: Files | None = None,
) -> DeviceIdentity:
    """Exchange the certificate for a new one over the channel the old one opened, and the key where it is in our file.

    Raises:
        TransientError: it did not work; the old certificate stays in use.
        UpdateError: the answer is not acceptable.

    """
    kept = identity.key_place != IN_FILE
    key = load_key(identity.key_place) if kept else new_key()
    request = enrollment_pb2.RenewRequest(csr_pem=certificate_request(key, identity.device))
    try:
        answer = enrollment_pb2_grpc.RenewalStub(channel).Renew(request, timeout=timeout_s)
    except grpc.RpcError as exc:
        raise TransientError(f"the certificate could not be renewed: {reason_of(exc)}") from exc
    if answer is None:
        raise TransientError("the certificate could not be renewed: the answer is not readable")
    check_pair(key, answer.certificate_pem)
    fresh = replace(
        identity,
        key_pem=identity.key_pem if kept else key_pem(key),
        certificate_pem=answer.certificate_pem,
        ca_pem=answer.ca_pem or identity.ca_pem,
    )
    save_identity(state_dir, fresh, files)
    log.info("certificate renewed; valid until %s", fresh.valid_until.isoformat())
    return fresh


def _check_trust(server: str, answer: enrollment_pb2.EnrollResponse) -> None:
    """See at once, not at the first update, that what this board is to trust can be used."""
    try:
        x509.load_pem_x509_certificate(answer.ca_pem)
        root = Metadata[Root].from_bytes(answer.tuf_root)
        root.verify_delegate("root", root)
        split_address(answer.fleet_address)
        Identity.parse(f"distillnet://device/{answer.device}")
    except (ValueError, RepositoryError, DeserializationError, UpdateError) as exc:
        raise UpdateError(f"{server}: the answer lacks a usable CA, trust root, address or device id: {exc}") from exc

"""Who may call what: every method × every kind of caller, over real TLS."""

import subprocess
import sys
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from distillnet.cloud.fleet import client
from distillnet.cloud.fleet.authorise import PERMISSIONS
from distillnet.cloud.fleet.client import Access
from distillnet.cloud.fleet.pki import Authority, request_for
from distillnet.proto.identity import EnrollmentToken, Identity, IdentityError
from distillnet.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifacts_pb2,
    artifacts_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
)

pytestmark = pytest.mark.integration
Code = grpc.StatusCode

# What a caller that is let in gets for a request with nothing in it: OK (None), or a refusal of the content.
CALLS = {
    "Fleet/Connect": (lambda c: list(_connect(c)), None),
    "Renewal/Renew": (
        lambda c: enrollment_pb2_grpc.RenewalStub(c).Renew(enrollment_pb2.RenewRequest(), timeout=9),
        Code.INVALID_ARGUMENT,
    ),
    "Feedback/SendExample": (
        lambda c: feedback_pb2_grpc.FeedbackStub(c).SendExample(feedback_pb2.Example(), timeout=9),
        Code.INVALID_ARGUMENT,
    ),
    "Feedback/SendProfile": (
        lambda c: feedback_pb2_grpc.FeedbackStub(c).SendProfile(feedback_pb2.SendProfileRequest(), timeout=9),
        Code.INVALID_ARGUMENT,
    ),
    "Artifacts/Fetch": (
        lambda c: list(
            artifacts_pb2_grpc.ArtifactsStub(c).Fetch(
                artifacts_pb2.FetchRequest(path="metadata/timestamp.json"), timeout=9
            )
        ),
        None,
    ),
    "Admin/Publish": (lambda c: _admin(c).Publish(iter([]), timeout=9), Code.INVALID_ARGUMENT),
    "Admin/CreateToken": (lambda c: _admin(c).CreateToken(admin_pb2.CreateTokenRequest(), timeout=9), None),
    "Admin/ListDevices": (lambda c: _admin(c).ListDevices(admin_pb2.ListDevicesRequest(), timeout=9), None),
    "Admin/ListModels": (lambda c: _admin(c).ListModels(admin_pb2.ListModelsRequest(), timeout=9), None),
    "Admin/RevokeDevice": (
        lambda c: _admin(c).RevokeDevice(admin_pb2.RevokeDeviceRequest(device="nobody"), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/RollbackDevices": (
        lambda c: _admin(c).RollbackDevices(admin_pb2.RollbackDevicesRequest(application="none"), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/TagDevices": (
        lambda c: _admin(c).TagDevices(admin_pb2.TagDevicesRequest(devices=["nobody"], add=["x"]), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/StartRollout": (
        lambda c: _admin(c).StartRollout(admin_pb2.StartRolloutRequest(application="none"), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/ListRollouts": (lambda c: _admin(c).ListRollouts(admin_pb2.ListRolloutsRequest(), timeout=9), None),
    "Admin/SteerRollout": (
        lambda c: _admin(c).SteerRollout(admin_pb2.SteerRolloutRequest(id=99, action="ACTION_PAUSE"), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/ListEvents": (lambda c: _admin(c).ListEvents(admin_pb2.ListEventsRequest(), timeout=9), None),
    "Admin/ListTelemetry": (lambda c: _admin(c).ListTelemetry(admin_pb2.ListTelemetryRequest(), timeout=9), None),
    "Admin/OpenDashboard": (
        lambda c: _admin(c).OpenDashboard(admin_pb2.OpenDashboardRequest(), timeout=9),
        Code.FAILED_PRECONDITION,  # it is off here
    ),
    "Admin/GrantAccess": (
        lambda c: _admin(c).GrantAccess(admin_pb2.GrantAccessRequest(name="x", role="viewer"), timeout=9),
        Code.INVALID_ARGUMENT,
    ),
    "Admin/RevokeAccess": (
        lambda c: _admin(c).RevokeAccess(admin_pb2.RevokeAccessRequest(name="nobody"), timeout=9),
        Code.NOT_FOUND,
    ),
    "Admin/SubmitDistillation": (
        lambda c: _admin(c).SubmitDistillation(admin_pb2.SubmitDistillationRequest(), timeout=9),
        Code.INVALID_ARGUMENT,
    ),
    "Admin/ListJobs": (lambda c: _admin(c).ListJobs(admin_pb2.ListJobsRequest(), timeout=9), None),
    "Admin/WatchJob": (lambda c: list(_admin(c).WatchJob(admin_pb2.WatchJobRequest(id=9), timeout=9)), Code.NOT_FOUND),
    "Admin/CancelJob": (lambda c: _admin(c).CancelJob(admin_pb2.CancelJobRequest(id=9), timeout=9), Code.NOT_FOUND),
    "Admin/FetchJobFile": (
        lambda c: list(_admin(c).FetchJobFile(admin_pb2.FetchJobFileRequest(id=9), timeout=9)),
        Code.NOT_FOUND,
    ),
    "Admin/CollectFeedback": (
        lambda c: list(_admin(c).CollectFeedback(admin_pb2.CollectFeedbackRequest(), timeout=9)),
        Code.INVALID_ARGUMENT,
    ),
}
ROLES = ("anonymous", "foreign", "impostor", "device", "viewer", "operator", "admin")


def _admin(channel):
    return admin_pb2_grpc.AdminStub(channel)


def _connect(channel):
    hello = fleet_pb2.DeviceMessage(hello=fleet_pb2.Hello())
    return fleet_pb2_grpc.FleetStub(channel).Connect(iter([hello]), timeout=9)


def _outcome(call, channel) -> grpc.StatusCode | None:
    try:
        call(channel)
    except grpc.RpcError as exc:
        return exc.code()
    return None


@pytest.fixture(scope="module")
def channels(server, board, tmp_path_factory):
    """A channel for each kind of caller."""
    scratch = tmp_path_factory.mktemp("callers")
    device, now = board(server, server.token(), "caller"), time.time()
    for role in ("viewer", "operator"):
        client.grant(server.access, f"some-{role}", role, scratch / role, 1.0)
    foreign, _ = Authority.open(scratch / "ca", now).issue_bundle(Identity("admin", "admin"), now, 1.0)
    # Signed by the true authority, but never issued by the service: a key that leaked from a backup, say.
    impostor, _ = Authority.open(server.data / "pki", now).issue_bundle(Identity("admin", "admin"), now, 1.0)
    opened = {
        "anonymous": grpc.secure_channel(server.address, grpc.ssl_channel_credentials(server.access.ca_pem)),
        "foreign": server.channel(Access("", server.access.ca_pem, foreign.certificate_pem, foreign.key_pem)),
        "impostor": server.channel(Access("", server.access.ca_pem, impostor.certificate_pem, impostor.key_pem)),
        "device": device.channel(),
        "viewer": server.channel(Access.read(scratch / "viewer")),
        "operator": server.channel(Access.read(scratch / "operator")),
        "admin": server.channel(),
    }
    yield opened
    for channel in opened.values():
        channel.close()


def test_every_method_of_the_contract_is_in_the_matrix():
    methods = {
        f"{service.name}/{method.name}"
        for file in (fleet_pb2, artifacts_pb2, admin_pb2, enrollment_pb2, feedback_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods - {"Enrollment/Enroll"} == set(CALLS)
    assert {f"/distillnet.v1.{name}" for name in CALLS} <= set(PERMISSIONS)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("role", ROLES)
def test_a_caller_gets_in_exactly_where_its_role_may(channels, role, method):
    call, inside = CALLS[method]
    got = _outcome(call, channels[role])
    if role in ("anonymous", "foreign"):
        assert got == Code.UNAVAILABLE  # TLS ends it
    elif role == "impostor":
        assert got == Code.UNAUTHENTICATED
    elif role in PERMISSIONS[f"/distillnet.v1.{method}"]:
        assert got == inside
    else:
        assert got == Code.PERMISSION_DENIED


def test_a_device_fetches_its_own_applications_only(server, board, tiny_student):
    server.publish(tiny_student("secret"), "secret")
    digest = server.admin().ListModels(admin_pb2.ListModelsRequest(application="secret")).models[0].digest
    path = f"targets/secret/1/{digest.removeprefix('sha256:')}.student.tflite"
    other = board(server, server.token(applications=["mine"]), "other")
    with pytest.raises(grpc.RpcError) as refused:
        other.fetch(path)
    assert refused.value.code() == Code.PERMISSION_DENIED
    mine = board(server, server.token(applications=["secret"]), "mine")
    assert len(mine.fetch(path)[0]) > 1000


def test_a_revoked_access_opens_nothing(server, tmp_path):
    client.grant(server.access, "leaver", "operator", tmp_path / "leaver", 1.0)
    access = Access.read(tmp_path / "leaver")
    with client.admin(access) as stub:
        stub.ListDevices(admin_pb2.ListDevicesRequest(), timeout=9)
    server.admin().RevokeAccess(admin_pb2.RevokeAccessRequest(name="leaver"))
    with pytest.raises(client.FleetError, match="revoked"), client.admin(access) as stub:
        stub.ListDevices(admin_pb2.ListDevicesRequest(), timeout=9)


def test_a_token_works_once(server, board):
    token = server.token()
    board(server, token, "once-1")
    with pytest.raises(grpc.RpcError, match="used") as refused:
        board(server, token, "once-2")
    assert refused.value.code() == Code.UNAUTHENTICATED
    assert "once-2" not in server.devices()


def test_a_board_that_lost_the_answer_may_ask_again_with_the_same_key(server):
    request = enrollment_pb2.EnrollRequest(
        token=server.token(), csr_pem=request_for(ec.generate_private_key(ec.SECP256R1()))
    )
    with grpc.secure_channel(server.enroll_address, grpc.ssl_channel_credentials(server.access.ca_pem)) as channel:
        stub = enrollment_pb2_grpc.EnrollmentStub(channel)
        first, second = (stub.Enroll(request, timeout=9) for _ in range(2))
    assert first.device == second.device and first.certificate_pem != second.certificate_pem


def test_a_token_for_one_device_is_not_spent_by_another(server, board):
    token = server.token(device="right-1")
    with pytest.raises(grpc.RpcError, match="right-1"):
        board(server, token, "wrong-1")
    assert board(server, token, "right-1").device == "right-1"


def test_a_taken_name_needs_a_token_made_for_it(server, board):
    old = board(server, server.token(), "taken-1")
    with pytest.raises(grpc.RpcError) as refused:
        board(server, server.token(), "taken-1")
    assert refused.value.code() == Code.ALREADY_EXISTS
    new = board(server, server.token(device="taken-1"), "taken-1")
    assert new.fetch("metadata/timestamp.json")[0]
    with pytest.raises(grpc.RpcError, match="revoked"):
        old.fetch("metadata/timestamp.json")


def test_a_device_without_a_wish_gets_a_name(server, board):
    assert board(server, server.token()).device.startswith("device-")


@pytest.mark.parametrize("spoil", ["expired", "unknown", "foreign", "garbled", "csr", "rsa", "name"])
def test_a_bad_enrolment_is_refused_and_spends_nothing(server, board, spoil):
    token = server.token(ttl_s=0.001 if spoil == "expired" else 60.0)
    decoded = EnrollmentToken.decode(token)
    csr, device, sent = None, "spoilt-1", token
    if spoil == "unknown":
        sent = EnrollmentToken(decoded.ca_sha256, b"x" * 24).encode()
    elif spoil in ("foreign", "garbled"):
        sent = EnrollmentToken(b"x" * 32, decoded.secret).encode() if spoil == "foreign" else token[:-6]
    elif spoil == "csr":
        csr = b"-----BEGIN CERTIFICATE REQUEST-----"
    elif spoil == "rsa":
        csr = request_for(rsa.generate_private_key(65537, 2048))
    elif spoil == "name":
        device = "../../etc"
    request = enrollment_pb2.EnrollRequest(
        token=sent, csr_pem=csr or request_for(ec.generate_private_key(ec.SECP256R1())), device=device
    )
    channel = grpc.secure_channel(server.enroll_address, grpc.ssl_channel_credentials(server.access.ca_pem))
    with channel, pytest.raises(grpc.RpcError) as refused:
        enrollment_pb2_grpc.EnrollmentStub(channel).Enroll(request, timeout=9)
    wanted = Code.INVALID_ARGUMENT if spoil in ("csr", "rsa", "name") else Code.UNAUTHENTICATED
    assert refused.value.code() == wanted, refused.value.details()
    if spoil != "expired":
        assert board(server, token, f"spoilt-{spoil}").device


def test_an_address_that_keeps_failing_has_to_wait(serve, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("[fleet]\nenroll_failures_per_minute = 3\n")
    running = serve("--config", str(config))
    with grpc.secure_channel(running.enroll_address, grpc.ssl_channel_credentials(running.access.ca_pem)) as channel:
        stub = enrollment_pb2_grpc.EnrollmentStub(channel)
        request = enrollment_pb2.EnrollRequest(token="x", csr_pem=request_for(ec.generate_private_key(ec.SECP256R1())))
        codes = [_outcome(lambda _: stub.Enroll(request, timeout=9), channel) for _ in range(4)]
        assert codes == [Code.UNAUTHENTICATED] * 3 + [Code.RESOURCE_EXHAUSTED]
        with pytest.raises(grpc.RpcError) as refused:
            stub.Enroll(request, timeout=9)
    assert ("grpc-retry-pushback-ms", "60000") in tuple(refused.value.trailing_metadata())


def test_a_renewed_certificate_is_the_same_device(server, board):
    device = board(server, server.token(), "renew-1")
    key = ec.generate_private_key(ec.SECP256R1())
    with device.channel() as channel:
        request = enrollment_pb2.RenewRequest(csr_pem=request_for(key))
        renewed = enrollment_pb2_grpc.RenewalStub(channel).Renew(request, timeout=9)
    device.access = Access("", renewed.ca_pem, renewed.certificate_pem, client.key_pem(key))
    with device.connect() as stream:
        assert stream.welcome.device == "renew-1"


def test_identities_and_tokens_read_back_and_refuse_anything_else():
    assert Identity.parse(Identity("device", "porch").uri) == Identity("device", "porch")
    for uri in ("distillnet://root/x", "distillnet://device/", "distillnet://device/a/b", "http://device/x", ""):
        with pytest.raises(IdentityError):
            Identity.parse(uri)
    token = EnrollmentToken(b"c" * 32, b"s" * 24)
    assert EnrollmentToken.decode(f" {token.encode()}\n") == token
    for text in ("", "dn1_", token.encode()[4:], token.encode() + "AAAA", "dn1_é"):
        with pytest.raises(IdentityError):
            EnrollmentToken.decode(text)


def test_commands_say_what_is_wrong(server, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from distillnet.device.cli import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    away = run("devices", "--admin", str(server.data / "admin"), "--server", "127.0.0.1:1")
    assert away.returncode == 2 and "does not answer" in away.stderr
    nowhere = run("devices", "--data", str(tmp_path))
    assert nowhere.returncode == 2 and "no access bundle" in nowhere.stderr
    refused = run("revoke", "nobody", "--data", str(server.data))
    assert refused.returncode == 2 and "no device 'nobody'" in refused.stderr

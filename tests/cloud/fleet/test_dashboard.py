"""The dashboard over real TLS: sign-in, roles, what the pages show, and what they never let through."""

import http.client
import re
import ssl
import time
import urllib.parse

import pytest

from distillnet.cloud.fleet import client, metrics
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.web import charts, sessions
from distillnet.proto.card import Latency, Metric
from distillnet.proto.identity import Identity
from distillnet.proto.v1 import admin_pb2, fleet_pb2


def test_a_code_signs_in_once_and_a_cookie_ends(database: Database):
    ann = Identity("operator", "ann")
    code = database.write_now(lambda session: sessions.make_code(session, ann, 0.0))
    cookie = database.write_now(lambda session: sessions.sign_in(session, code, 1.0))
    assert database.write_now(lambda session: sessions.sign_in(session, code, 2.0)) is None
    assert database.read_now(lambda session: sessions.find(session, cookie, 3.0)).identity == ann
    assert database.read_now(lambda session: sessions.find(session, code, 3.0)) is None
    assert database.read_now(lambda session: sessions.find(session, cookie, 13 * 3600.0)) is None
    database.write_now(lambda session: sessions.forget(session, "ann"))
    assert database.read_now(lambda session: sessions.find(session, cookie, 3.0)) is None


def test_a_chart_is_drawn_from_two_points_on():
    assert charts.lines({"p99": []}, "ms") == "" == charts.lines({"p99": [(1.0, 1.0)]}, "ms")
    drawn = charts.lines({"p99": [(0.0, 0.0), (60.0, 3.2)]}, "ms")
    assert "<polyline" in drawn and ">5 ms<" in drawn


def test_the_pareto_front_is_what_nothing_beats():
    points = [(1.0, 0.8, "a"), (2.0, 0.7, "b"), (2.0, 0.9, "c"), (0.5, 0.5, "<d>")]
    assert [name for _, _, name in charts.pareto(points)] == ["<d>", "a", "c"]
    drawn = charts.front(points, "ms", "accuracy")
    assert drawn.count('class="best"') == 3 and drawn.count('class="other"') == 1 and "&lt;d&gt;" in drawn
    assert charts.front(points[:1], "ms", "accuracy") == ""


def test_metrics_text_escapes_labels():
    text = metrics.render({"a": ("gauge", "b", {(("x", 'q"\n\\'),): 1.5})})
    assert text == '# HELP a b\n# TYPE a gauge\na{x="q\\"\\n\\\\"} 1.5\n'


def good(value: float) -> list[Metric]:
    low, high = value - 0.03, value + 0.03
    return [Metric(name="agreement", value=value, ci_low=low, ci_high=high, dataset="own", split="test", n=412)]


def latency(ms: float) -> list[Latency]:
    return [Latency(board="x86-64", ms=ms, threads=1, engine="native", how="measured")]


class Browser:
    """Keeps one cookie."""

    def __init__(self, server) -> None:
        self.port, self.cookie = server.ready["web_port"], ""
        self._tls = ssl.create_default_context(cadata=server.access.ca_pem.decode())

    def request(self, method: str, path: str, **form: str) -> tuple[int, str]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls, timeout=10)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, urllib.parse.urlencode(form), headers)
        response = connection.getresponse()
        if (given := response.getheader("Set-Cookie")) is not None:
            assert "HttpOnly" in given and "Secure" in given and "SameSite=Strict" in given
            self.cookie = given.partition(";")[0]
        self.headers = response.headers
        text = response.read().decode()
        connection.close()
        return response.status, text

    def get(self, path: str) -> tuple[int, str]:
        return self.request("GET", path)

    def sign_in(self, stub) -> tuple[int, str]:
        url = stub.OpenDashboard(admin_pb2.OpenDashboardRequest(), timeout=10).url
        path = url.partition(str(self.port))[2]
        assert self.get(path)[0] == 200  # looking at the link does not spend it
        return self.request("POST", "/login", code=path.partition("code=")[2])


@pytest.fixture
def running(serve):
    return serve("--web-port", "0")


@pytest.mark.integration
def test_nothing_is_shown_without_signing_in(running):
    browser = Browser(running)
    for path in ("/", "/events", "/models", "/rollouts", "/devices/x"):
        status, text = browser.get(path)
        assert status == 401 and "distillnet dashboard" in text
    assert browser.request("POST", "/rollouts/1/abort")[0] == 401
    assert browser.request("POST", "/login", code="guess")[0] == 401
    assert "default-src 'none'" in browser.headers["Content-Security-Policy"]


@pytest.mark.integration
def test_pages_show_the_fleet_and_an_operator_steers_a_rollout(running, board, tiny_student, tmp_path):
    device = board(running, running.token(applications=["pets"]), "porch")
    with device.connect("pets") as stream:
        running.publish(tiny_student(metrics=good(0.81), latency=latency(0.9)))
        stream.report(stream.receive().directive, fleet_pb2.UPDATE_PHASE_REFUSED, "<script>alert(1)</script>")
        running.publish(tiny_student(seed=1, metrics=good(0.86), latency=latency(1.4)), hold=True)
        plan = admin_pb2.RolloutPlan(soak_s=1000, max_failure_share=1)
        running.admin().StartRollout(admin_pb2.StartRolloutRequest(application="pets", plan=plan))
        stream.receive()

        operator, viewer = Browser(running), Browser(running)
        for browser, role in ((operator, "operator"), (viewer, "viewer")):
            client.grant(running.access, f"some-{role}", role, tmp_path / role, 1.0)
            with client.admin(client.Access.read(tmp_path / role)) as stub:
                assert browser.sign_in(stub)[0] == 303
        until(lambda: "refused" in operator.get("/")[1])
        text = operator.get("/")[1]
        assert "porch" in text and "connected" in text
        assert "<script>" not in text and "&lt;script&gt;" in text
        text = operator.get("/models")[1]
        assert "pets" in text and "agreement 0.810 [0.780–0.840], n = 412" in text and "version 2</text>" in text
        assert "No telemetry yet" in operator.get("/devices/porch")[1]
        assert operator.get("/devices/nobody")[0] == 404

        text = operator.get("/rollouts")[1]
        form_token = re.search(
            r'action="/rollouts/1/pause"><input type="hidden" name="form_token" value="(\w+)"', text
        )[1]
        assert "Pause" not in viewer.get("/rollouts")[1]
        own = re.search(r'name="form_token" value="(\w+)"', viewer.get("/rollouts")[1])[1]
        assert viewer.request("POST", "/rollouts/1/pause", form_token=own)[0] == 403
        assert operator.request("POST", "/rollouts/1/pause", form_token=own)[0] == 403
        assert operator.request("POST", "/rollouts/1/pause", form_token=form_token)[0] == 303
        assert "Resume" in operator.get("/rollouts")[1]
        assert operator.request("POST", "/rollouts/1/pause", form_token=form_token)[0] == 409

    running.admin().RevokeAccess(admin_pb2.RevokeAccessRequest(name="some-viewer"))
    assert viewer.get("/")[0] == 401
    assert operator.request("POST", "/logout", form_token=form_token)[0] == 303
    assert operator.get("/")[0] == 401


@pytest.mark.integration
def test_metrics_count_devices_streams_and_calls(running, board):
    device = board(running, running.token(applications=["pets"]), "porch")
    with device.connect("pets"):
        browser = Browser(running)
        until(lambda: "distillnet_streams 1" in browser.get("/metrics")[1])
        text = browser.get("/metrics")[1]
    assert "distillnet_devices 1" in text and "distillnet_devices_connected 1" in text
    assert 'distillnet_calls_total{method="/distillnet.v1.Admin/CreateToken",status="OK"} 1' in text


def until(check, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)

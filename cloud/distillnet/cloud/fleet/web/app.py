"""The dashboard's routes. Every page needs a sign-in; every change also a role and the page's own form token."""

import datetime
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web
from sqlalchemy.orm import Session

from distillnet.cloud.fleet import inventory, metrics, models, rollouts, telemetry
from distillnet.cloud.fleet.authorise import OPERATE
from distillnet.cloud.fleet.calls import Calls
from distillnet.cloud.fleet.database import Database
from distillnet.cloud.fleet.devices import phase_name
from distillnet.cloud.fleet.errors import RefusedError
from distillnet.cloud.fleet.hub import Hub
from distillnet.cloud.fleet.intake import Intake
from distillnet.cloud.fleet.web import catalogue, charts, sessions
from distillnet.proto.v1 import admin_pb2

log = logging.getLogger(__name__)

_COOKIE = "distillnet"
_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_ACTIONS = {
    "pause": admin_pb2.SteerRolloutRequest.ACTION_PAUSE,
    "resume": admin_pb2.SteerRolloutRequest.ACTION_RESUME,
    "abort": admin_pb2.SteerRolloutRequest.ACTION_ABORT,
    "roll-back": admin_pb2.SteerRolloutRequest.ACTION_ROLL_BACK,
}
_DAY_S = 86400.0


@dataclass(frozen=True)
class Sources:
    """What the pages are made of."""

    database: Database
    hub: Hub
    calls: Calls
    intake: Intake | None
    clock: Callable[[], float]

    @property
    def alive_since(self) -> float:
        """A device heard since then counts as connected."""
        return self.clock() - 3 * self.hub.heartbeat_s - 5.0


class Dashboard:
    """Serves the pages in the service's own event loop."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        self._pages.filters |= {"moment": _moment, "ago": self._ago}
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext) -> int:
        """Listen; returns the port.

        Raises:
            OSError: it cannot be opened.

        """
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 10)
        app.add_routes(
            [
                web.get("/login", self._login_page),
                web.post("/login", self._login),
                web.post("/logout", self._logout),
                web.get("/metrics", self._metrics),
                web.get("/style.css", self._style),
                web.get("/", self._fleet),
                web.get("/devices/{device}", self._device),
                web.get("/events", self._events),
                web.get("/models", self._models),
                web.get("/rollouts", self._rollouts),
                web.post("/rollouts/{rollout}/{action}", self._steer),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=tls)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let only the signed-in in, and turn errors into pages."""
        cookie, now = request.cookies.get(_COOKIE, ""), self._from.clock()
        visitor = await self._from.database.read(lambda session: sessions.find(session, cookie, now))
        request["visitor"] = visitor
        try:
            if visitor is None and request.path not in ("/login", "/style.css", "/metrics"):
                response: web.StreamResponse = self._page("sign_in.html", request, status=401)
            else:
                response = await handler(request)
        except RefusedError as exc:
            response = self._page("refused.html", request, status=409, why=str(exc))
        except web.HTTPRedirection as exc:
            response = exc
        except web.HTTPException as exc:
            response = self._page("refused.html", request, status=exc.status, why=exc.reason)
        response.headers.update(_HEADERS)
        return response

    async def _login_page(self, request: web.Request) -> web.Response:
        # A form, not a redirect: programs that fetch links in messages must not spend the code.
        return self._page("login.html", request, code=request.query.get("code", ""))

    async def _login(self, request: web.Request) -> web.Response:
        code, now = str((await request.post()).get("code", "")), self._from.clock()
        cookie = await self._from.database.write(lambda session: sessions.sign_in(session, code, now))
        if cookie is None:
            raise web.HTTPUnauthorized(reason="this link has been used or is too old: make a new one")
        answer = web.HTTPSeeOther("/")
        age = int(sessions.COOKIE_S)
        answer.set_cookie(_COOKIE, cookie, max_age=age, httponly=True, secure=True, samesite="Strict", path="/")
        raise answer

    async def _logout(self, request: web.Request) -> web.Response:
        await self._check_form(request)
        cookie = request.cookies.get(_COOKIE, "")
        await self._from.database.write(lambda session: sessions.sign_out(session, cookie))
        raise web.HTTPSeeOther("/")

    async def _metrics(self, request: web.Request) -> web.Response:
        since = self._from.alive_since
        families = metrics.of_process(self._from.hub, self._from.calls, self._from.intake)
        families |= await self._from.database.read(lambda session: metrics.of_fleet(session, since))
        return web.Response(text=metrics.render(families), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _style(self, request: web.Request) -> web.Response:
        return web.Response(text=(_HERE / "style.css").read_text(), content_type="text/css")

    async def _fleet(self, request: web.Request) -> web.Response:
        since = self._from.alive_since
        devices = await self._from.database.read(lambda session: inventory.devices(session, since))
        return self._page("fleet.html", request, devices=devices, phase=phase_name)

    async def _device(self, request: web.Request) -> web.Response:
        name, since, now = request.match_info["device"], self._from.alive_since, self._from.clock()

        def ask(session: Session) -> tuple[Any, Any, Any]:
            found = [row for row in inventory.devices(session, since) if row.device == name]
            wanted = admin_pb2.ListTelemetryRequest(device=name, since_ts=now - _DAY_S, limit=2000)
            seen = admin_pb2.ListEventsRequest(device=name, limit=20)
            return found, telemetry.samples(session, wanted), telemetry.events(session, seen)

        found, samples, events = await self._from.database.read(ask)
        if not found:
            raise web.HTTPNotFound(reason=f"there is no device {name!r}")
        lines = {
            "p99": [(row.ts, row.end_to_end_p99_ms) for row in samples],
            "p50": [(row.ts, row.end_to_end_p50_ms) for row in samples],
            "inference p50": [(row.ts, row.infer_p50_ms) for row in samples],
        }
        chart = charts.lines(lines, unit="ms")
        return self._page("device.html", request, device=found[0], events=events, chart=chart, phase=phase_name)

    async def _events(self, request: web.Request) -> web.Response:
        rows = await self._from.database.read(
            lambda session: telemetry.events(session, admin_pb2.ListEventsRequest(limit=100))
        )
        return self._page("events.html", request, events=rows)

    async def _models(self, request: web.Request) -> web.Response:
        rows = await self._from.database.read(lambda session: models.published(session, ""))
        return self._page("models.html", request, shelves=catalogue.shelves(rows))

    async def _rollouts(self, request: web.Request) -> web.Response:
        rows = await self._from.database.read(
            lambda session: [rollouts.message(session, row) for row in rollouts.describe(session, 0)]
        )
        return self._page("rollouts.html", request, rollouts=rows)

    async def _steer(self, request: web.Request) -> web.Response:
        await self._check_form(request)
        identity, now = request["visitor"].identity, self._from.clock()
        action, number = _ACTIONS.get(request.match_info["action"]), request.match_info["rollout"]
        if identity.role not in OPERATE:
            raise web.HTTPForbidden(reason=f"a {identity.role} may look, not change")
        if action is None or not number.isdecimal():
            raise web.HTTPNotFound(reason="no such action")
        wanted = admin_pb2.SteerRolloutRequest(id=int(number), action=action)
        await self._from.database.write(lambda session: rollouts.steer(session, wanted, identity.name, now).id)
        self._from.hub.wake()
        log.warning("%s: %s rollout %s on the dashboard", identity.name, request.match_info["action"], number)
        raise web.HTTPSeeOther("/rollouts")

    async def _check_form(self, request: web.Request) -> None:
        given = str((await request.post()).get("form_token", ""))
        if not hmac.compare_digest(given.encode(), request["visitor"].form_token.encode()):
            raise web.HTTPForbidden(reason="the form is too old: load the page again")

    def _page(self, name: str, request: web.Request, status: int = 200, **facts: Any) -> web.Response:
        visitor = request["visitor"]
        may_change = visitor is not None and visitor.identity.role in OPERATE
        text = self._pages.get_template(name).render(visitor=visitor, may_change=may_change, **facts)
        return web.Response(text=text, content_type="text/html", status=status)

    def _ago(self, ts: float) -> str:
        if not ts:
            return "never"
        seconds = max(0.0, self._from.clock() - ts)
        for unit, size in (("d", _DAY_S), ("h", 3600.0), ("min", 60.0)):
            if seconds >= 2 * size:
                return f"{seconds / size:.0f} {unit} ago"
        return f"{seconds:.0f} s ago"


def _moment(ts: float) -> str:
    return datetime.datetime.fromtimestamp(ts, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")

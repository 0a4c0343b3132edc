"""`distillnet enroll` and `distillnet model list|rollback|pin`.

TUF, gRPC and cryptography are imported when a command needs them: every other command would pay for them, and the
daemon of a board that takes no updates would keep them in memory.
"""

import datetime
import json
import os
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from distillnet.device.config import DeviceConfig, load
from distillnet.device.update.errors import StoreError, UpdateError
from distillnet.proto.strict import ConfigError

_BUSY_S = 30.0
_DEFAULT_STATE_DIR = Path("/var/lib/distillnet")

model = typer.Typer(name="model", help="The students on this board: list them, go back, stay.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the update commands to the command line."""
    app.command("enroll")(_enroll)
    app.add_typer(model)


def _enroll(
    server: str = typer.Option(..., "--server", help="HOST:PORT of the fleet's enrolment port."),
    token: str = typer.Option(..., "--token", envvar="DISTILLNET_TOKEN", help="The one-time token; - reads stdin."),
    config: Path | None = typer.Option(None, "--config", help="The device file: its name and state_dir are used."),
    state_dir: Path | None = typer.Option(None, "--state-dir", help="Where the identity goes, without a device file."),
    device: str = typer.Option("", "--device", help="The wanted device id; default: the device file's name."),
    key: str = typer.Option("file", "--key", help="Where its key is: file, credential:NAME or a pkcs11: URI."),
    json_: bool = typer.Option(False, "--json", help="Print facts as JSON."),
) -> None:
    """Make this board a member of a fleet.

    The key is made here and never leaves; the token carries the fingerprint of the fleet's CA, so the first call
    cannot be intercepted. The key is made in the identity file, taken from a systemd credential, or made on a PKCS#11
    token such as a TPM: pkcs11:token=board;object=distillnet?module-path=/…/libtpm2_pkcs11.so.1&pin-source=tpm-pin

    Example: distillnet enroll --server fleet.example.org:7444 --token dn1_… --config device.toml
    """
    from distillnet.device.update import capabilities
    from distillnet.device.update.enroll import enroll
    from distillnet.device.update.service import STORE

    settings = _config(config)
    where = state_dir or (settings.device.state_dir if settings else _DEFAULT_STATE_DIR)
    text = typer.get_text_stream("stdin").readline() if token == "-" else token
    board = settings.device.board if settings else "auto"
    try:
        identity = enroll(
            where,
            server,
            text,
            device=device or (settings.device.name if settings else ""),
            key_place=key,
            capabilities=capabilities.describe(board=board),
        )
        (where / STORE).mkdir(parents=True, exist_ok=True)
    except UpdateError as exc:
        raise ConfigError(str(exc)) from exc
    except OSError as exc:
        raise ConfigError(f"{where}: cannot be written: {exc.strerror}") from exc
    facts = {
        "device": identity.device,
        "fleet_address": identity.fleet_address,
        "state_dir": str(where),
        "valid_until": identity.valid_until.isoformat(),
    }
    if json_:
        typer.echo(json.dumps(facts))
        return
    Console(stderr=True).print(
        f"enrolled as [bold]{identity.device}[/bold] with {identity.fleet_address}; certificate valid until "
        f"{identity.valid_until:%Y-%m-%d %H:%M} UTC and renewed by the daemon"
    )


_SOUND = typer.Option(False, "--sound", help="The student of [sound_model] instead of the one of [model].")


@model.command("list")
def _list(
    config: Path = typer.Option(..., "--config", help="The device file."),
    sound: bool = _SOUND,
    json_: bool = typer.Option(False, "--json", help="Print facts as JSON."),
) -> None:
    """Show which students are on this board and how updates ended.

    Example: distillnet model list --config device.toml
    """
    _print(_order(config, "show", sound), json_)


@model.command("rollback")
def _rollback(
    config: Path = typer.Option(..., "--config", help="The device file."),
    reason: str = typer.Option("", "--reason", help="Kept in the history and reported to the fleet."),
    sound: bool = _SOUND,
    json_: bool = typer.Option(False, "--json", help="Print facts as JSON."),
) -> None:
    """Go back to the previous student; the one left is not taken again unless the fleet asks for it anew.

    Example: distillnet model rollback --config device.toml --reason "misses cats"
    """
    _print(_order(config, "rollback", sound, reason), json_)


@model.command("pin")
def _pin(
    config: Path = typer.Option(..., "--config", help="The device file."),
    off: bool = typer.Option(False, "--off", help="Take updates again."),
    sound: bool = _SOUND,
    json_: bool = typer.Option(False, "--json", help="Print facts as JSON."),
) -> None:
    """Stay with the current student: every update is refused until `--off`.

    Example: distillnet model pin --config device.toml
    """
    _print(_order(config, "unpin" if off else "pin", sound), json_)


def _order(
    path: Path, verb: Literal["show", "rollback", "pin", "unpin"], sound: bool, reason: str = ""
) -> dict[str, Any]:
    """Carry out an order here, or have the running daemon do it."""
    from distillnet.device.update.orders import AtRest, Order, Orders, ask_daemon
    from distillnet.device.update.service import SOUND_STORE, STORE, for_sound, open_store

    order = Order(verb=verb, reason=reason)
    config, name = load(path), SOUND_STORE if sound else STORE
    if sound:
        if config.sound_model is None:
            raise ConfigError(f"{path}: has no [sound_model]")
        config = for_sound(config)
    directory = config.device.state_dir / name
    if not directory.is_dir():
        raise ConfigError(f"{directory}: there is no model store; this board has never been updated or enrolled")
    try:
        try:
            store = open_store(config, name=name, lock_wait_s=0.0)
        except StoreError:
            if not os.access(directory, os.W_OK):
                raise
            return ask_daemon(directory, order, _BUSY_S)
        with store:
            return Orders(store, AtRest(store, config), config, lambda _: None).carry_out(order)
    except UpdateError as exc:
        raise ConfigError(str(exc)) from exc


def _config(path: Path | None) -> DeviceConfig | None:
    return load(path) if path is not None else None


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    console = Console()
    table = Table("slot", "application", "version", "digest")
    for name in ("current", "previous", "candidate"):
        slot = facts["slots"][name]
        if slot is not None:
            table.add_row(name, slot["application"], str(slot["version"]), slot["digest"][:19] + "…")
    console.print(table)
    if facts["slots"]["pinned"]:
        console.print("pinned: updates are refused")
    history = Table("when (UTC)", "version", "result", "reason")
    for past in facts["history"][-10:]:
        when = datetime.datetime.fromtimestamp(past["ts"], datetime.UTC)
        history.add_row(f"{when:%Y-%m-%d %H:%M:%S}", str(past["version"]), past["result"], past["reason"])
    if facts["history"]:
        console.print(history)

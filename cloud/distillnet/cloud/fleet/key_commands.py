"""`distillnet keys …`: the keys that boards trust. Run where the data directory is, while no service holds it."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from distillnet.cloud.fleet import options

if TYPE_CHECKING:
    from distillnet.cloud.fleet.repository import Repository

keys_app = typer.Typer(help="The keys that sign students.", no_args_is_help=True)

_config = typer.Option(None, "--config", help="serve.toml, where the object store is not in --data")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("init")
def init(
    roots: int = typer.Option(1, min=1, max=9, help="root keys to make"),
    threshold: int = typer.Option(1, min=1, max=9, help="of them must sign a rotation"),
    data: Path = options.DATA,
    config: Path | None = _config,
    as_json: bool = options.AS_JSON,
) -> None:
    """Make the keys and the empty repository before the first `serve`, with several root keys if wanted.

    Example: distillnet keys init --roots 3 --threshold 2 --data fleet
    """
    from distillnet.cloud.fleet import keys
    from distillnet.cloud.fleet.errors import FleetError

    if threshold > roots:
        raise FleetError(f"--threshold {threshold} is more than --roots {roots}")
    with _repository(data, config) as repository:
        if repository.exists():
            raise FleetError(f"{data}: has a repository already; `distillnet keys rotate` changes its keys")
        repository.create(keys.make_roots(data / "keys", roots), threshold, time.time())
    _say({"offline": str(data / "keys" / "offline"), "roots": roots, "threshold": threshold}, as_json)


@keys_app.command("status")
def status(data: Path = options.DATA, config: Path | None = _config, as_json: bool = options.AS_JSON) -> None:
    """Show every role's keys, and when its signature ends.

    Example: distillnet keys status --data fleet
    """
    with _repository(data, config, exclusive=False) as repository:
        roles = repository.roles()
    if as_json:
        options.print_json(roles)
        return
    table = Table("role", "version", "valid until", "keys", "must sign")
    for role, facts in roles.items():
        names = ", ".join(keyid[:12] for keyid in facts["keyids"])
        until = options.moment(facts["expires_ts"])
        table.add_row(role, str(facts["version"]), until, names, str(facts["threshold"]))
    Console().print(table)


@keys_app.command("rotate")
def rotate(
    role: str = typer.Argument(help="root, targets, snapshot or timestamp"),
    root_key: list[Path] = typer.Option([], help="root key file or directory; may be repeated [default: in --data]"),
    roots: int = typer.Option(1, min=1, max=9, help="new root keys, when the role is root"),
    threshold: int | None = typer.Option(None, min=1, max=9, help="of the new root keys must sign [default: as now]"),
    to: list[str] = typer.Option([], help="the new key's URI, on a token or in a key service; root: may be repeated"),
    public_key: list[Path] = typer.Option([], help="PEM of each --to that is not on a token"),
    data: Path = options.DATA,
    config: Path | None = _config,
    as_json: bool = options.AS_JSON,
) -> None:
    """Replace a role's key; boards follow by themselves. Stop the service first, and start it again afterwards.

    A new key is a file in --data, or --to one on a PKCS#11 token (its module in PYKCS11LIB, its PIN in DISTILLNET_PIN,
    in the systemd credential signing-pin, or asked for), or in a key service that securesystemslib knows.

    Example: distillnet keys rotate timestamp --root-key /media/usb/offline --data fleet
    Example: distillnet keys rotate targets --to "hsm:2?label=fleet" --data fleet
    """
    from distillnet.cloud.fleet import keys
    from distillnet.cloud.fleet.errors import FleetError

    if role not in ("root", "targets", "snapshot", "timestamp"):
        raise FleetError(f"role must be root, targets, snapshot or timestamp; got {role!r}")
    if role != "root" and len(to) > 1:
        raise FleetError(f"the {role} role has one key; got {len(to)} with --to")
    if threshold is not None and (role != "root" or threshold > (len(to) or roots)):
        raise FleetError(f"--threshold {threshold} is more than the new root keys, or the role is not root")
    if public_key and len(public_key) != len(to):
        raise FleetError(f"--public-key goes with --to, in the same order; got {len(public_key)} for {len(to)}")
    signers = keys.open_roots(root_key or [data / "keys" / "offline"])
    elsewhere = [keys.refer(uri, pem) for uri, pem in itertools.zip_longest(to, public_key)]
    with _repository(data, config) as repository:
        repository.check_roots(signers)
        if role == "root":
            new = keys.replace_roots(data / "keys", roots, elsewhere)
        else:
            new = [keys.replace_online(data / "keys", role, elsewhere[0] if elsewhere else None)]
            repository = repository.with_signer(role, new[0])
        repository.rotate(role, new, signers, time.time(), threshold)
    _say({"role": role, "keyids": [signer.public_key.keyid for signer in new]}, as_json)


@contextmanager
def _repository(data: Path, config: Path | None, *, exclusive: bool = True) -> "Iterator[Repository]":
    from contextlib import nullcontext

    from distillnet.cloud.fleet import config as settings
    from distillnet.cloud.fleet import keys
    from distillnet.cloud.fleet.place import held, open_store
    from distillnet.cloud.fleet.repository import Repository

    loaded = settings.load(config)
    with held(data) if exclusive else nullcontext():
        store = open_store(loaded.storage.objects, data)
        yield Repository(store, keys.open_online(data / "keys"), loaded.trust)


def _say(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        options.print_json(facts)
    else:
        typer.echo("\n".join(f"{name}: {value}" for name, value in facts.items()))

"""The device's commands. Each imports what it needs when it runs, so that `--help` is quick."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Facts as JSON on stdout.")]
Host = Annotated[str, typer.Option(help="MQTT broker.")]
Port = Annotated[int, typer.Option(help="Its port.", min=1, max=65535)]
ConfigFile = Annotated[Path, typer.Argument(help="The device file.")]


def register(app: typer.Typer) -> None:
    """Add the device's commands to the command line."""
    from distillnet.device.update import commands as update_commands

    app.command(epilog="Example: distillnet run examples/door.device.toml")(run)
    app.command(epilog="Example: distillnet watch --host broker.local --device porch")(watch)
    app.command(epilog="Example: distillnet replay door.mp4 --config door.device.toml --json > events.jsonl")(replay)
    app.command(epilog="Example: distillnet score events.jsonl door.truth.json --json")(score)
    app.command("check-config", epilog="Example: distillnet check-config examples/door.device.toml")(check_config)
    app.command(epilog="Example: distillnet doctor examples/door.device.toml")(doctor)
    app.command(epilog="Example: distillnet status examples/door.device.toml --json")(status)
    app.command(epilog="Example: distillnet snapshot examples/door.device.toml --source door -o door.jpg")(snapshot)
    update_commands.register(app)


def run(
    config: ConfigFile,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch the sources of a device file and publish events, until SIGTERM, Ctrl-C or the end of every source.

    Exit 1 when inference is lost for good.
    """
    from distillnet.device import config as device_file
    from distillnet.device.daemon import Daemon, InferenceLostError
    from distillnet.device.journal import set_up_logging

    set_up_logging(log_level)
    daemon = Daemon(device_file.load(config), config)
    daemon.handle_signals()
    try:
        daemon.run()
    except InferenceLostError as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(1) from exc


def watch(
    host: Host = "localhost",
    port: Port = 1883,
    device: Annotated[str, typer.Option(help="Its name; + = all.")] = "+",
    as_json: Json = False,
    live: Annotated[bool, typer.Option("--live", help="One table of all devices, kept up to date.")] = False,
    seconds: Annotated[float | None, typer.Option(help="End after so long.", min=0)] = None,
) -> None:
    """Print a device's events, states and latencies as they come from the broker."""
    from distillnet.device.watch import Watcher

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    Watcher(host=host, port=port, device=device, as_json=as_json, live=live).run(seconds)


def replay(
    source: Annotated[str, typer.Argument(help="A video, a directory of pictures, or a source's id.")],
    config: Annotated[Path | None, typer.Option(help="Device file with zones, rules and model.")] = None,
    student: Annotated[Path | None, typer.Option(help="Student to use instead of the device file's.")] = None,
    as_json: Json = False,
) -> None:
    """Run a file through the daemon's steps; the same file gives the same event lines every time."""
    from distillnet.device import config as device_file
    from distillnet.device.replay import Replay, source_for
    from distillnet.engine.student import Student
    from distillnet.proto.mqtt import encode
    from distillnet.proto.strict import ConfigError

    device = None if config is None else device_file.load(config)
    path = student or (device.model.path if device else None)
    if path is None:
        raise ConfigError("which student? Give --student FILE, or --config FILE with model.path")
    engine = device.engine if device else device_file.EngineSection()
    loaded = Student.load(_bytes(path), engine=engine.backend, threads=engine.threads)
    run = Replay(loaded, source_for(source, device.source if device else []), device.event if device else [])
    for event in run.events():
        if as_json:
            typer.echo(encode(event).decode())
        else:
            where = event.zone or event.source
            typer.echo(f"{event.frame_ts:9.3f} s  {event.phase:6} {event.event} on {where}, score {event.score:.2f}")
    typer.echo(f"{run.frames} frames, {run.inferences} inferences", err=True)


def score(
    events: Annotated[Path, typer.Argument(help="Event lines of `replay --json`.")],
    truth: Annotated[Path, typer.Argument(help="True episodes, JSON.")],
    as_json: Json = False,
) -> None:
    """Compare events with the truth: what was found, missed and invented, and how late."""
    from distillnet.device import score as scoring

    result = scoring.score(scoring.read_events(events), scoring.read_truth(truth))
    facts = result.facts()
    if as_json:
        print_json(facts)
        return
    typer.echo(f"{facts['found']} of {facts['episodes']} episodes found, {facts['within_tolerance']} within tolerance")
    typer.echo(f"{facts['false_alarms']} false alarms, {facts['fragments']} fragments")
    for match in result.matches:
        typer.echo(
            f"  {match.zone} {match.truth}: onset {match.onset_error:+.1f}, offset {match.offset_error:+.1f} frames"
        )
    for zone, start, end in result.missed:
        typer.echo(f"  {zone} ({start}, {end}): missed")
    for episode in result.false_alarms:
        typer.echo(f"  {episode.zone} ({episode.start:.0f}, {episode.end:.0f}): false alarm")


def check_config(
    file: Annotated[Path, typer.Argument(help="A device file, or an application file.")], as_json: Json = False
) -> None:
    """Read a configuration file as the program would, and say what is wrong with it."""
    from distillnet.device.check import check_config as look

    about = look(file)
    if as_json:
        print_json({"file": str(file), "ok": True, "about": about})
    else:
        typer.echo(f"{file}: {about}")


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Device file; without it only the machine is looked at.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at camera, broker, clock, disk, processor and engine: what is wrong, what to do. Exit 1 if anything is."""
    from distillnet.device import config as device_file
    from distillnet.device.doctor import examine

    logging.basicConfig(level=logging.ERROR)
    findings = examine(None if config is None else device_file.load(config))
    if as_json:
        print_json([finding.facts() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:8} {finding.what}: {finding.found}")
            if finding.advice:
                typer.echo(f"{'':8}   → {finding.advice}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def status(config: ConfigFile, as_json: Json = False) -> None:
    """Print what a device last said of itself, from the broker."""
    from distillnet.device import config as device_file
    from distillnet.device.probe import retained
    from distillnet.proto.strict import ConfigError

    logging.basicConfig(level=logging.ERROR)
    device = device_file.load(config)
    try:
        said = retained(device.mqtt, device.device.name)
    except ConnectionError as exc:
        raise ConfigError(str(exc)) from exc
    if not said:
        raise ConfigError(f"the broker knows nothing of device {device.device.name!r}: has it ever run?")
    if as_json:
        print_json(said)
        return
    for topic, payload in sorted(said.items()):
        shown = payload if isinstance(payload, str) else ", ".join(f"{key} {value}" for key, value in payload.items())
        typer.echo(f"{topic}: {shown}")


def snapshot(
    config: ConfigFile,
    source: Annotated[str | None, typer.Option(help="Which; the first one if not said.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture file to write.")] = Path("snapshot.jpg"),
    skip: Annotated[int, typer.Option(help="Pictures to let go first.", min=0)] = 5,
    as_json: Json = False,
) -> None:
    """Take one picture of a source, draw its zones in, and print what the student makes of them."""
    from distillnet.device import config as device_file
    from distillnet.device import snapshot as taking
    from distillnet.engine.student import Student
    from distillnet.proto.strict import ConfigError, nearest

    device = device_file.load(config)
    ids = [candidate.id for candidate in device.source]
    if source is not None and source not in ids:
        raise ConfigError(f"{config}: there is no source {source!r}{nearest(source, ids)}")
    chosen = device.source[ids.index(source) if source else 0]
    pixels = taking.take(chosen, skip=skip)
    taking.save(pixels, chosen, output)
    found = {}
    if device.model.path is not None:
        loaded = Student.load(_bytes(device.model.path), engine=device.engine.backend, threads=device.engine.threads)
        found = taking.scores(pixels, chosen, loaded)
    if as_json:
        print_json({"source": chosen.id, "file": str(output), "scores": found})
        return
    typer.echo(f"{chosen.id} → {output}")
    for zone, scores in found.items():
        typer.echo(f"  {zone or 'all'}: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))


def print_json(value: object) -> None:
    """Print one JSON value on stdout."""
    typer.echo(json.dumps(value))


def _bytes(path: Path) -> bytes:
    from distillnet.proto.strict import ConfigError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc

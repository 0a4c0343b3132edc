"""The engine's commands: `distillnet bench verify`, `distillnet bench engine` and `distillnet bench --profile`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Facts as JSON on stdout, one object a line.")]
Threads = Annotated[int, typer.Option(help="Of every engine.", min=1, max=64)]
Kernels = Annotated[str | None, typer.Option(help="Instruction set, e.g. scalar; otherwise the best.")]


def register(app: typer.Typer) -> None:
    """Add the engine's commands to the command line."""
    bench = typer.Typer(invoke_without_command=True, no_args_is_help=True)
    bench.callback(epilog="Example: distillnet bench --profile rpi4.json --board rpi4")(profile)
    bench.command(epilog="Example: distillnet bench verify student.tflite --inputs 100 --json")(verify)
    bench.command(epilog="Example: distillnet bench engine student.tflite --peers litert --threads 1 --json")(engine)
    app.add_typer(bench, name="bench")


def profile(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Option("--profile", help="Measure this board's layers into FILE.json, a budget table for `distill`."),
    ] = None,
    board: Annotated[str, typer.Option(help="The name the profile gives this board.")] = "",
    as_json: Json = False,
) -> None:
    """Check and time the inference engine, or measure what layers cost on this board."""
    if context.invoked_subcommand is not None:
        if path is not None:
            raise typer.BadParameter(f"--profile measures by itself; it does not go with {context.invoked_subcommand}")
        return
    if path is None:
        raise typer.BadParameter("give --profile FILE.json, or one of the commands")
    from distillnet.engine.profile_measure import measure, write

    measured = measure(board or path.stem, quiet=not sys.stderr.isatty())
    write(path, measured)
    facts = measured.model_dump(exclude={"layers"}) | {"profile": str(path), "layers": len(measured.layers)}
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{path}: {len(measured.layers)} layers on {measured.machine}, {measured.kernels}, one thread")
    for check in measured.checks:
        predicted = check.layers_ms * measured.network_factor
        litert = f", LiteRT {check.litert_ms:.3f} ms" if check.litert_ms else ""
        typer.echo(f"  {check.network}: {check.measured_ms:.3f} ms measured, {predicted:.3f} ms by the table{litert}")
    typer.echo(f'the table is off by at most {measured.error:.0%} on these; use it as [budget] board = "{path}"')


def verify(
    models: Annotated[list[Path], typer.Argument(help="`.tflite` files.")],
    inputs: Annotated[int, typer.Option(help="Number of random inputs.", min=1)] = 100,
    threads: Threads = 1,
    kernels: Kernels = None,
    as_json: Json = False,
) -> None:
    """Compare the native engine with LiteRT's reference kernels, bit for bit; exit status 1 when anything differs."""
    from distillnet.engine.backend import ModelError
    from distillnet.engine.native import UnsupportedError
    from distillnet.engine.verify import mismatches

    wrong = 0
    for path in models:
        try:
            result = mismatches(_read(path), inputs=inputs, threads=threads, kernels=kernels)
        except UnsupportedError as exc:
            raise ModelError(f"{path}: not for the native engine: {exc}") from exc
        wrong += result["mismatches"]
        text = f"{path}: {result['mismatches']} of {inputs} inputs differ ({result['kernels']}, {threads} threads)"
        typer.echo(json.dumps({"model": str(path), **result}) if as_json else text)
    if wrong:
        raise typer.Exit(1)


def engine(
    model: Annotated[Path, typer.Argument(help="A `.tflite` file.")],
    peers: Annotated[str, typer.Option(help="Separated by commas: litert, onnxruntime, openvino, ncnn.")] = "litert",
    onnx: Annotated[Path | None, typer.Option(help="The same network as ONNX, for onnxruntime.")] = None,
    ncnn: Annotated[Path | None, typer.Option(help="The same network as ncnn's .param, for ncnn.")] = None,
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option(help="To spend on timing.", min=0.1)] = 3.0,
    kernels: Kernels = None,
    layers: Annotated[bool, typer.Option(help="Add the native engine's time per layer.")] = False,
    as_json: Json = False,
) -> None:
    """Time one inference in the native engine and in its peers, interleaved, medians."""
    from distillnet.engine.backend import ModelError
    from distillnet.engine.bench import compare
    from distillnet.engine.native import UnsupportedError

    names = tuple(name for name in peers.split(",") if name)
    data = _read(model)
    try:
        report = compare(data, peers=names, threads=threads, seconds=seconds, kernels=kernels, onnx=onnx, ncnn=ncnn)
    except UnsupportedError as exc:
        raise ModelError(f"{model}: not for the native engine: {exc}") from exc
    report["card_latency"] = _card_latency(data)
    if not layers:
        report.pop("layers")
    if as_json:
        typer.echo(json.dumps({"model": str(model), **report}))
    else:
        _print(model, names, report)


def _print(model: Path, peers: tuple[str, ...], report: dict[str, Any]) -> None:
    typer.echo(f"{model} on {report['machine']}, {report['threads']} threads, median of {report['rounds']} rounds")
    typer.echo(f"  native ({report['kernels']})  {report['native_ms']:.3f} ms, loaded in {report['load_ms']:.1f} ms")
    if report["peak_memory_bytes"] is not None:
        kept = report["weights_bytes"] + report["arena_bytes"]
        typer.echo(
            f"  memory  {report['peak_memory_bytes'] / 1e6:.2f} MB at most, weights and arena {kept / 1e6:.2f} MB"
        )
    for peer in peers:
        ms, ratio, form = (report[f"{peer}_{what}"] for what in ("ms", "ratio", "form"))
        typer.echo(f"  {peer}  {ms:.3f} ms, {ratio:.2f}× as long ({form})")
    for said in report["card_latency"]:
        typer.echo(f"  the student's card says {said['ms']:.3g} ms on {said['board']}: {said['how']}")
    for layer in report.get("layers", []):
        speed = layer["macs"] / layer["ms"] / 1e6 if layer["ms"] > 0 else 0.0
        typer.echo(f"  {layer['index']:4} {layer['op']:24} {layer['ms']:8.4f} ms {speed:7.1f} GMAC/s")


def _card_latency(data: bytes) -> list[dict[str, Any]]:
    """What a student's card says of boards; nothing for another `.tflite`."""
    from distillnet.proto.archive import StudentError, unpack

    try:
        return [latency.model_dump() for latency in unpack(data).card.latency]
    except StudentError:
        return []


def _read(path: Path) -> bytes:
    from distillnet.engine.backend import ModelError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from exc

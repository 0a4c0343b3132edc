"""`python -m distillnet.cloud.audio`: see `--help`."""

import os
from pathlib import Path

import typer

from distillnet.cloud import host, script
from distillnet.proto.strict import ConfigError

_DATA = Path(os.environ.get("DISTILLNET_DATA", "../shared/data"))


def _command(
    archive: Path = typer.Option(_DATA / "esc10-folds1-4.zip", help="ESC-10, four folds"),
    models: Path = typer.Option(_DATA / "models", help="folder of yamnet.tflite and yamnet_class_map.csv"),
    unlabelled: Path = typer.Option(Path("build/sounds"), help="folder of sounds without labels"),
    results: Path = typer.Option(Path("docs/eval-audio.json"), help="results so far; gone on with"),
    page: Path = typer.Option(Path("docs/eval-audio.md"), help="the page written from them"),
    keep: Path = typer.Option(Path("build/eval-audio"), help="folder for the students, which later jobs listen with"),
    windows: int = typer.Option(24000, min=100, help="augmented windows per student"),
    epochs: int = typer.Option(0, min=0, help="of training; 0 = each application's own"),
    jobs: str = typer.Option("", help="ten/distilled/1, streams/home/1, latency, …, by commas [default: all]"),
    minutes: float = typer.Option(120.0, min=0.0, help="start no further job after so long"),
    threads: int = typer.Option(0, min=0, help="of torch; 0 = as torch chooses"),
) -> None:
    """Evaluate students that hear on ESC-10, cross-validated by fold.

    Resumable: a job that is in the results is not run again. Writes results after every job and the page at the end.

    Example: python -m distillnet.cloud.audio --jobs ten/distilled/1 --windows 2000 --epochs 8
    """
    host.prepare()
    import torch

    from distillnet.cloud.audio import crossval, page_of

    if not unlabelled.is_dir():
        raise ConfigError(f"there is no {unlabelled}: python deploy/debian_sounds.py {unlabelled}")
    for path in (archive, models / "yamnet.tflite"):
        if not path.is_file():
            raise ConfigError(f"there is no {path}: set DISTILLNET_DATA to the folder of the evaluation data")
    if threads:
        torch.set_num_threads(threads)
    crossval.run(
        archive,
        models,
        unlabelled,
        results,
        keep,
        windows=windows,
        epochs=epochs,
        jobs=[job for job in jobs.split(",") if job],
        minutes=minutes,
    )
    page_of.write(results, page)


if __name__ == "__main__":
    script.run(_command, "distillnet.cloud.audio")

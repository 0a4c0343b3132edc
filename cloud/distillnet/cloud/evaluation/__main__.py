"""`python -m distillnet.cloud.evaluation`: see `--help`."""

import os
from pathlib import Path

import typer

from distillnet.cloud import host, script
from distillnet.cloud.evaluation.settings import Settings
from distillnet.proto.strict import ConfigError, nearest

DEFAULT = Settings()


def _command(
    archive: Path = typer.Option(
        Path(os.environ.get("DISTILLNET_DATA", "../shared/data")) / "tiny-imagenet-apps.zip",
        help="Tiny-ImageNet applications",
    ),
    results: Path = typer.Option(Path("docs/eval-vision.json"), help="results so far; gone on with"),
    page: Path = typer.Option(Path("docs/eval-vision.md"), help="the page written from them"),
    applications: str = typer.Option("backyard,street,kitchen", help="separated by commas"),
    arms: str = typer.Option("", help="separated by commas [default: all]"),
    seeds: int = typer.Option(1, min=1, help="how many: 0, 1, …"),
    steps: int = typer.Option(DEFAULT.steps, min=1, help="of training, the same for every arm"),
    budget_ms: float = typer.Option(
        DEFAULT.budget_ms, min=0.001, help="milliseconds a student may take, by the board's table"
    ),
    smaller: float = typer.Option(
        DEFAULT.smaller, min=1.0, help="how many times fewer weights than the teacher a student has at least"
    ),
    board: str = typer.Option(DEFAULT.board, help="whose table"),
    resolution: int = typer.Option(DEFAULT.resolution, min=32, max=512, help="pixels a side that a student sees"),
    quick: bool = typer.Option(False, "--quick", help="one application, one seed: some 20 minutes of a core"),
    minutes: float = typer.Option(60.0, min=0.0, help="start no further job after so long"),
    only_train: bool = typer.Option(
        False, "--only-train", help="keep students in the cache for a run that converts and times them elsewhere"
    ),
    threads: int = typer.Option(0, min=0, help="of torch; 0 = as torch chooses"),
) -> None:
    """Compare the essential core with its controls, on pictures the students have never seen.

    Resumable: a job that is in the results is not run again. Writes results after every job and the page at the end.

    Example: python -m distillnet.cloud.evaluation --quick
    Example: python -m distillnet.cloud.evaluation --arms core --budget-ms 0.58
    """
    host.prepare()
    import torch

    from distillnet.cloud import boards
    from distillnet.cloud.application import TeacherSection
    from distillnet.cloud.evaluation import summary, vision
    from distillnet.cloud.evaluation.arms import ARMS
    from distillnet.cloud.evaluation.tiny_imagenet import Archive
    from distillnet.cloud.places import cache_directory
    from distillnet.cloud.progress import Steps
    from distillnet.cloud.teacher import load

    if quick:
        applications, seeds = applications.partition(",")[0], 1
    boards.find(board, Path())
    chosen = arms.split(",") if arms else list(ARMS)
    for arm in chosen:
        if arm not in ARMS:
            raise ConfigError(f"--arms: there is no arm {arm!r}{nearest(arm, list(ARMS))}")
    if threads:
        torch.set_num_threads(threads)
    vision.run(
        Archive(archive),
        load(TeacherSection(), Path()),
        results,
        applications=applications.split(","),
        arms=chosen,
        seeds=range(seeds),
        settings=Settings(resolution=resolution, steps=steps, budget_ms=budget_ms, smaller=smaller, board=board),
        minutes=minutes,
        cache=cache_directory(),
        steps=Steps(),
        only_train=only_train,
    )
    done = vision.read(results)
    if done:
        summary.write(done, page, os.path.relpath(results, page.parent))


if __name__ == "__main__":
    script.run(_command, "distillnet.cloud.evaluation")

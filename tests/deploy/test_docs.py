"""The documentation is true: links lead somewhere, files in it are valid, commands exist and run."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import cli_reference
import pytest
import reference

from distillnet.engine.profile import read
from distillnet.engine.profile_networks import CHECKS, whole

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
WRITTEN = [page for page in PAGES if page.name not in ("cli.md", "api.md")]
DEVICE = ROOT / "docs/device.md"
PROFILES = ROOT / "cloud/distillnet/cloud/board_profiles"
MAIN = "import sys; from distillnet.device.cli import main; main()"


class Block(NamedTuple):
    """A fenced block: its info string, its text, and the line above it."""

    info: str
    text: str
    above: str


def _blocks(page: Path) -> list[Block]:
    found = re.finditer(r"(?:^(?P<above>.*)\n)?^```(?P<info>\S.*)\n(?P<text>(?:.*\n)*?)^```$", page.read_text(), re.M)
    return [Block(match["info"], match["text"], match["above"] or "") for match in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text()):
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_into_the_command_reference_find_their_heading(page: Path) -> None:
    headings = {line[3:].strip().replace(" ", "-") for line in cli_reference.PAGE.read_text().splitlines()}
    for anchor in re.findall(r"cli\.md#([^)]*)\)", page.read_text()):
        assert anchor in headings, f"{page.name}: {anchor}"


def test_the_command_reference_is_current() -> None:
    assert cli_reference.page() == cli_reference.PAGE.read_text(), "the command line has changed: make docs"


def test_the_other_references_are_current() -> None:
    assert reference.api_page() == reference.API.read_text(), "the Python interface has changed: make docs"
    assert reference.mqtt_page() == reference.MQTT.read_text(), "the schemas have changed: make docs"


def test_the_boards_figures_are_those_of_their_profiles() -> None:
    boards = re.findall(
        r"^\| ([a-z0-9-]+) \| (\S+) at .*, (\w+) \| (\S+) \| (\S+) \| (\d+) % \|$", DEVICE.read_text(), re.M
    )
    assert {row[0] for row in boards} == {
        path.stem for path in PROFILES.glob("*.json") if read(path).how == "estimated"
    }
    for board, core, kernels, lite, mobile, error in boards:
        profile = read(PROFILES / f"{board}.json")
        assert (profile.how, profile.kernels) == ("estimated", kernels)
        assert core in profile.machine
        found = [profile.network_ms(whole(network)[1]) for network in (CHECKS[0], CHECKS[-1])]
        assert [f"{ms:.3g}" for ms in found] == [lite, mobile], board
        assert round(100 * profile.error) == int(error), board


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link() -> None:
    command = [sys.executable, str(ROOT / "deploy/docs_site.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build/site/docs/device.html").exists()


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_command_exists_with_its_options(page: Path) -> None:
    reference = cli_reference.PAGE.read_text()
    for block in _blocks(page):
        for line in block.text.splitlines() if block.info.startswith("sh") else []:
            words = shlex.split(line, comments=True)
            words = words[words[0] == "sudo" :] if words else []
            if words[:1] != ["distillnet"]:
                continue
            section = _section(reference, words[1:])
            assert section, f"{page.name}: {line}"
            for option in (word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)):
                assert re.search(rf"{re.escape(option)}\b", section), f"{page.name}: {line}: no {option}"


def _section(reference: str, words: list[str]) -> str:
    for count in (2, 1):
        head = f"## distillnet {' '.join(words[:count])}\n"
        if head in reference:
            return reference.split(head)[1].split("\n## ")[0]
    return ""


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in _blocks(page):
        if block.info == "sh":
            assert re.fullmatch(r"<!-- not run: .+ -->", block.above), f"{page.name}: {block.text}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_toml_in_it_parses(page: Path) -> None:
    for block in _blocks(page):
        if block.info.startswith("toml"):
            tomllib.loads(block.text)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(
    "page", [p for p in WRITTEN if re.search("^```sh run", p.read_text(), re.M)], ids=lambda page: page.name
)
def test_its_commands_run(page: Path, student: Path, video: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copy(student, tmp_path / "student.tflite")
    shutil.copy(video, tmp_path / "door.mp4")
    shutil.copytree(pictures, tmp_path / "pictures")
    command = tmp_path / "bin" / "distillnet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(MAIN)} "$@"\n')
    command.chmod(0o755)
    environment = {"PATH": f"{command.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    for block in _blocks(page):
        kind, _, rest = block.info.partition(" ")
        if kind == "toml" and rest:
            (tmp_path / rest).write_text(block.text)
        elif block.info == "sh run":
            done = subprocess.run(
                ["sh", "-eu", "-c", block.text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, f"{page.name}:\n{block.text}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("file", sorted((ROOT / "examples/boards").glob("*.toml")), ids=lambda file: file.name)
def test_the_boards_files_are_valid(file: Path) -> None:
    from distillnet.device.config import load

    assert load(file).device.board != "auto"

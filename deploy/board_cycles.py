"""Cycles that models take on a core nobody has here: counted instructions, and LLVM's model of that core's pipelines.

The engine itself runs under qemu-user, compiled for the board's architecture, with the kernels that the board would
choose; a plugin counts how often each straight piece of code is executed in one inference. `llvm-mca` says how many
cycles such a piece takes in its steady state on the core. The sum is what the inference takes if every load hits the
nearest cache and every branch is foreseen. Called by `board_estimates.py`, which finds out how wrong that is.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import wheelhouse

PLUGIN = wheelhouse.ROOT / "tests/engine/count_instructions.c"
GETPPID = {"aarch64": 173, "x86_64": 110}
TRAP = {"aarch64": ("0x00 " * 4, "udf\t#0"), "x86_64": ("0xcc " * 16, "int3")}  # in no code that runs
SECTIONS = 3  # of count_layers: loading, a first run, the run that counts
ROUNDS = 100
MCA_VERSIONS = ("", "-19", "-20", "-21")
OLDEST_MCA = 19  # the first with a model of Neoverse N1, and of the x86 core that the check needs
Block = bytes


class CyclesError(Exception):
    """Cycles cannot be found here; the message says what is missing."""


@dataclass(frozen=True)
class Target:
    """What to run: `machine`, qemu's `cpu`, the engine's `kernels`, and LLVM's name and features of the `core`."""

    machine: str
    cpu: str
    kernels: str
    core: str
    features: str = ""


def executed(target: Target, models: Sequence[Path]) -> list[Counter[Block]]:
    """Return for each model how often each piece of machine code is executed in one inference.

    Raises:
        CyclesError: no emulator or compiler.
        subprocess.CalledProcessError: one of them failed; it has said why.

    """
    emulator = shutil.which(f"qemu-{target.machine}")
    if emulator is None:
        raise CyclesError(f"no qemu-{target.machine}: apt-get install qemu-user")
    program = build(target.machine, "count_layers")
    with tempfile.TemporaryDirectory() as folder:
        plugin, said = Path(folder, "count.so"), Path(folder, "said")
        subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", PLUGIN, "-o", plugin], check=True)
        options = ["-cpu", target.cpu, "-plugin", f"{plugin},out={said},mark={GETPPID[target.machine]}"]
        subprocess.run([emulator, *options, program, target.kernels, *models], check=True)
        counted = list(_sections(said.read_text().splitlines()))[SECTIONS - 1 :: SECTIONS]
    if len(counted) != len(models):
        raise CyclesError(f"{len(models)} models, but {len(counted)} were counted: the counter and count_layers differ")
    return counted


def build(machine: str, program: str) -> Path:
    """Compile one of the engine's test programs, statically: no root of that architecture is needed."""
    folder = wheelhouse.BUILD / f"count-{machine}"
    tools = wheelhouse.ROOT / ".venv/bin"
    options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools}/ninja", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
    if machine != os.uname().machine:
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={wheelhouse.ROOT}/device/csrc/{machine}.cmake")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([tools / "cmake", "-S", wheelhouse.ROOT, "-B", folder, *options], **quiet)
    subprocess.run([tools / "cmake", "--build", folder, "--target", program], **quiet)
    return folder / "device/csrc/tests" / program


def _sections(lines: list[str]) -> Iterator[Counter[Block]]:
    code = {line.split()[1]: bytes.fromhex(line.split()[2]) for line in lines if line.startswith("code ")}
    section: Counter[Block] = Counter()
    for line in lines:
        if line == "mark":
            yield section
            section = Counter()
        elif not line.startswith("code "):
            number, times = line.split()
            section[code[number]] += int(times)


def cycles(target: Target, blocks: Iterable[Block]) -> dict[Block, float]:
    """Return for pieces of machine code the cycles of one pass, executed over and over, on the target's core.

    Raises:
        CyclesError: LLVM's tools are missing, too old, or cannot read the code.

    """
    distinct = sorted(set(blocks))
    code, name = TRAP[target.machine]
    options = [f"triple={target.machine}-linux-gnu", f"mcpu={target.core}", f"mattr={target.features}"]
    text = f"\n{code}\n".join(" ".join(f"0x{byte:02x}" for byte in block) for block in distinct)
    listing = _llvm("mc", ["--disassemble", *(f"-{option}" for option in options)], text)
    # qemu cuts an x86 instruction at the end of a page; the traps behind it end what the rest is taken for.
    pieces = re.split(rf"^(?:\t{name}\n)+", listing.removeprefix("\t.text\n"), flags=re.M)
    if len(pieces) != len(distinct):
        raise CyclesError(f"{len(distinct)} pieces of code became {len(pieces)}: one holds {name!r} itself")
    regions = "".join(f"# LLVM-MCA-BEGIN {i}\n{piece}# LLVM-MCA-END\n" for i, piece in enumerate(pieces))
    options[0] = f"m{options[0]}"
    command = [*(f"-{option}" for option in options), f"-iterations={ROUNDS}", "-json"]
    facts = json.loads(_llvm("mca", [*command, "-skip-unsupported-instructions=lack-sched"], regions))
    found = {int(region["Name"]): region["SummaryView"]["TotalCycles"] / ROUNDS for region in facts["CodeRegions"]}
    return {block: found[index] for index, block in enumerate(distinct)}


def _llvm(tool: str, options: list[str], text: str) -> str:
    done = subprocess.run([_llvm_tool(tool), *options], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise CyclesError(f"llvm-{tool}: {done.stderr.strip()[:500]}")
    return done.stdout


@cache
def _llvm_tool(tool: str) -> str:
    for version in MCA_VERSIONS:
        path = shutil.which(f"llvm-{tool}{version}")
        if path is None:
            continue
        said = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"version (\d+)", said)
        if found and int(found[1]) >= OLDEST_MCA:
            return path
    raise CyclesError(f"no llvm-{tool} of version {OLDEST_MCA} or newer: apt-get install llvm-{OLDEST_MCA}")

"""Build the device's .deb packages: `distillnet` (ours, small) and `distillnet-libs` (its libraries, rarely changing).

    python deploy/debs.py [amd64] [arm64] [--python 3.11] [--out dist] [--revision +1] [--quick]

Needs dpkg-deb and, for arm64, the cross compiler; no root, no debhelper. Everything is bundled, so the packages install
and run offline: `apt install ./distillnet*.deb`. The same tree gives the same bytes: times come from SOURCE_DATE_EPOCH,
or from the last commit. `distillnet` depends on a name that `distillnet-libs` provides and that is the hash of the
bundled versions.
"""

import argparse
import email.utils
import fnmatch
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import deb_content as content
import debian_archive
import wheelhouse
import wheels

HERE = Path(__file__).resolve().parent / "debian"
APP = "usr/lib/distillnet/app"
LIBS = "usr/lib/distillnet/libs"
SYSTEMD = wheelhouse.ROOT / "deploy/systemd"
CONFFILE = "etc/distillnet/device.toml"
MACHINES = {debian: machine for machine, debian in content.DEBIAN_ARCH.items()}
QUICK = ("-Zgzip", "-z1")


class Options(NamedTuple):
    """For which `python`, into which folder `out`, `revision` after the version, and dpkg-deb's `compression` flags."""

    python: str = wheelhouse.PYTHON
    out: Path = wheels.DIST
    revision: str = ""
    compression: tuple[str, ...] = ("-Zxz", "-z1")


def build(arch: str, options: Options) -> list[Path]:
    """Build both packages of one architecture ("x86_64" | "aarch64"); returns their paths.

    Raises:
        wheels.WheelError: a wheel breaks its promise, or a library is needed that Debian's dependencies do not name.
        debian_archive.ArchiveError: Debian's packages cannot be fetched here.
        subprocess.CalledProcessError: a tool failed; it has said why.

    """
    return [build_device(arch, options), build_libraries(arch, options)]


def build_device(arch: str, options: Options) -> Path:
    """Build `distillnet` alone; see `build`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "own")
        _stage_device(root, wheels.build(arch))
        relations = {
            "Depends": ", ".join([*_pythons(options), *_system_packages(root), _bundle(arch, options)]),
            "Recommends": "adduser, systemd",
            "Suggests": "mosquitto, libportaudio2, ffmpeg",
        }
        return _pack(root, content.DEVICE, arch, options, relations)


def build_libraries(arch: str, options: Options) -> Path:
    """Build `distillnet-libs` alone; see `build`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "libs")
        _stage_libraries(root, wheelhouse.fetch(arch, options.python))
        _strip(root / LIBS, arch)
        _use_debians_lapack(root / LIBS / "opencv_python_headless.libs", content.DEBIAN_ARCH[arch])
        relations = {
            "Depends": ", ".join([*_pythons(options), *_system_packages(root)]),
            "Provides": _bundle(arch, options),
        }
        return _pack(root, content.LIBRARIES, arch, options, relations)


def _pythons(options: Options) -> list[str]:
    return [f"python3 (>= {options.python}~)", f"python3 (<< {_next_minor(options.python)})"]


def _bundle(arch: str, options: Options) -> str:
    """The name that stands for exactly these bundled versions."""
    names = sorted(wheel.name for wheel in wheelhouse.fetch(arch, options.python).glob("*.whl"))
    return f"distillnet-libs-{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}"


def _stage_device(root: Path, wheel: Path) -> None:
    app = root / APP
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if not name.startswith("distillnet/cloud/")]
        archive.extractall(app, [name for name in members if not _is_left_out(name)])
    (entry_points,) = app.glob("*.dist-info/entry_points.txt")  # the board has no cloud: its commands go with its code
    lines = entry_points.read_text().splitlines(keepends=True)
    entry_points.write_text("".join(line for line in lines if "distillnet.cloud" not in line))
    for source, target in (
        (HERE / "distillnet.launcher", "usr/bin/distillnet"),
        (HERE / "device.toml", CONFFILE),
        (HERE / "60-distillnet.rules", "lib/udev/rules.d/60-distillnet.rules"),
        (HERE / "distillnet.1", "usr/share/man/man1/distillnet.1.gz"),
        (wheelhouse.ROOT / "README.md", "usr/share/doc/distillnet/README.md"),
        *((unit, f"lib/systemd/system/{unit.name}") for unit in sorted(SYSTEMD.glob("*device*.service"))),
        *((unit, f"usr/lib/sysusers.d/{unit.name}") for unit in sorted(SYSTEMD.glob("sysusers.d/*.conf"))),
        *((file, f"usr/share/doc/distillnet/examples/{file.name}") for file in _examples()),
    ):
        _install(source, root / target)
    (root / "usr/bin/distillnet").chmod(0o755)


def _examples() -> list[Path]:
    examples = wheelhouse.ROOT / "examples"
    return [*sorted(examples.glob("*.device.toml")), *sorted(examples.glob("boards/*.toml"))]


def _stage_libraries(root: Path, house: Path) -> None:
    for wheel in sorted(house.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
            archive.extractall(root / LIBS, [name for name in members if not _is_left_out(name)])


def _use_debians_lapack(folder: Path, arch: str) -> None:
    packages = wheelhouse.BUILD / f"lapack-{arch}"
    found = {path.name.split("_")[0]: path for path in debian_archive.fetch(arch, [*content.LAPACK], packages)}
    with tempfile.TemporaryDirectory() as unpacked:
        for name in content.LAPACK:
            debian_archive.unpack(found[name], Path(unpacked))
        (lapack,) = Path(unpacked).rglob("liblapack.so.3")
        (blas,) = Path(unpacked).rglob("libblas.so.3")
        (openblas,) = folder.glob("libopenblas*")
        (fortran,) = folder.glob("libgfortran*")
        shutil.copy(lapack, openblas)
        shutil.copy(blas, folder)
        fortran.rename(folder / "libgfortran.so.5")


def _strip(root: Path, arch: str) -> None:
    tool = "strip" if arch == os.uname().machine else f"{arch}-linux-gnu-strip"
    objects = [path for pattern in content.STRIPPED for path in sorted(root.glob(pattern))]
    subprocess.run([tool, "--strip-unneeded", *objects], check=True)


def _is_left_out(name: str) -> bool:
    if name.startswith("pygments/lexers/"):
        return name.rpartition("/")[2] not in content.LEXERS
    return any(fnmatch.fnmatch(name, pattern) for pattern in content.LEFT_OUT)


def _install(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    target.write_bytes(gzip.compress(data, 9, mtime=0) if target.suffix == ".gz" else data)


def _system_packages(root: Path) -> list[str]:
    """The Debian packages that the shared objects of a staged tree need; unknown ones are an error, not a surprise."""
    objects = [path for path in root.rglob("*") if path.is_file() and ".so" in path.name]
    facts = subprocess.run(["readelf", "-dW", *objects], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"NEEDED\).*\[(.*?)\]", facts))
    shipped = {path.name for path in objects}
    unknown = needed - shipped - content.SYSTEM_LIBRARIES.keys()
    if unknown:
        raise wheels.WheelError(
            f"bundled objects need {', '.join(sorted(unknown))}: name their package in deploy/deb_content.py"
        )
    return sorted({content.SYSTEM_LIBRARIES[name] for name in needed - shipped})


def _pack(root: Path, package: content.Package, arch: str, options: Options, relations: dict[str, str]) -> Path:
    project = tomllib.loads((wheelhouse.ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"] + options.revision
    epoch = _epoch()
    options.out.mkdir(parents=True, exist_ok=True)
    doc = root / "usr/share/doc" / package.name
    doc.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "copyright", doc / "copyright")
    (doc / "changelog.gz").write_bytes(gzip.compress(_changelog(package.name, version).encode(), 9, mtime=0))
    if (overrides := HERE / f"{package.name}.lintian-overrides").exists():
        _install(overrides, root / "usr/share/lintian/overrides" / package.name)
    _normalise(root, epoch)
    size_kb = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    limit_kb = content.LIMIT_KB[package.name, content.DEBIAN_ARCH[arch]]
    if size_kb > limit_kb:
        raise wheels.WheelError(f"{package.name}: {size_kb} KB installed, more than its {limit_kb} KB: what came in?")
    meta = root / "DEBIAN"
    meta.mkdir()
    long = "\n".join(f" {line}" for line in package.description.splitlines())
    fields = {
        "Package": package.name, "Version": version, "Architecture": content.DEBIAN_ARCH[arch],
        "Maintainer": content.MAINTAINER, "Installed-Size": str(size_kb), **relations, "Section": "net",
        "Priority": "optional", "Homepage": content.HOMEPAGE, "Description": f"{package.summary}\n{long}",
    }  # fmt: skip
    (meta / "control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    sums = (path for path in sorted(root.rglob("*")) if path.is_file() and meta not in path.parents)
    (meta / "md5sums").write_text(
        "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in sums)
    )
    if (root / CONFFILE).exists():
        (meta / "conffiles").write_text(f"/{CONFFILE}\n")
    for script in sorted(HERE.glob(f"{package.name}.p*")):
        shutil.copy(script, meta / script.suffix[1:])
        (meta / script.suffix[1:]).chmod(0o755)
    target = options.out / f"{package.name}_{version}_{content.DEBIAN_ARCH[arch]}.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = ["dpkg-deb", "--root-owner-group", *options.compression, "--build", str(root), str(target)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return target


def _normalise(root: Path, epoch: int) -> None:
    """The same modes and times whoever builds."""
    for path in [root, *root.rglob("*")]:
        executable = path.is_dir() or path.parent == root / "usr/bin"
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch))


def _changelog(package: str, version: str) -> str:
    date = email.utils.formatdate(_epoch())
    text = "  * See /usr/share/doc/distillnet and the project's CHANGELOG.md."
    return f"{package} ({version}) stable; urgency=medium\n\n{text}\n\n -- {content.MAINTAINER}  {date}\n"


def _epoch() -> int:
    """The time everything in a package has, in seconds: SOURCE_DATE_EPOCH, or the last commit's."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(wheelhouse.ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _next_minor(python: str) -> str:
    major, minor = python.split(".")
    return f"{major}.{int(minor) + 1}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the Debian packages of the device.")
    parser.add_argument("arch", nargs="*", help="amd64, arm64; both by default")
    parser.add_argument("--python", default=wheelhouse.PYTHON, help="the release's Python: 3.11 is Debian 12's")
    parser.add_argument("--out", type=Path, default=wheels.DIST)
    parser.add_argument("--revision", default="", help="appended to the version, for a rebuild: +1")
    parser.add_argument("--quick", action="store_true", help="little compression, for trying them out")
    arguments = parser.parse_args()
    compression = QUICK if arguments.quick else Options().compression
    options = Options(arguments.python, arguments.out, arguments.revision, compression)
    try:
        for arch in arguments.arch or MACHINES:
            for package in build(MACHINES[arch], options):
                facts = {"package": package.name, "bytes": package.stat().st_size, "installed_kb": _installed(package)}
                sys.stdout.write(json.dumps(facts) + "\n")
    except KeyError as exc:
        parser.error(f"unknown architecture {exc}: amd64 or arm64")
    except (wheels.WheelError, debian_archive.ArchiveError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


def _installed(package: Path) -> int:
    field = subprocess.run(["dpkg-deb", "-f", package, "Installed-Size"], check=True, capture_output=True, text=True)
    return int(field.stdout)


if __name__ == "__main__":
    sys.exit(main())

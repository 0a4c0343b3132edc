"""What the two Debian packages are: names, relations, what is left out of them and why."""

from typing import NamedTuple

MAINTAINER = "Distill-Net maintainers <maintainers@distillnet.invalid>"
HOMEPAGE = "https://arxiv.org/abs/1812.07390"
DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}

# Which Debian package brings a shared library that the bundled wheels ask the system for.
SYSTEM_LIBRARIES = {
    "libc.so.6": "libc6 (>= 2.34)",
    "libm.so.6": "libc6 (>= 2.34)",
    "libdl.so.2": "libc6 (>= 2.34)",
    "librt.so.1": "libc6 (>= 2.34)",
    "libpthread.so.0": "libc6 (>= 2.34)",
    "ld-linux-aarch64.so.1": "libc6 (>= 2.34)",
    "ld-linux-x86-64.so.2": "libc6 (>= 2.34)",
    "libgcc_s.so.1": "libgcc-s1",
    "libstdc++.so.6": "libstdc++6 (>= 11)",
    "libz.so.1": "zlib1g",
}

# Left out of the bundle: tests, what only building needs, accelerators that a headless board has no driver for, and
# LiteRT's second interface (compiled models) with what that alone needs: the engine falls back to its interpreter.
LEFT_OUT = (
    "*/tests/*",
    "*/test_data/*",
    "*/_examples/*",
    "*.pyi",
    "*.pxd",
    "*.pyx",
    "*.a",
    "*.h",
    "*/include/*",
    "bin/*",
    "*.sh",
    "*/.gitignore",
    "numpy/f2py/*",
    "numpy/distutils/*",
    "cv2/data/*.xml",
    "cv2/LICENSE*",
    "pydantic/v1/*",
    "numpy/_core/_simd*",
    "cffi/*",
    "pycparser/*",
    "ai_edge_litert/libLiteRt*",
    "ml_dtypes/*",
    "tqdm/*",
    "ai_edge_litert/*_pb2.py",
    "ai_edge_litert/aot/*",
    "ai_edge_litert/tools/*",
    "ai_edge_litert/vendors/*",
    "*.dist-info/RECORD",
    "*.data/*",
)


# … and the colours of languages that no board prints: these stay.
LEXERS = ("__init__.py", "_mapping.py", "python.py", "special.py")

# Symbol tables that nobody reads, 7 MB. Only objects as their linker left them: what auditwheel rewrote breaks.
STRIPPED = ("ai_edge_litert/libpywrap_litert_common.so", "cryptography/hazmat/bindings/_rust.abi3.so")

# OpenCV's wheel brings 40 MB of OpenBLAS for matrix equations that the device never solves. Debian's LAPACK has every
# function that OpenCV asks for in 8 MB, and takes over the file name by which the loader looks for it.
LAPACK = ("liblapack3", "libblas3")

# Installed size in KB that a package may have; both together, with what py3compile writes, stay below 250 MB.
LIMIT_KB = {
    ("distillnet", "arm64"): 15_000,
    ("distillnet", "amd64"): 15_000,
    ("distillnet-libs", "arm64"): 180_000,
    ("distillnet-libs", "amd64"): 230_000,
}


class Package(NamedTuple):
    """One binary package: `name`, one-line `summary`, long `description`."""

    name: str
    summary: str
    description: str


DEVICE = Package(
    "distillnet",
    "recognise a few events on camera and microphone streams",
    "A service that runs small int8 networks, distilled by Distill-Net from a big\n"
    "one, on a board: events, latencies and Home Assistant discovery over MQTT,\n"
    "signed updates with self-test and automatic rollback. This package holds the\n"
    "service, its C engine and the command distillnet; it works without a network.",
)
LIBRARIES = Package(
    "distillnet-libs",
    "Python libraries for the Distill-Net device, bundled",
    "The exact versions of NumPy, gRPC, OpenCV, LiteRT, TUF and others that the\n"
    "Distill-Net device was tested with, private to it. It changes only when one\n"
    "of them does, so that updating the device itself stays a small download.",
)

# Cross-compile the extension for aarch64 Linux: -DCMAKE_TOOLCHAIN_FILE=deploy/arm/toolchain.cmake
# The headers of the arm64 Python come from the unpacked Debian root (deploy/arm_root.py).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(CMAKE_C_COMPILER NAMES aarch64-linux-gnu-gcc-12 aarch64-linux-gnu-gcc REQUIRED)
set(ARM64_ROOT "${CMAKE_CURRENT_LIST_DIR}/../../build/arm64-root" CACHE PATH "unpacked arm64 Debian")
set(Python_INCLUDE_DIR "${ARM64_ROOT}/usr/include/python3.11" CACHE PATH "")

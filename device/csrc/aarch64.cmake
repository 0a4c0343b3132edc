# Cross-compile the C tests for aarch64 and run them under qemu-user:
#   cmake -S . -B build/arm -DCMAKE_TOOLCHAIN_FILE=device/csrc/aarch64.cmake -DDN_QEMU_CPU=cortex-a53
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(CMAKE_C_COMPILER NAMES aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc-12 REQUIRED)
set(DN_QEMU_CPU max CACHE STRING "What qemu-aarch64 pretends to be: cortex-a53, cortex-a72, max")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DN_QEMU_CPU)
find_program(DN_QEMU NAMES qemu-aarch64 qemu-aarch64-static REQUIRED)
set(CMAKE_CROSSCOMPILING_EMULATOR ${DN_QEMU} -cpu ${DN_QEMU_CPU})
set(CMAKE_EXE_LINKER_FLAGS_INIT -static) # no arm64 root is needed

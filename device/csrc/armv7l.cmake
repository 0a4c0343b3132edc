# The same for 32-bit ARM, where the engine has its scalar kernels alone.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
find_program(CMAKE_C_COMPILER NAMES arm-linux-gnueabihf-gcc arm-linux-gnueabihf-gcc-12 REQUIRED)
set(DN_QEMU_CPU max CACHE STRING "What qemu-arm pretends to be: cortex-a7, max")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DN_QEMU_CPU)
find_program(DN_QEMU NAMES qemu-arm qemu-arm-static REQUIRED)
set(CMAKE_CROSSCOMPILING_EMULATOR ${DN_QEMU} -cpu ${DN_QEMU_CPU})
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_C_FLAGS_INIT -D_FILE_OFFSET_BITS=64) # the host's inode numbers are wider than 32 bits

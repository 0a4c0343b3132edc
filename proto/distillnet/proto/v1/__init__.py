"""Generated gRPC stubs of `distillnet.v1`; `make stubs` regenerates them and a test compares."""

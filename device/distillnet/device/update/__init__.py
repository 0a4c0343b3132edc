"""Model updates: a board's identity, the trusted fetch, the slots, and the state machine that cannot brick it.

`UpdateService` (service.py) wires it and is all the daemon knows, with `startup_student`.
"""

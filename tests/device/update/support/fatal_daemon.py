"""`distillnet run`, where students with certain seeds kill the process, as a fault in the engine would.

python fatal_daemon.py DEVICE_FILE
"""

import dataclasses
import os
import signal
import sys
import threading

from distillnet.device.update import admission
from distillnet.engine.student import Student

SEGFAULT, OUT_OF_MEMORY, HANG, AT_LOAD = 2001, 2002, 2003, 2004
_FRAMES = 5


@dataclasses.dataclass
class Fatal:
    """A model that passes its self-test and kills the process on the stream."""

    model: object
    seed: int
    frames_left: int

    @property
    def info(self):
        return self.model.info

    def run_tensor(self, x):
        return self.model.run_tensor(x)

    def look(self, frame, preparation):
        if self.frames_left <= 0:
            self._die()
        self.frames_left -= 1
        return self.model.look(frame, preparation)

    def _die(self):
        if self.seed == HANG:
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGSEGV if self.seed == SEGFAULT else signal.SIGKILL)
        raise AssertionError("survived")


def arm() -> None:
    """Make such students fatal, wherever the daemon loads them."""
    load = Student.load.__func__

    def loaded(cls, data, **options):
        student = load(cls, data, **options)
        seed = student.card.seed
        if seed == AT_LOAD:
            os.kill(os.getpid(), signal.SIGSEGV)
        if seed in (SEGFAULT, OUT_OF_MEMORY, HANG):
            return dataclasses.replace(student, model=Fatal(student.model, seed, _FRAMES))
        return student

    Student.load = classmethod(loaded)


if __name__ == "__main__":
    arm()
    admission.try_apart = lambda *_, **__: None
    from distillnet.device.cli import main

    sys.argv = ["distillnet", "run", sys.argv[1]]
    main()

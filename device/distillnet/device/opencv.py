"""OpenCV, loaded when it is first used: a board that only hears never pays its 16 MB. `from … import cv2`.

It is told to stay within the thread that calls it: the daemon's threads are the daemon's affair.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cv2
else:

    class _Later:
        """Stands for the module until one of its names is asked for."""

        def __getattr__(self, name: str) -> Any:
            import cv2 as loaded

            if not self.__dict__:
                loaded.setNumThreads(1)
                self.__dict__.update({key: value for key, value in vars(loaded).items() if not key.startswith("__")})
            return getattr(loaded, name)

    cv2 = _Later()

__all__ = ["cv2"]

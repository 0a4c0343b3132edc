"""Sound sources as the daemon reads them."""

import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distillnet.device.config import Source
from distillnet.device.sound import readers
from distillnet.device.sound.readers import FileReader, Microphone, is_sound, open_sound_reader
from distillnet.engine.sound import SoundError


def wav(path: Path, seconds: float, rate: int = 44100) -> Path:
    samples = (np.sin(np.arange(int(seconds * rate)) * 0.1) * 12000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


class FakeCard:
    """A sound card that plays what the test says."""

    def __init__(self) -> None:
        self.closed = False
        self.heard: Callable[[np.ndarray, bool], None] = lambda samples, lost: None

    def open(self, device: str, heard: Callable[[np.ndarray, bool], None]) -> tuple["FakeCard", int]:
        self.heard = heard
        return self, 16000

    def start(self) -> None:
        self.heard(np.zeros(0, np.float32), False)

    def close(self) -> None:
        self.closed = True


def test_a_file_comes_in_tenths_of_a_second_with_their_places(tmp_path: Path) -> None:
    reader = FileReader(wav(tmp_path / "a.wav", 0.25))
    pieces = []
    while (piece := reader.read()) is not None:
        pieces.append(piece)
    reader.close()
    assert [len(piece.samples) for piece in pieces] == [4410, 4410, 2205]
    assert [piece.position_s for piece in pieces] == pytest.approx([0.0, 0.1, 0.2])
    assert {piece.rate_hz for piece in pieces} == {44100}


def test_sources_that_are_heard_are_known_by_kind_or_name() -> None:
    assert is_sound(Source(id="a", url="default", kind="microphone"))
    assert is_sound(Source(id="a", url="door.FLAC"))
    assert not is_sound(Source(id="a", url="door.mp4"))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SoundError, match="cannot be opened"):
        open_sound_reader(Source(id="a", url=str(tmp_path / "none.wav")))


def test_a_stall_of_five_seconds_loses_nothing() -> None:
    card = FakeCard()
    microphone = Microphone("default", 0.0, card.open)
    for second in range(5):
        card.heard(np.full(16000, second, np.float32), False)
    pieces = [microphone.read() for _ in range(50)]
    assert all(piece is not None and piece.lost == 0 for piece in pieces)
    assert microphone.overruns == 0
    assert microphone.read() is None
    microphone.close()
    assert card.closed


def test_an_overflow_of_the_driver_is_counted() -> None:
    card = FakeCard()
    microphone = Microphone("default", 0.0, card.open)
    card.heard(np.zeros(1600, np.float32), True)
    piece = microphone.read()
    assert piece is not None
    assert (piece.lost, microphone.overruns) == (1, 1)


class FakeLibrary:
    """PortAudio with one microphone: stereo, 44.1 kHz, nothing else; it may refuse to start."""

    class PortAudioError(Exception):
        pass

    def __init__(self, *, starts: bool = True) -> None:
        self.began = 0
        self.callback: Callable[..., None] = lambda *_: None
        self.closed = 0
        self._starts = starts

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        self.began += 1

    def query_devices(self, device: object, kind: str) -> dict[str, object]:
        return {"default_samplerate": 44100.0, "max_input_channels": 2}

    def InputStream(
        self, *, samplerate: int, channels: int, callback: Callable[..., None], **_: object
    ) -> "FakeLibrary":
        if (samplerate, channels) != (44100, 2):
            raise self.PortAudioError("Invalid sample rate")
        self.callback = callback
        return self

    def start(self) -> None:
        if not self._starts:
            raise self.PortAudioError("Device unavailable")

    def close(self) -> None:
        self.closed += 1
        raise self.PortAudioError("it was unplugged")


def test_a_microphone_of_another_rate_and_two_channels_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(readers, "_library", lambda device: library)
    microphone = Microphone("usb", 0.0)
    both = np.stack([np.full(4410, 0.2), np.full(4410, 0.4)], 1).astype(np.float32)
    library.callback(both, 4410, None, SimpleNamespace(input_overflow=True))
    piece = microphone.read()
    assert piece is not None and (piece.rate_hz, len(piece.samples), piece.lost) == (44100, 4410, 1)
    np.testing.assert_allclose(piece.samples, 0.3, rtol=1e-6)
    microphone.close()  # what an unplugged device says to that is nobody's concern
    Microphone("usb", 0.0).close()
    assert (library.closed, library.began) == (2, 2)  # the list of devices is read anew while none is open


def test_a_microphone_that_does_not_start_says_so_and_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary(starts=False)
    monkeypatch.setattr(readers, "_library", lambda device: library)
    with pytest.raises(SoundError, match="does not start: Device unavailable"):
        Microphone("usb", 0.0)
    assert library.closed == 1


def test_a_microphone_that_is_not_there_says_which_are() -> None:
    with pytest.raises(SoundError, match="no such microphone'"):
        open_sound_reader(Source(id="a", url="no such microphone", kind="microphone"))

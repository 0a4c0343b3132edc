"""Keywords said by a speech synthesiser, for events nobody has recorded yet: synthetic, and reported as such.

espeak-ng speaks in many voices, speeds and pitches. A voice is a group: no split has the same voice on both sides.
Invented words are said beside the keywords and are `other`, lest a student takes any speech for them.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillnet.cloud.audio.clips import Clip, read_recording
from distillnet.proto.strict import ConfigError

VOICES = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "croak")
"""espeak-ng's variants of a language's voice."""
TAKES = 4
"""Of a phrase by one voice, each at its own speed and pitch."""
OTHER_WORDS = "(other words)"
_SPEEDS, _PITCHES = (110, 210), (20, 80)
_ONSETS, _VOWELS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), ("a", "e", "i", "o", "u")


def spoken(keywords: Sequence[tuple[str, Sequence[str]]], *, language: str, seed: int) -> list[Clip]:
    """Have every phrase of every event said, and as many invented words.

    Args:
        keywords: events and their phrases.
        language: as espeak-ng names it, e.g. "en-us" or "de".
        seed: of speeds, pitches and invented words.

    Returns:
        `TAKES` clips of each phrase by each voice, labelled with the event; `OTHER_WORDS` for the invented ones.

    Raises:
        ConfigError: espeak-ng is missing, or does not know the language.

    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise ConfigError("an event is to be said by a speech synthesiser: apt install espeak-ng")
    known = subprocess.run([program, "--voices"], capture_output=True, text=True, timeout=30, check=False).stdout
    languages = sorted({line.split()[1] for line in known.splitlines()[1:]})
    if language not in languages:  # it would speak another one without a word
        raise ConfigError(f"[data] language {language!r}: espeak-ng speaks {', '.join(languages)}")
    rng = np.random.default_rng(seed)
    clips = []
    with tempfile.TemporaryDirectory(prefix="distillnet-speech-") as folder:
        for event, phrases in keywords:
            for phrase in phrases:
                for voice in VOICES:
                    for take in range(TAKES):
                        for label, words in ((event, phrase), (OTHER_WORDS, _invented(rng))):
                            path = Path(folder) / "said.wav"
                            _say(program, f"{language}+{voice}", words, path, rng)
                            name = Path(f"{label}-{phrase}-{voice}-{take}.wav")
                            clips.append(Clip(name, label, f"voice {voice}", read_recording(path), synthetic=True))
    return clips


def _say(program: str, voice: str, words: str, path: Path, rng: np.random.Generator) -> None:
    speed, pitch = int(rng.integers(*_SPEEDS)), int(rng.integers(*_PITCHES))
    command = [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path), "--", words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0 or not path.is_file():
        reason = done.stderr.strip().splitlines()[-1:] or ["no sound"]
        raise ConfigError(f"espeak-ng does not say {words!r} with voice {voice!r}: {reason[0]}")


def _invented(rng: np.random.Generator) -> str:
    return "".join(str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) for _ in range(int(rng.integers(2, 5))))

"""What was said in a sound: windows of it one after another, each from where the text before it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.audio import LogMel, read_wav, resample
from attnlib.errors import UsageError
from attnlib.generate import generate
from attnlib.generate.defaults import choose
from attnlib.generate.prompts import evaluating
from attnlib.generate.sources import listens
from attnlib.pretrained.sound import front_of
from attnlib.tasks.ready import Ready
from attnlib.tasks.speech import ANSWERED, Speech

Sound = str | Path | tuple[Tensor, int]


class Segment(NamedTuple):
    """A stretch of a sound: seconds from its beginning, the text said there, and its tokens, times among them."""

    start: float
    end: float
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Transcript:
    """The text of a sound, the stretches it was read in, and the language it was read as, if one was named or found."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens written, those of the prompt and eos left out."""
        return tuple(i for segment in self.segments for i in segment.ids)


def transcribe(
    ready: Ready, sounds: Sequence[Sound], *, language: str | None = None, task: str | None = None,
    timestamps: bool = False, **choices: Any,
) -> list[Transcript]:  # fmt: skip
    """The text of each sound: a WAV file's path, or (samples [N] or [channels, N] in [-1, 1], samples a second).

    language    its code ("en"), None = what the model's config says, else what the model takes the first window for
    task        "transcribe", or "translate" into English; None = as the model's config says
    timestamps  whether the model is to say when: each segment is then what it marked as one
    choices     fields of `attnlib.generate.Sampling` over those of the model

    Channels are averaged and rates changed to the model's. A sound that is longer than a window is read with times, and
    the next window begins where the last whole segment ended (Radford et al. 2022, section 3.8); without the paper's
    second tries at higher temperatures, and without the text before as a prompt, as transformers does by default. A model
    without times reads such a sound in windows end to end.

    UsageError for a model that does not listen and for unknown languages and tasks; DataError for files that are no WAV.
    """
    return [Listener(ready, language, task, timestamps, choices).transcript(sound) for sound in sounds]


class Listener:
    """One model with what is asked of it; `segments` gives those of a sound as they come."""

    def __init__(
        self, ready: Ready, language: str | None, task: str | None, timestamps: bool, choices: dict[str, Any]
    ) -> None:
        if not listens(ready.model):
            raise UsageError("model", "does not listen", "wish an encoder-decoder over features of sound")
        for name in {"n", "stop", "decoder_prompt", "start"} & choices.keys():
            raise UsageError(name, f"is {choices[name]!r}", "is not chosen in a transcription")
        self.ready, self.asked, self.timestamps, self.choices = ready, (language, task), timestamps, choices
        self.front, self.speech = _front(ready), Speech.of(ready)
        self.language: str | None = None  # of the last sound
        self.speech.prompt(language, task, times=timestamps)
        if timestamps and self.speech.no_times is None:
            raise UsageError("timestamps", "are asked for", "this model names no token that is a time")

    def transcript(self, sound: Sound) -> Transcript:
        found = tuple(self.segments(sound))
        return Transcript(self._text([i for one in found for i in one.ids]).strip(), found, self.language)

    def segments(self, sound: Sound) -> Iterator[Segment]:
        """What is said in a sound, stretch by stretch."""
        features, frames = self._features(_samples(sound, self.front.rate))
        times = self.timestamps or (frames > self.front.frames and self.speech.no_times is not None)
        prompt, at = self._prompt(features, times), 0
        chosen = self._chosen(len(prompt), times)
        second = self.front.rate / self.front.hop  # frames of one
        while at < frames:
            window = _window(features, at, self.front.frames)
            made = generate(self.ready.model, window[None], decoder_prompts=[prompt], start=prompt[0], sampling=chosen)[0]
            ids = made.ids[:-1] if made.finish_reason == "eos" else made.ids
            known = self.speech.first_time if times or not self.speech.spare else None
            pieces, step = self._cut(ids, known, min(frames - at, self.front.frames))
            for start, end, piece in pieces:  # a time may lie in the silence after the end
                begun, ended = (min(at + place, frames) / second for place in (start, end))
                yield Segment(begun, ended, self._text(piece), tuple(piece))
            at += step

    def _features(self, samples: Tensor) -> tuple[Tensor, int]:
        """[channels, frames] and how many of the frames are of the sound, not of silence that fills a window."""
        short = len(samples) <= self.front.samples
        features = self.front(self.front.windows(samples)[0] if short else samples)
        return features, -(-len(samples) // self.front.hop) if short else features.shape[1]

    def _prompt(self, features: Tensor, times: bool) -> list[int]:
        tokens = self.speech.prompt(*self.asked, times=times)
        if None in tokens:
            heard = self._hear(_window(features, 0, self.front.frames))
            tokens = [heard if token is None else token for token in tokens]
        self.language = next((name for name, i in self.speech.languages.items() if i in tokens), None)
        return [token for token in tokens if token is not None]

    def _hear(self, window: Tensor) -> int:
        """The language that the model takes a window for: the likeliest after the start token."""
        model, ids = self.ready.model, torch.tensor(sorted(self.speech.languages.values()), device=self.ready.device)
        weight = next(model.parameters())
        with torch.inference_mode(), evaluating(model):
            state = model.begin(window[None].to(weight.device, weight.dtype))
            logits = model.step(torch.tensor([[self.speech.start]], device=weight.device), None, state)[0, -1]
        return int(ids[logits[ids].argmax()])

    def _chosen(self, held: int, times: bool) -> Any:
        """The choices of a window: of the call, of the folder, and as much text as the model has positions for."""
        tree, most = self.speech.tree, self.ready.model.max_length
        told = tree.get("max_new_tokens") or tree.get("max_length")
        room = None if most is None else most - held
        bound = {"max_new_tokens": min(b for b in (told, room) if b is not None)} if told or room else {}
        rule = {"time_stamps": {"first": self.speech.first_time, "latest": tree.get("max_initial_timestamp_index")}}
        asked = {**({} if {"max_new_tokens", "max_length"} & self.choices.keys() else bound), **(rule if times else {})}
        return choose(self.ready.model, None, {**asked, **self.choices}, words=dict.fromkeys(ANSWERED))

    def _cut(self, ids: Sequence[int], first: int | None, taken: int) -> tuple[list[tuple[int, int, Sequence[int]]], int]:
        """(first frame, frame after the last, tokens) of each segment of a window, and how far the next window is.

        first: the token of 0 seconds; None = no times are known.

        A pair of times ends a segment and begins the next. What follows the last pair is left to the next window, unless
        a time alone says that nothing more was said in this one.
        """
        stride = self.ready.model.features.stride
        times = [first is not None and i >= first for i in ids]
        cuts = [i for i in range(1, len(ids)) if times[i - 1] and times[i]]
        frame = [(i - (first or 0)) * stride for i in ids]
        if not cuts:
            last = next((place for place, time in zip(frame[::-1], times[::-1]) if time), 0)
            return [(0, last or taken, ids)], taken
        whole = times[-2:] == [False, True]
        ends = [*cuts, len(ids)] if whole else cuts
        pieces = [(frame[a], frame[b - 1], ids[a:b]) for a, b in zip([0, *ends], ends)]
        if whole:
            return pieces, taken
        start, end, piece = pieces[-1]
        pieces[-1] = start, end, (*piece, ids[ends[-1]])  # with the time that the next would begin at
        return pieces, end or taken

    def _text(self, ids: Sequence[int]) -> str:
        first = self.speech.first_time
        return self.ready.tokenizer.decode([i for i in ids if first is None or i < first])


def _front(ready: Ready) -> LogMel:
    """The features that the folder's files ask for, which must be what the model reads."""
    features = ready.model.features
    plain, places = LogMel(channels=features.channels), features.max_length
    seconds = plain.seconds if places is None else places * features.stride * plain.hop / plain.rate
    plain = plain.replace(seconds=seconds)
    front = plain if ready.folder is None else front_of(ready.folder, plain)
    wished = (features.channels, front.frames if places is None else places * features.stride)
    if (front.channels, front.frames) != wished:
        raise UsageError("features of sound", f"are {front.channels} x {front.frames} frames as the folder's files say",
                         f"the model reads {wished[0]} x {wished[1]}")  # fmt: skip
    return front


def _samples(sound: Sound, rate: int) -> Tensor:
    """[N] at this rate, one channel."""
    samples, given = read_wav(sound) if isinstance(sound, str | Path) else sound
    return resample(samples.float().mean(0) if samples.dim() == 2 else samples.float(), given, rate)


def _window(features: Tensor, at: int, width: int) -> Tensor:
    """`width` frames from `at`; zeros after the last, as the field has it, though silence is less."""
    cut = features[:, at : at + width]
    return torch.nn.functional.pad(cut, (0, width - cut.shape[1]))

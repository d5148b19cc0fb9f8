"""attnlib transcribe: what was said in files of sound."""

from __future__ import annotations

import argparse

from attnlib.cli.choices import by_option, choice_arguments, given_choices
from attnlib.cli.common import model_argument, open_model, runtime_arguments

HELP = "the text of WAV files by a model that listens, a line each, or with times"


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("files", metavar="FILE.wav", nargs="+", help="sounds of any rate, length and number of channels")
    parser.add_argument("--language", metavar="CODE", help="that is spoken, such as en (default: the model's, or found out)")
    parser.add_argument("--task", metavar="NAME", help="transcribe, or translate into English")
    parser.add_argument("--timestamps", action="store_true", help="a line a stretch of speech, with its times")
    choice_arguments(parser)
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.tasks.transcribing import Listener

    given = given_choices(args)
    with by_option():
        listener = Listener(open_model(args).ready(), args.language, args.task, args.timestamps, given)
        for file in args.files:
            if not args.timestamps:
                print(" ".join(listener.transcript(file).text.split()), flush=True)
                continue
            if len(args.files) > 1:
                print(file)
            for one in listener.segments(file):
                print(f"[{_clock(one.start)} - {_clock(one.end)}]  {' '.join(one.text.split())}", flush=True)
    return 0


def _clock(seconds: float) -> str:
    """mm:ss.hh, with hours where there are some."""
    minutes, rest = divmod(round(seconds * 100), 6000)
    hours = f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else f"{minutes:02}"
    return f"{hours}:{rest // 100:02}.{rest % 100:02}"

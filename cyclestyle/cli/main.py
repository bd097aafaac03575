"""The `cyclestyle` command: picks the verb, and turns errors into one line on stderr and an exit code.

Each verb is a file beside this one with `SUMMARY`, `add_arguments(parser)` and `run(args) -> int`. Nothing heavy is
imported before a verb runs, so that `--help` answers at once.

Exit codes: 0 all done; 1 done, but some inputs failed; 2 the user's mistake; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn, TextIO

from cyclestyle import __version__
from cyclestyle.cli import compare, config, evaluate, export, import_, plan, report, runs, samples, train, translate
from cyclestyle.errors import CyclestyleError

VERBS = {
    "train": train,
    "plan": plan,
    "translate": translate,
    "evaluate": evaluate,
    "report": report,
    "runs": runs,
    "compare": compare,
    "samples": samples,
    "config": config,
    "import": import_,
    "export": export,
}

USER_MISTAKE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; `--help` and flags that make no sense exit by themselves."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS[_command_parser().parse_args(words[:1]).verb]
    # Not argparse's own sub-commands: these cannot take key=value both before and after flags.
    args = _verb_parser(words[0]).parse_intermixed_args(words[1:])
    with contextlib.redirect_stderr(_Unbreakable(sys.stderr)):
        _show_messages()
        return _run(verb, args)


def _run(verb: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = verb.run(args)
        if sys.stdout is not None:  # None: closed from the start
            sys.stdout.flush()  # a pipe that was closed shows here, while it can still be handled
        return code
    except CyclestyleError as error:
        return _stop(f"error: {_one_line(str(error))}", USER_MISTAKE, args.debug)
    except KeyboardInterrupt:
        return _stop("stopped", INTERRUPTED, args.debug)
    except BrokenPipeError:
        # The reader of our output (head, less) has what it wanted; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Unbreakable(io.TextIOBase):
    """stderr that may be closed, full or absent: what is said there is for people, and never ends a training."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        except (OSError, ValueError):
            # Nobody reads any more; what is left in the buffer would fail again when Python flushes it at exit.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # tqdm draws a finer bar where this is UTF-8
        return "utf-8" if self._stream is None else self._stream.encoding

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()


class _Lines(logging.Formatter):
    """What the library says on the way: plain lines, warnings marked as such."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno < logging.WARNING:
            return record.getMessage()  # tables keep their columns
        return f"{record.levelname.lower()}: {_one_line(record.getMessage())}"


def _show_messages() -> None:
    """Send the library's messages to stderr, so that stdout holds results alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logger = logging.getLogger("cyclestyle")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Parser(argparse.ArgumentParser):
    """argparse with one line and a hint in place of the whole usage block."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: --") and "=" in message and "." in message:
            message += "; settings have no dashes: train.steps=1000"
        self.exit(USER_MISTAKE, f"error: {_one_line(message)} (see {self.prog} --help)\n")


def _command_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:{width}}{verb.SUMMARY}" for name, verb in VERBS.items()]
    parser = _Parser(
        prog="cyclestyle",
        usage="cyclestyle VERB ...",
        description="Learns to turn pictures of one kind into another from two unpaired folders of images.",
        epilog="\n".join(["verbs:", *lines, "", "cyclestyle VERB --help explains each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cyclestyle {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=tuple(VERBS), help="what to do; see below")
    return parser


def _verb_parser(name: str) -> argparse.ArgumentParser:
    verb = VERBS[name]
    parser = _Parser(prog=f"cyclestyle {name}", description=f"{verb.SUMMARY}.", allow_abbrev=False)
    verb.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error comes from (the traceback)")
    return parser


def _stop(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(line, file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """Without what a file's name could do to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())

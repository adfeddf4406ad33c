"""Errors that the command line reports in one line."""

from __future__ import annotations

from collections.abc import Iterator


def first_line(error: BaseException) -> str:
    """Return an exception's message in one line; its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that caused it, the nearest first."""
    seen = set[int]()  # an error may be raised again while its own consequence is handled
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: of Python, or in a RuntimeError of torch or JAX."""
    is_of_library = isinstance(error, RuntimeError) and "allocate" in str(error)
    return is_of_library or isinstance(error, MemoryError)


class UserError(Exception):
    """A mistake in the user's input: configuration, data set, environment or path.

    The message is one line that names what is wrong, where, and what is allowed. Command-line
    entries print that line and exit with status 2 (:mod:`bcq_exp.cli`); anything else that is
    raised is a bug of bcq_exp and keeps its traceback.
    """


class Damaged(UserError):
    """A file of bcq_exp that is truncated, corrupt or missing.

    Args:
        what: the file, and what is wrong with it.
        advice: how to continue the run.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.what, self.advice = what, advice

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what


class RunStopped(Exception):
    """A run that ended early; its files are in place.

    Args:
        status: exit status: 1 where the run failed, 128 + n where signal n stopped it.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def by_signal(self) -> bool:
        """Whether a signal stopped it, which also ends a sweep."""
        return self.status > 128

    def __reduce__(self) -> tuple:  # launchers pickle the errors of jobs
        return type(self), (str(self), self.status)


class CannotWrite(RunStopped):
    """A file that cannot be written: a full disk, a missing folder."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message, status)

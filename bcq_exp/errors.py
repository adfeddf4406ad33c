"""Errors that the command line turns into one line."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class UserError(Exception):
    """A mistake in what the user asked for: configuration, data set, environment or path.

    The message is one line that names what is wrong, where, and what is allowed. Command-line
    entries print that line and exit with status 2 (:mod:`bcq_exp.cli`); anything else that is
    raised is a defect of ours and keeps its traceback.
    """


class Damaged(UserError):
    """A file of ours that is not what we wrote: cut, garbled or gone.

    Args:
        what: the file, and what is wrong with it.
        advice: what a run that is to go on can do.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.what, self.advice = what, advice

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what


class RunStopped(Exception):
    """A run that ended before its time, with everything it wrote in place.

    Args:
        status: exit status: 1 where the run failed, 128 + n where signal n stopped it.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def by_signal(self) -> bool:
        """Whether a signal stopped it, which ends a sweep as well."""
        return self.status > 128

    def __reduce__(self) -> tuple:  # launchers pickle what a job raised
        return type(self), (str(self), self.status)


class CannotWrite(RunStopped):
    """A file that the system does not let us write: a full disk, a folder that is gone."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message, status)

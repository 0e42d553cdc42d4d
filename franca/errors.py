"""The exceptions that stand for a user's mistake, a fault outside the program, or a wish to stop."""


class FrancaError(Exception):
    """A user error in one line: what failed, where, and how to fix it. The command line exits with `exit_code`."""

    exit_code = 2


class Stopped(FrancaError):
    """A command was asked to stop, has saved its state and can be run again (75: EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class Outdated(FrancaError):
    """A check found a file that a command would change."""

    exit_code = 1

"""Exceptions that the command line reports in one line, without a traceback."""


class FrancaError(Exception):
    """A user error in one line: what failed, where, and how to fix it. The command line exits with `exit_code`."""

    exit_code = 2


class Stopped(FrancaError):
    """A command was stopped by a signal, has saved its state and can be run again.

    The exit code is EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class Outdated(FrancaError):
    """A check found a file that a command would change."""

    exit_code = 1


class Unhealthy(FrancaError):
    """`franca doctor` found a problem."""

    exit_code = 1


class GatesFailed(FrancaError):
    """A model version may not become the champion: it failed its gates, was rejected, or was replaced before."""

    exit_code = 3


class ApprovalNeeded(FrancaError):
    """A model version passed its gates and waits for a person's decision."""

    exit_code = 4


class DriftFound(FrancaError):
    """New images differ from the training images."""

    exit_code = 4


class NotReproduced(FrancaError):
    """A recorded run could be repeated, but with other results."""

    exit_code = 3

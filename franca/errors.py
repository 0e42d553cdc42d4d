"""The one exception that stands for a user's mistake or a fault outside the program."""


class FrancaError(Exception):
    """A fault told in one line: the thing, the place and the mend. The command line exits with code 2."""

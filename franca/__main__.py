"""`python -m franca`: the `franca` command with the code of the current folder."""

from franca.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m callboard.cli`: the command line of the interpreter that is running, wherever its script is."""

from callboard.cli.main import main

if __name__ == "__main__":
    main()

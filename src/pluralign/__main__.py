"""`python -m pluralign`."""

from pluralign.cli.main import main

if __name__ == "__main__":
    main()

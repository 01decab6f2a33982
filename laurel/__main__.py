"""`python -m laurel`."""

from laurel.cli import main

main()

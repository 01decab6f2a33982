"""One module per group of commands; laurel/cli.py lists them."""

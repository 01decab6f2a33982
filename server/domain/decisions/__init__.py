"""One module per kind of command: what it does to wallets, or why it is refused."""

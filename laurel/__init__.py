"""The `laurel` command and the local stack."""

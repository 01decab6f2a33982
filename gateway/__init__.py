"""The REST shim over the contracts' google.api.http annotations. Empty until it works."""

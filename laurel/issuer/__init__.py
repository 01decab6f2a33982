"""The local stack's own issuer of tokens, with demo users who need no password.

It exists so that logins, tokens and step-up can be tried without a Keycloak. It is never
mounted where a real issuer is configured, nor where others than this machine reach it.
"""

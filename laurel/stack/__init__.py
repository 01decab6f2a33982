"""PostgreSQL, Redis and the server as child processes of `laurel up` and of the tests."""

"""SQL, one module per noun. The only package that knows the database."""

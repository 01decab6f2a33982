"""An OpenAPI 3.1 document of whatever the shim serves, and a page to try it in."""

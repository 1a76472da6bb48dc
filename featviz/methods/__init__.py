"""One method a file; what only one of them uses begins with an underscore."""

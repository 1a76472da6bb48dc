"""Whether pictures of units can be trusted, measured: one measure a file, and `check` over all."""

"""The options of each command, one a module: nothing here needs torch, so that help answers at once."""

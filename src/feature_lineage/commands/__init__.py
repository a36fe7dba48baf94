"""Commands of `feature-lineage`, each a module with `arguments` and `run`; see `cli.COMMANDS`."""

"""The command line: a file a verb; the only place where errors become messages and exit codes."""

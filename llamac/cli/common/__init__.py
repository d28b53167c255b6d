"""Options, help, output files and error messages that commands share."""

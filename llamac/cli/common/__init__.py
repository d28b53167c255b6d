"""Options, help, files and error messages that commands share."""

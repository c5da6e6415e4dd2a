"""What enters: atomic files and their checks, histories, item text."""

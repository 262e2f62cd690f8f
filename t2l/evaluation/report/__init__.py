"""The report of an evaluation: tables, figures, one page."""

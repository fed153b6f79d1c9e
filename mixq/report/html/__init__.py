"""The report: one page that holds all of a run and fetches nothing."""

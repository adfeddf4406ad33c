"""Section 6 of the BCQ paper: experiments, prechecks, duration, results (run_tables, claims), page
(curves, table)."""

"""Section 6 of the BCQ paper: what it takes (plan), how long (estimate), what came of it (results,
claims, figures, page)."""

"""Ways in and out of Perdure: HTTP now; others as they come."""

"""What a process tells of itself while it works: counts, spans, and what watches them."""

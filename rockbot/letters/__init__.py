"""Dead letters as a service: found, grouped, read, mended, sent on, put away, with a record of who did what."""

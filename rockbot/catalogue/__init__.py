"""Models: what there is under which name, which one a call goes to and why, and what it costs."""

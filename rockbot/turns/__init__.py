"""Turns as people look at them: what was asked, what happened step by step, where it hangs, and how to go on from any step."""

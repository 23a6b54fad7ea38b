"""Function tools: calls of toolsets become calls of their functions, each made once, bounded, and answered."""

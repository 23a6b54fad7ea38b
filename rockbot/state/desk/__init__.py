"""What an operator does with a whole store: look after it, carry it elsewhere, make it forget."""

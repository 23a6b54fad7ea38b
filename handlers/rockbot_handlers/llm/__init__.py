"""Model calls: one per message, journaled, by whichever provider an agent's model names."""
